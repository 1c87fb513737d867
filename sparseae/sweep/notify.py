"""``notify:`` tells somebody of a sweep's end, its first failure and its stalls.

A URL gets a small JSON POST, whose key ``text`` is what Slack, Mattermost and others show; anything
else is a command for the shell, which gets the same JSON on its standard input. Either is done
beside the run, which never waits for it but for some seconds at its end. What the key holds may be
a secret and is written nowhere: not in ``sweep.yaml``, in no log, in no message.
"""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from sparseae.errors import RequestError, first_line

#: Seconds that one message may take, that all of them get at a run's end, and how many may wait.
_TIMEOUT, _AT_END, _WAITING = 10.0, 15.0, 100

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

#: A URL, or what was meant to be one.
_URL = re.compile(r"\w+://")


def is_reference(target: str) -> bool:
    """Whether it is the name of a variable of the environment alone, and so no secret."""
    return _VARIABLE.fullmatch(target.strip()) is not None


def _resolved(target: str) -> str:
    """The URL or command, from the environment where it is named there.

    Raises:
        RequestError: if the variable is not set, or a URL is not HTTP.
    """
    found = _VARIABLE.fullmatch(target.strip())
    if found is not None:
        name = found[1] or found[2]
        target = os.environ.get(name, "")
        if not target.strip():
            raise RequestError(f"notify: ${name} is not set in the environment of the run")
    target = target.strip()
    if _URL.match(target) and urlsplit(target).scheme not in ("http", "https"):
        raise RequestError(
            "notify: must be an http:// or https:// URL, a command, or $NAME of a variable"
        )
    return target


class Notifier:
    """Tells what happened to a sweep, beside the run.

    Args:
        target: what stands under ``notify:``; None tells nobody.
        sweep: the sweep's name.
        note: is told, once, that nobody could be told.

    Raises:
        RequestError: see `_resolved`.
    """

    def __init__(self, target: str | None, sweep: str, note: Callable[[str], None]) -> None:
        self._target = None if target is None else _resolved(target)
        self._about = {"sweep": sweep, "host": socket.gethostname()}
        self._note = note
        self._failed = False
        self._told: set[str] = set()
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="sparseae-notify", daemon=True)
        if self._target is not None:
            self._thread.start()

    def failed(self, message: str) -> None:
        """Something failed: said of the first failure alone."""
        if "failed" not in self._told:
            self._send("failed", message)

    def stalled(self, message: str) -> None:
        """Nothing trains."""
        self._send("stalled", message)

    def ended(self, message: str, **numbers: int) -> None:
        """The run is over; wait some seconds until that is told."""
        self._send("ended", message, **numbers)
        if self._target is not None:
            try:
                self._queue.put(None, timeout=1)
            except queue.Full:
                return
            self._thread.join(_AT_END)

    def _send(self, event: str, message: str, **numbers: int) -> None:
        self._told.add(event)
        if self._target is None:
            return
        text = f"{self._about['sweep']}: {message}"
        body = {"event": event, "text": text, **self._about, "time": int(time.time()), **numbers}
        try:
            self._queue.put_nowait(body)
        except queue.Full:
            self._could_not("too many messages wait")

    def _work(self) -> None:
        while (body := self._queue.get()) is not None:
            try:
                self._deliver(json.dumps(body).encode())
            except Exception as error:  # whatever it is, a run goes on
                self._could_not(_public(error))

    def _deliver(self, body: bytes) -> None:
        target = self._target or ""
        if _URL.match(target):
            headers = {"Content-Type": "application/json", "User-Agent": "sparseae"}
            request = urllib.request.Request(target, body, headers)
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                answer.read(1)
            return
        done = subprocess.run(
            target, shell=True, input=body, timeout=_TIMEOUT, check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}")

    def _could_not(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            self._note(f"notify: nobody could be told: {why}")


def _public(error: Exception) -> str:
    """What went wrong, without the URL or the command, which an error's words may repeat."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    reason = getattr(error, "reason", error)
    if isinstance(error, subprocess.TimeoutExpired) or isinstance(reason, TimeoutError):
        return f"no end in {_TIMEOUT:g} s"
    if isinstance(reason, OSError):
        return reason.strerror or type(reason).__name__
    return first_line(error) if isinstance(error, RuntimeError) else type(error).__name__
