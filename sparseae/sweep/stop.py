"""Ctrl-C and SIGTERM while a sweep trains: the first lets each stack save, the second ends it."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: Seconds that epochs which are on their way get to end; a cluster kills a stopped job after 60.
PATIENCE = 40.0


def interrupt(number: int, frame: Any) -> None:
    """A command's handler of SIGTERM, by which clusters, SLURM and systemd stop it: as Ctrl-C.

    Once is enough: the group of a job may get the signal more than once, and the last rows are
    being written.
    """
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


class Stop:
    """Whether a run is asked to stop."""

    def __init__(self) -> None:
        self._at: float | None = None

    @property
    def asked(self) -> bool:
        return self._at is not None

    @property
    def overdue(self) -> bool:
        """Whether it was asked so long ago that nothing is waited for any more."""
        return self._at is not None and time.monotonic() - self._at > PATIENCE

    def ask(self) -> None:
        self._at = time.monotonic()

    @contextmanager
    def listening(self, note: Callable[[str], None], *, alarm: bool = False) -> Iterator[None]:
        """Take SIGINT as a request here, and SIGTERM likewise; a second one is a KeyboardInterrupt.

        Only in a program's main thread, and each only where it is a KeyboardInterrupt anyway: a
        debugger, a notebook or another program may want something else of it.

        Args:
            note: is told, for people.
            alarm: interrupt by itself where the request is overdue.
        """
        main = threading.current_thread() is threading.main_thread()
        ours = [
            number
            for number in (signal.SIGINT, signal.SIGTERM)
            if main and signal.getsignal(number) in (signal.default_int_handler, interrupt)
        ]
        before = {number: signal.getsignal(number) for number in ours}
        if not ours:
            yield
            return

        def handle(number: int, frame: Any) -> None:
            if self.asked and (number == signal.SIGINT or self.overdue):
                raise KeyboardInterrupt
            if self.asked:
                return  # as in `interrupt`
            self.ask()
            if alarm:
                timer.start()
            # Printing is no work for a signal's handler, which may have interrupted a print.
            words = "stopping: what trains saves at the end of its epoch; once more stops at once"
            threading.Thread(target=note, args=(words,), daemon=True).start()

        timer = threading.Timer(PATIENCE + 0.1, _thread.interrupt_main, (ours[0],))
        timer.daemon = True
        for number in ours:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number in ours:
                over = self.asked and before[number] is interrupt
                signal.signal(number, signal.SIG_IGN if over else before[number])
            timer.cancel()
