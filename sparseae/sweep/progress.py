"""How far a sweep is, as the line that a run prints and that `sparseae status` reads."""

from __future__ import annotations

import re
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


_LINE = re.compile(
    r"^([\d,]+)/([\d,]+) trials, ([\d,]+)/([\d,]+) epochs \(\d+%\)(?:, ([\d,]+) s left)?$",
    re.MULTILINE,
)
