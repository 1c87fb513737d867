"""How far a sweep is, as the line that a run prints and that `sparseae status` reads."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Trials and epochs of a whole sweep, what was finished before a run included."""

    trials: int
    trials_total: int
    epochs: int
    epochs_total: int
    seconds_left: float | None = None

    @property
    def share(self) -> float:
        """Of the epochs, the part that is done."""
        return self.epochs / self.epochs_total if self.epochs_total else 1.0

    def __str__(self) -> str:
        line = (
            f"{self.trials:,}/{self.trials_total:,} trials, "
            f"{self.epochs:,}/{self.epochs_total:,} epochs ({self.share:.0%})"
        )
        return line if self.seconds_left is None else f"{line}, {self.seconds_left:,.0f} s left"

    @classmethod
    def last_of(cls, log: str) -> Progress | None:
        """The last such line of a log; None where it has none."""
        found = list(_LINE.finditer(log))
        if not found:
            return None
        done, total, epochs, epochs_total, left = (
            int(text.replace(",", "")) if text else None for text in found[-1].groups()
        )
        return cls(done or 0, total or 0, epochs or 0, epochs_total or 0, left)


#: What is foretold follows the last minute, or the last tenth of a long run.
_WINDOW, _SHARE = 60.0, 0.1

#: Of all, the part that has to be done before anything is foretold.
_FIRST = 0.02


class Outlook:
    """When all is done, by the pace of late: that of the workers that there are now.

    Args:
        total: epochs.
        clock: seconds, monotonic.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._began = clock()
        self._reached = deque([(self._began, 0)])

    def reached(self, done: int) -> None:
        """So many epochs are done by now."""
        now = self._clock()
        if len(self._reached) > 2 and now - self._reached[-2][0] < 1:
            self._reached.pop()  # one a second is enough
        self._reached.append((now, done))
        begin = now - max(_WINDOW, _SHARE * (now - self._began))
        while len(self._reached) > 2 and self._reached[1][0] <= begin:
            self._reached.popleft()

    @property
    def seconds_left(self) -> float | None:
        """None where nothing can be foretold yet."""
        (then, before), (_, done) = self._reached[0], self._reached[-1]
        if done <= before or done <= _FIRST * self._total:
            return None
        return (self._total - done) * (self._clock() - then) / (done - before)


_LINE = re.compile(
    r"^([\d,]+)/([\d,]+) trials, ([\d,]+)/([\d,]+) epochs \(\d+%\)(?:, ([\d,]+) s left)?$",
    re.MULTILINE,
)
