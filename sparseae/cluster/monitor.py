"""Starts a head's autoscaler again when it has died: ``python -m sparseae.cluster.monitor``.

Ray starts its monitor, which is the autoscaler, once; one that crashed starts no machine any more
and ends none. So what it was started with is kept, and used again. Ends with the head's Ray.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_LOOK_SECONDS = 2.0
#: Looks at which it is missing before it is started; `ray stop` ends it before the rest.
_LOOKS = 3
#: Between two starts at most, and after what time one has been good.
_WAIT_SECONDS = (5.0, 300.0)
_GOOD_SECONDS = 600.0

_LOCK = ".sparseae-monitor.lock"

_logger = logging.getLogger("sparseae.monitor")


@dataclass(frozen=True)
class Process:
    """A process as it was started."""

    pid: int
    command: list[bytes]
    environment: dict[bytes, bytes]

    def start(self) -> None:
        """Start another one."""
        subprocess.Popen(self.command, env=self.environment, start_new_session=True)


def monitor() -> Process | None:
    """This user's autoscaler."""
    return _find(
        lambda words: any(b"/autoscaler/" in w and w.endswith(b"monitor.py") for w in words)
    )


def head_runs() -> bool:
    """Whether this user's Ray has its head here."""
    return _find(lambda words: words[0].endswith(b"/gcs_server")) is not None


def _find(wanted: Callable[[list[bytes]], bool]) -> Process | None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
            if words and wanted(words):
                pairs = (folder / "environ").read_bytes().split(b"\0")
                environment = dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
                return Process(int(folder.name), words, environment)
        except OSError:
            continue  # it has ended meanwhile
    return None


def watch() -> None:
    """Return when the head's Ray has gone for good."""
    known: Process | None = None
    gone, missing = 0, 0
    wait, not_before, started = _WAIT_SECONDS[0], 0.0, 0.0
    while gone < _LOOKS:
        gone = 0 if head_runs() else gone + 1
        found = monitor()
        missing = 0 if found else missing + 1
        now = time.monotonic()
        if found is not None:
            if known is None:
                _logger.warning(f"process {found.pid} is watched")
            known = found
            if now - started > _GOOD_SECONDS:
                wait = _WAIT_SECONDS[0]
        elif known is not None and not gone and missing >= _LOOKS and now > not_before:
            _logger.warning(f"the autoscaler (process {known.pid}) has ended; starting it again")
            known.start()
            wait = min(2 * wait, _WAIT_SECONDS[1])
            started, not_before = now, now + wait
        time.sleep(_LOOK_SECONDS)


def main() -> None:
    """Watch, unless another process of this user does."""
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    with open(Path.home() / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        watch()


if __name__ == "__main__":
    main()
