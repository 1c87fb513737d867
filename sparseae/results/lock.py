"""One run of a sweep at a time."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sparseae.errors import RequestError, StorageError, first_line
from sparseae.results.location import Location

LOCK_FILE = ".lock"

#: Seconds between the beats of a run on an object store, how long a lock that does not beat is
#: watched before its run counts as dead, and how long a new lock waits for a rival's.
_BEAT, _DEAD, _RIVAL = 10.0, 45.0, 2.0

Check = Callable[[], None]


@contextmanager
def only_run(location: Location, note: Callable[[str], None]) -> Iterator[Check]:
    """Hold a folder for this process, and give a check to make before each write.

    A local folder is locked by the system; the lock goes with the process, however it ends. An
    object store has no such lock: there a run keeps an object beating, and a run that finds one
    watches whether it beats. Two runs that start within moments of each other may both write for
    at most one beat; then the check stops the one that lost.

    Args:
        location: of the sweep.
        note: is told what a person waits for.

    Raises:
        RequestError: if another process runs the sweep, or the folder cannot be written.
    """
    if not location.is_local:
        with _beating(location, note) as check:
            yield check
        return
    path = os.path.join(location.path, LOCK_FILE)
    try:
        os.makedirs(location.path, exist_ok=True)
        stream = open(path, "a+")  # noqa: SIM115 (closed below, when the run is over)
    except OSError as error:
        raise RequestError(f"{location}: cannot be written: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise _refusal(location, stream.read().strip() or "another process") from None
        except OSError as error:
            raise RequestError(f"{location}: cannot be locked: {error.strerror}") from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {os.uname().nodename}")
        stream.flush()
        yield lambda: None


def _refusal(location: Location, other: str) -> RequestError:
    return RequestError(f"{location}: is being run by {other}; wait or stop it")


@contextmanager
def _beating(location: Location, note: Callable[[str], None]) -> Iterator[Check]:
    lock = _Beat(location)
    try:
        lock.acquire(note)
    except OSError as error:
        raise RequestError(f"{location}: cannot be written: {first_line(error)}") from None
    thread = threading.Thread(target=lock.beat, name="sparseae-lock", daemon=True)
    thread.start()
    try:
        yield lock.check
    finally:
        lock.release()
        thread.join()


class _Beat:
    """A lock on an object store: an object that its owner rewrites again and again."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._file = location / LOCK_FILE
        self._own: dict[str, Any] = {
            "owner": uuid.uuid4().hex,
            "process": os.getpid(),
            "host": os.uname().nodename,
            "beat": 0,
        }
        self._rival = ""
        self._over = threading.Event()

    def acquire(self, note: Callable[[str], None]) -> None:
        found = self._read()
        if found and not _is_dead(found):
            note(
                f"{self._location}: {_whose(found)} may be running it; watching it for {_DEAD:g} s"
            )
            stop = time.monotonic() + _DEAD
            while time.monotonic() < stop:
                time.sleep(min(1.0, _DEAD / 10))
                if (now := self._read()) != found:
                    if now:
                        raise _refusal(self._location, _whose(now))
                    break
        self._write()
        time.sleep(_RIVAL)
        if (now := self._read()) and now["owner"] != self._own["owner"]:
            raise _refusal(self._location, _whose(now))

    def beat(self) -> None:
        """Until the run is over, or another one has taken its place."""
        while not self._over.wait(_BEAT):
            try:
                now = self._read()
                if now and now["owner"] != self._own["owner"]:
                    self._rival = _whose(now)
                    return
                self._own["beat"] += 1
                self._write()
            except OSError:
                continue  # the storage does not answer; the writes of the run wait for it too

    def check(self) -> None:
        """Raise where another run has taken this one's place."""
        if self._rival:
            raise StorageError(
                f"{self._location}: {self._rival} runs it now, so this run has stopped"
            )

    def release(self) -> None:
        self._over.set()
        try:
            if not self._rival:
                self._file.delete()
        except OSError:
            pass  # it no longer beats

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def _write(self) -> None:
        self._file.write_bytes(json.dumps(self._own).encode())


def _whose(lock: dict[str, Any]) -> str:
    return f"process {lock['process']} on {lock['host']}"


def _is_dead(lock: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    return lock["host"] == os.uname().nodename and not os.path.exists(f"/proc/{lock['process']}")
