"""``max_hours``: a run that lasts too long stops as after Ctrl-C, whatever it waits for."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: What a run that was told to stop gets to write its last rows. As a job of a cluster it is killed
#: then: nobody is there to do it, and machines are paid for.
_GRACE_SECONDS = 600.0


@contextmanager
def deadline(hours: float | None, note: Callable[[str], None]) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread after so many hours.

    Args:
        hours: None: never.
        note: is told so, in one line.
    """
    if hours is None:
        yield
        return
    over = threading.Event()

    def wait() -> None:
        if over.wait(3600 * hours):
            return
        note(f"max_hours: {hours:g} h are over: the run stops; the same command goes on")
        _thread.interrupt_main()
        if not over.wait(_GRACE_SECONDS) and os.environ.get("SPARSEAE_IN_JOB"):
            os._exit(1)

    # A shell starts what is to run in the background with Ctrl-C ignored, and ours with it.
    deaf = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    )
    if deaf:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=wait, name="max_hours", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
