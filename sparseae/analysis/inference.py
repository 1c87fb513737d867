"""The one place that makes p-values: seeds are the replicates, and nothing else is.

Trials of one seed share their random numbers, whatever their sigma2 and model, so that a number of
a statement is first made for each seed, from all that the seed has, and then judged by Student's t
over seeds. Values of sigma2, epochs, units and trials of one seed are never counted as independent.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from scipy import special

from sparseae.analysis import thresholds

NAN = float("nan")

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Effect:
    """A number for each seed, or several, along sigma2, that are judged together.

    Attributes:
        now: (R, C), NaN where a seed has none.
        again: (R, C) what as long again would add, at the pace of the last fifth of the epochs
            (least squares); NaN where it is not known.
        trend: (R, C) the same at the pace of the last half, which has less noise.

    A statement that is to last is judged by its `forecast`, one that may be said before by `again`.
    """

    now: np.ndarray
    again: np.ndarray
    trend: np.ndarray

    @classmethod
    def of(cls, window: np.ndarray, epochs: int) -> Effect:
        """The effect from its history over the last half of the epochs, (R, C, T), T > 0."""
        fifth = -(-epochs // 5) + 1
        return cls(window[..., -1], *(_pace(window[..., -n:]) * epochs for n in (fifth, 0)))

    def __getitem__(self, component: int | slice) -> Effect:
        """One component, or some, as (R, C)."""
        chosen = np.atleast_1d(np.arange(self.now.shape[1])[component])
        return Effect(self.now[:, chosen], self.again[:, chosen], self.trend[:, chosen])

    def of_seeds(self, rows: np.ndarray) -> Effect:
        """The same of some seeds, in this order."""
        return Effect(self.now[rows], self.again[rows], self.trend[rows])

    def less(self, other: Effect) -> Effect:
        """The difference of two effects of the same seeds."""
        return Effect(self.now - other.now, self.again - other.again, self.trend - other.trend)

    @property
    def later(self) -> np.ndarray:
        """(R, C) the effect were it trained as long again, at the pace of the last fifth."""
        return self.now + self.again

    @property
    def forecast(self) -> np.ndarray:
        """(R, C) the effect were it trained `thresholds.HORIZON` times as long, at the pace of the
        last half: what it can come to at most, as long as the pace does not grow."""
        return self.now + (thresholds.HORIZON - 1) * self.trend

    def lasts_within(self, margin: float) -> np.ndarray:
        """(C,) whether each is shown to stay within the margin of 0, however it drifts."""
        return p_within(self.forecast, margin) <= thresholds.LASTS

    def lasts_above(self, limit: float) -> np.ndarray:
        """(C,) whether each is shown to stay above a limit, however it drifts."""
        return p_above(self.forecast, limit) <= thresholds.LASTS

    def lasts_below(self, limit: float) -> np.ndarray:
        """(C,) whether each is shown to stay below a limit, however it drifts."""
        return p_below(self.forecast, limit) <= thresholds.LASTS

    def settled(self, margin: float) -> bool:
        """Whether as long again would move none of them by more than the margin."""
        pace = np.abs(mean(self.again))
        return bool(pace.size and (pace <= margin).all())  # NaN is not

    def interval(self) -> tuple[float, float, float]:
        """Mean over seeds of the first component, and its two-sided 95 % interval."""
        low, high = (float(bound[0]) for bound in interval(self.now[:, :1]))
        return float(mean(self.now)[0]), low, high


def _pace(window: np.ndarray) -> np.ndarray:
    """The slope against epochs, (R, C, T) -> (R, C); NaN of a single epoch."""
    if window.shape[-1] < 2:
        return np.full(window.shape[:-1], NAN)
    x = np.arange(window.shape[-1], dtype=float)
    x -= x.mean()
    return (window - window[..., -1:]) @ (x / (x @ x))


def mean(x: np.ndarray) -> np.ndarray:
    """(R, C) -> (C,), over the seeds that are there."""
    there = np.isfinite(x)
    with np.errstate(invalid="ignore"):
        return np.where(there, x, 0).sum(0) / there.sum(0)


def _error(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of each mean, and its freedom; NaN and 0 of fewer than two seeds."""
    there = np.isfinite(x)
    n = there.sum(0)
    with np.errstate(invalid="ignore"):
        squares = np.where(there, (x - mean(x)) ** 2, 0).sum(0)
        return np.sqrt(squares / (n - 1) / n), np.maximum(n - 1, 0)


def interval(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's two-sided 95 % interval of each mean over seeds; NaN of fewer than two seeds."""
    error, freedom = _error(x)
    half = np.array([_t(int(f)) for f in freedom]) * error
    return mean(x) - half, mean(x) + half


@cache
def _t(freedom: int) -> float:
    return float(special.stdtrit(freedom, 1 - thresholds.ALPHA / 2)) if freedom else NAN


def p_above(x: np.ndarray, limit: float) -> np.ndarray:
    """One-sided p-values (C,) with which the mean over seeds exceeds the limit.

    1 of fewer than two seeds: nothing is shown by one.
    """
    error, freedom = _error(x)
    t = (mean(x) - limit) / np.maximum(error, thresholds.ROUNDING)
    p = special.stdtr(freedom, -t)
    return np.where((freedom > 0) & np.isfinite(p), p, 1.0)


def p_below(x: np.ndarray, limit: float) -> np.ndarray:
    """One-sided p-values (C,) with which the mean over seeds is below the limit."""
    return p_above(-x, -limit)


def p_within(x: np.ndarray, margin: float) -> np.ndarray:
    """p-values (C,) of two one-sided tests that the mean over seeds is within the margin of 0."""
    return np.maximum(p_above(x, -margin), p_below(x, margin))


def p_some(p: np.ndarray) -> float:
    """The p-value of at least one of several (Bonferroni)."""
    return float(min(1.0, p.size * p.min())) if p.size else 1.0


def p_some_lasting(p: np.ndarray, lasts: np.ndarray) -> float:
    """The same of those that are shown to last; NaN where none is."""
    return float(min(1.0, p.size * p[lasts].min())) if lasts.any() else NAN


@dataclass(frozen=True)
class Equivalence:
    """Whether some effects are shown to be within their margins, and would stay so.

    Attributes:
        p: of the last component of the first effect, where all else is shown at 5 %, else what is
            not shown; NaN where the effects would not stay.
        lacks: what is missing: ``seeds``, where it is an interval that is too wide, or ``epochs``.
    """

    p: float
    lacks: str


def equivalence(effects: Sequence[tuple[Effect, float]]) -> Equivalence:
    """Judge that every effect is within its margin, and would be were it trained on.

    The p-value is of the last component, where an effect that grows along sigma2 is largest; that
    the others, the other measure and the effects after as long again are within their margins is
    shown at 5 %, and that the last component lasts at `thresholds.LASTS`.
    """
    now = [p_within(e.now, margin) for e, margin in effects]
    later = [p_within(e.later, margin) for e, margin in effects]
    lasts = all(e[-1].lasts_within(margin)[0] for e, margin in effects)
    if (np.concatenate(later) > thresholds.ALPHA).any() or not lasts:
        inside = all(
            (np.abs(mean(e.later)) <= margin).all() and abs(mean(e[-1].forecast)[0]) <= margin
            for e, margin in effects
        )
        return Equivalence(NAN, "seeds" if inside else "epochs")
    if (every := np.concatenate(now)).max() > thresholds.ALPHA:
        return Equivalence(float(every.max()), "seeds")
    return Equivalence(float(now[0][-1]), "seeds")


def holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's corrected p-values of all that are known; NaN stays NaN."""
    known = sorted(((v, key) for key, v in p.items() if v == v), key=lambda pair: pair[0])
    corrected, highest = dict.fromkeys(p, NAN), 0.0
    for place, (value, key) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - place) * value))
        corrected[key] = highest
    return corrected
