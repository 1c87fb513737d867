"""One run of a sweep at a time."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sparseae.errors import RequestError, StorageError, first_line
from sparseae.results.location import Location

LOCK_FILE = ".lock"

#: Seconds between the beats of a run on an object store, how long a lock that does not beat is
#: watched before its run counts as dead, and how long a new lock waits for a rival's.
_BEAT, _DEAD, _RIVAL = 10.0, 45.0, 2.0

#: Seconds between two tries to read a lock that cannot be read.
_PAUSE = 1.0

Check = Callable[[], None]


@contextmanager
def only_run(
    location: Location, note: Callable[[str], None], patience: float = 0.0
) -> Iterator[Check]:
    """Hold a folder for this process, and give a check to make before each write.

    A local folder is locked by the system; the lock goes with the process, however it ends. An
    object store has no such lock: there a run keeps an object beating, and a run that finds one
    watches whether it beats. Two runs that start within moments of each other may both write for
    at most one beat; then the check stops the one that lost. A run that could not beat for so long
    that another may have taken its place looks again before it writes.

    Args:
        location: of the sweep.
        note: is told what a person waits for.
        patience: seconds for which a run that was cut off tries to look.

    Raises:
        RequestError: if another process runs the sweep, or the folder cannot be written.
    """
    if not location.is_local:
        with _beating(location, note, patience) as check:
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
        with suppress(OSError):  # a full disk: what cannot be written next says so, with its place
            os.write(stream.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield lambda: None


def _refusal(location: Location, other: str) -> RequestError:
    return RequestError(f"{location}: is being run by {other}; wait or stop it")


@contextmanager
def _beating(location: Location, note: Callable[[str], None], patience: float) -> Iterator[Check]:
    lock = _Beat(location, patience)
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

    def __init__(self, location: Location, patience: float) -> None:
        self._location = location
        self._patience = patience
        self._file = location / LOCK_FILE
        self._own: dict[str, Any] = {
            "owner": uuid.uuid4().hex,
            "process": os.getpid(),
            "host": os.uname().nodename,
            "where": _where(),
            "began": _began(os.getpid()),
            "beat": 0,
        }
        self._rival = ""
        self._over = threading.Event()
        self._turn = threading.Lock()
        self._beaten = time.monotonic()

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
        self._beaten = time.monotonic()
        time.sleep(_RIVAL)
        if (now := self._read()) and now.get("owner") != self._own["owner"]:
            raise _refusal(self._location, _whose(now))

    def beat(self) -> None:
        """Until the run is over, or another one has taken its place."""
        while not self._over.wait(_BEAT):
            try:
                self._once()
            except Exception:  # a filesystem's own package may raise anything
                continue  # the storage does not answer; the writes of the run wait for it too
            if self._rival:
                return

    def _once(self) -> None:
        """Look whose the lock is, and beat where it is this run's."""
        with self._turn:
            began = time.monotonic()
            now = self._read()
            if now and now.get("owner") != self._own["owner"]:
                self._rival = _whose(now)
                return
            self._own["beat"] += 1
            self._write()
            self._beaten = began

    def check(self) -> None:
        """Raise where another run has taken this one's place, or may have and nobody can tell."""
        stop = time.monotonic() + self._patience
        while not self._rival and time.monotonic() - self._beaten > _DEAD / 2:
            try:
                self._once()
            except Exception as error:
                if time.monotonic() > stop:
                    raise StorageError(
                        f"{self._location}: cannot be reached ({first_line(error)}), so that "
                        "another run may have taken its place; the same command goes on"
                    ) from None
                time.sleep(_PAUSE)
        if self._rival:
            raise StorageError(
                f"{self._location}: {self._rival} runs it now, so this run has stopped"
            )

    def release(self) -> None:
        self._over.set()
        try:
            if not self._rival:
                self._file.delete()
        except Exception:
            pass  # it no longer beats

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        self._file.write_bytes(json.dumps(self._own).encode())


def _whose(lock: dict[str, Any]) -> str:
    return f"process {lock.get('process')} on {lock.get('host')}"


def _is_dead(lock: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine, or container, that is no more.

    A container has its own processes under the host's name, so the name alone says nothing.
    """
    if lock.get("where") != _where() or not lock.get("where"):
        return False
    return _began(lock.get("process", 0)) != lock.get("began")


def _where() -> str:
    """What only processes that see each other share: the machine's boot and the PID namespace."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as stream:
            return f"{stream.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(process: int) -> str:
    """When a process began, in ticks since the boot: a number may be given again; empty: gone."""
    try:
        with open(f"/proc/{int(process)}/stat") as stream:
            fields = stream.read().rsplit(")", 1)[1].split()
    except (OSError, ValueError, TypeError, IndexError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
