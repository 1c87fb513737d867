"""What says nothing: Tune trials that hang, and sweeps in which nothing trains. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: A Tune trial may be silent for so many of its own epochs.
_EPOCHS = 10

#: Two looks lie a tenth of a second apart; where it was this many, it was the driver that stood.
_STOOD = 10.0


@dataclass
class _Heard:
    last: float
    longest: float  # seconds between two reports, or what an epoch is expected to take
    reports: int = 0


class Silence:
    """Who has been silent for longer than ``limit`` and ten of its own epochs.

    Args:
        limit: seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._heard: dict[str, _Heard] = {}
        self._looked = clock()

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._heard)

    def began(self, who: str, expected: float) -> None:
        """From now on ``who`` is to be heard; its epochs are expected to take so many seconds."""
        self._heard[who] = _Heard(self._clock(), expected)

    def heard(self, who: str) -> None:
        """An epoch was reported."""
        if (known := self._heard.get(who)) is None:
            return
        now = self._clock()
        known.reports += 1
        if known.reports == 2:  # the first report is of epoch 0, which trains nothing
            known.longest = 0.0
        if known.reports >= 2:
            known.longest = max(known.longest, now - known.last)
        known.last = now

    def ended(self, who: str) -> None:
        self._heard.pop(who, None)

    def look(self) -> dict[str, float]:
        """Who is silent, and for how many seconds. To be asked all the time."""
        now = self._clock()
        if now - self._looked > _STOOD:
            # What was reported meanwhile has not been heard yet.
            for known in self._heard.values():
                known.last += now - self._looked
        self._looked = now
        return {
            who: now - known.last
            for who, known in self._heard.items()
            if now - known.last > max(self._limit, _EPOCHS * known.longest)
        }


class Stall:
    """When nothing trains, and when that has to be said: after a while, then ever more rarely.

    Args:
        after: seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._after = after
        self._clock = clock
        self._since = clock()
        self._next = after
        self.said = False

    def look(self, *, training: bool) -> float | None:
        """Seconds for which nothing has trained, where that is to be said now."""
        now = self._clock()
        if training:
            self._since, self._next, self.said = now, self._after, False
            return None
        if now - self._since < self._next:
            return None
        self._next *= 3
        self.said = True
        return now - self._since
