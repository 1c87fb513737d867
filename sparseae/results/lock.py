"""One run of a sweep at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sparseae.errors import RequestError
from sparseae.results.location import Location


@contextmanager
def only_run(location: Location) -> Iterator[None]:
    """Hold a local folder for this process; the lock goes with the process, however it ends.

    On an object store nothing is locked: such stores offer no lock that a killed process releases.

    Raises:
        RequestError: if another process runs the sweep, or the folder cannot be written.
    """
    if not location.is_local:
        yield
        return
    path = os.path.join(location.path, ".lock")
    try:
        os.makedirs(location.path, exist_ok=True)
        stream = open(path, "a+")  # noqa: SIM115 (closed below, when the run is over)
    except OSError as error:
        raise RequestError(f"{location}: cannot be written: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            other = stream.read().strip() or "another process"
            raise RequestError(f"{location}: is being run by {other}; wait or stop it") from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {os.uname().nodename}")
        stream.flush()
        yield
