"""The connection to Ray: to a cluster, or to a Ray that is started on this machine for a run.

Ray takes seconds to come up, most of which it waits for its own processes. So it starts in the
background while this process imports what it needs; and on this machine the workers that Ray
starts with itself import what a Tune trial needs without waiting to be asked.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import ray

from sparseae.cluster import ray_internals
from sparseae.errors import RequestError, last_line

#: What Ray and Tune are told through the environment while a sweep runs; whoever runs it has their
#: own environment back afterwards (`sparseae.sweep.caller`).
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Results go to Parquet; Tune's own JSON, CSV and TensorBoard files would cost 1 s a trial.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The view is ours; Tune's newer reporter prints its own even at verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

#: What Ray's workers import before they are given work, by the variable that asks for it; see
#: `sparseae.cluster.ray_internals` for how Tune trials get those that Ray starts with itself.
_PRELOAD = {"RAY_preload_python_modules": "sparseae.cluster.worker"}
#: With which `ray.init` asks for a token from then on, where it has started a Ray.
_MODE = "RAY_AUTH_MODE"
#: One a process: Ray keeps the first that it was given.
_TOKEN = secrets.token_hex(32)
#: Seconds in which a cluster answers; Ray itself waits up to 12 minutes.
_PATIENCE = 60


class Connection:
    """A context with Ray; one that was there before stays when it ends.

    Args:
        address: of a Ray cluster; without one, that in ``RAY_ADDRESS``, or this machine alone.
    """

    def __init__(self, address: str | None) -> None:
        self._key = "--address" if address else "RAY_ADDRESS"
        self._where = address or os.environ.get("RAY_ADDRESS") or "local"
        #: Whether Ray runs on this machine alone.
        self.local = self._where == "local"
        #: And was started for this run.
        self.private = self.local and not ray.is_initialized()
        self._mode = os.environ.get(_MODE)
        self._error: BaseException | None = None
        self._up, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        os.environ.update(_SETTINGS)
        if not ray.is_initialized():
            self._thread = threading.Thread(target=self._start, name="ray.init", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None and (self.local or self._up.is_set()):
            self._up.wait()
            ray.shutdown()
            self._over.set()
            self._thread.join()
        if self.private:
            # Or a cluster that this process connects to later, and that has no token, could not
            # call it back: each of its workers would be given up before it is placed.
            if self._mode is None:
                os.environ.pop(_MODE, None)
            else:
                os.environ[_MODE] = self._mode
            ray_internals.read_settings()

    def wait(self) -> None:
        """Return when Ray is up.

        Raises:
            RequestError: where there is none.
        """
        if self._thread is None:
            return
        if not self._up.wait(None if self.local else _PATIENCE):
            self._error = TimeoutError(f"no answer in {_PATIENCE} s")
        if isinstance(self._error, OSError | ValueError | RuntimeError | OverflowError):
            where = "" if self.local else f" at {self._key} {self._where!r}"
            raise RequestError(f"no Ray{where}: {self._reason(self._error)}") from None
        if self._error is not None:
            raise self._error
        # Ray has put a handler below Python's that aborts; whoever set one before gets it back.
        before = signal.getsignal(signal.SIGTERM)
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)

    def _reason(self, error: BaseException) -> str:
        """What is wrong and, where that can be told, the variable that helps."""
        reason = last_line(getattr(error, "strerror", None) or error)
        if not self.local:
            return reason
        if "AF_UNIX" in reason:
            return (
                "the path of its temporary folder is too long for a socket: set RAY_TMPDIR to a "
                "short one, as /tmp"
            )
        if isinstance(error, OSError) and error.filename:
            return (
                f"{error.filename}: {reason}; its files go where RAY_TMPDIR says: set it to a "
                "folder that can be written, as /tmp"
            )
        return blamed(reason) or reason

    def _start(self) -> None:
        try:
            _reach(self._where)
            with environment(_PRELOAD | _token() if self.private else {}):
                ray.init(
                    address=self._where,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if self.local else None,
                )
        except BaseException as error:  # for the thread that waits
            self._error = error
        self._up.set()
        self._over.wait()  # Linux ends Ray's processes with the thread that started them


def _reach(address: str) -> None:
    """Raise OSError where nothing listens, ValueError where it is no address."""
    if address in ("auto", "local"):
        return
    port = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d{1,5})", address)
    if port is None:
        raise ValueError("must be HOST:6379, ray://HOST:10001 or auto")
    socket.create_connection((port[1], int(port[2])), timeout=10).close()


def blamed(reason: str) -> str:
    """An error's words with the variables of Ray and Tune that they quote; empty without one."""
    named = [
        f"{name}={value!r}"
        for name, value in os.environ.items()
        if name.startswith(("RAY_", "TUNE_")) and value and value in reason
    ]
    return f"{reason}; unset {' and '.join(named)}" if named else ""


def _token() -> dict[str, str]:
    """A token for a Ray of this run alone, where Ray has no home to keep one in."""
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}.isdisjoint(os.environ):
        return {}
    try:
        folder = Path.home() / ".ray"
        if os.environ.get("HOME") != "":
            if (folder / "auth_token").is_file():
                return {}
            folder.mkdir(exist_ok=True)  # a home that is not there is not made
            with tempfile.TemporaryFile(dir=folder):
                return {}
    except (OSError, RuntimeError):  # RuntimeError: nobody knows where home is
        pass
    return {"RAY_AUTH_TOKEN": _TOKEN}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, and put back what was there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
