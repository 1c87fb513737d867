"""The trend of each curve: does the activation fraction fall, rise or stay with sigma2?

Trials of the same seed share their random numbers, so every comparison is paired over seeds.
`flat` is a claim and has to be shown: at every value of sigma2 two one-sided t tests place the
paired change from sigma2 = 0 within the margin. `decreasing` and `increasing` need a move that
exceeds the margin and what noise alone would do to the most different of all pairs of values
(Bonferroni's t; a seed is a block, what seeds and sigma2 leave is the noise), that also differs
from 0 in a paired t test, and no opposite move beyond the margin; `irregular` has both. What shows
none of these is `undecided`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import special

from sparseae.analysis import thresholds
from sparseae.analysis.curves import Curve, curves


@dataclass(frozen=True)
class Trend:
    """What is known of one curve; the change and the slope are of the activation fraction."""

    trend: str  # flat | decreasing | increasing | irregular | undecided
    seeds: int
    sigma2_values: int
    sigma2_first: float  # the smallest and the largest that the trend speaks of
    sigma2_last: float
    first: float  # at the smallest sigma2
    last: float  # at the largest
    lowest: float  # over sigma2, and half of its interval over seeds
    lowest_half: float
    change: float  # last - first, with its interval over seeds
    change_low: float
    change_high: float
    largest_change: float  # the largest |difference from sigma2 = 0|
    equivalent: bool  # every difference from sigma2 = 0 is shown to be within the margin
    tau: float  # Kendall's, over the pairs of values within each seed
    p_value: float  # exact, one block a seed
    slope: float  # Theil-Sen against sigma, with its bootstrap interval over seeds
    slope_low: float
    slope_high: float
    noise: float  # standard deviation that seeds and sigma2 leave
    dead_last: float  # fraction of dead units at the largest sigma2
    dead_onset_sigma2: float  # where dead units begin to rise; NaN: nowhere
    dead_onset_activation: float  # the activation fraction there
    converged: bool  # the activation fraction no longer moves
    settled: bool  # neither it nor the mean pre-activation is seen to move still
    descriptive: bool  # one seed: no error is known, the class describes what is there
    epochs: int  # at which the trials were compared
    trials: int
    diverged: int
    unfinished: int
    note: str

    @property
    def full_range(self) -> bool:
        """From sigma2 = 0 over at least half of the paper's range of sigma."""
        return self.sigma2_first == 0 and self.sigma2_last >= thresholds.FULL_RANGE


Judged = list[tuple[Curve, Trend]]


def judge(frame: pd.DataFrame) -> Judged:
    """Every curve of a table of epochs with its trend.

    Raises:
        RequestError: if a column is missing.
    """
    return [(curve, trend_of(curve)) for curve in curves(frame)]


def trends(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a curve: model, activation, constraint, dataset, variant and `Trend`'s fields.

    Raises:
        RequestError: if a column is missing.
    """
    return trend_table(judge(frame))


def trend_table(judged: Judged) -> pd.DataFrame:
    """`trends` of curves that are judged already."""
    rows = [
        {**curve.name, "variant": curve.suffix.removeprefix(", "), **vars(trend)}
        for curve, trend in judged
    ]
    names = ["model", "activation", "constraint", "dataset", "variant"]
    return pd.DataFrame(rows, columns=[*names, *Trend.__dataclass_fields__])


def trend_of(curve: Curve) -> Trend:
    """Judge one curve."""
    rows, columns = _complete_block(curve.activation)
    block = np.ix_(rows, columns)
    y, sigma2 = curve.activation[block], curve.sigma2[columns]
    seeds, values = y.shape
    converged, settled, notes = _convergence(curve, block)
    notes = [*_left_out(curve, seeds, values), *notes]
    common = {
        "seeds": seeds,
        "sigma2_values": values,
        "sigma2_first": float(sigma2[0]) if values else float("nan"),
        "sigma2_last": float(sigma2[-1]) if values else float("nan"),
        "converged": converged,
        "settled": settled,
        "epochs": curve.epoch,
        "trials": curve.trials,
        "diverged": curve.diverged,
        "unfinished": curve.unfinished,
    }
    if seeds == 0 or values < 2:
        notes.append("fewer than two values of sigma2" if seeds else "no complete trials")
        nan = float("nan")
        mean = float(y.mean()) if y.size else nan
        return Trend(
            trend="undecided", first=mean, last=mean, lowest=mean, lowest_half=nan, change=nan,
            change_low=nan, change_high=nan, largest_change=nan, equivalent=False, tau=nan,
            p_value=nan, slope=nan, slope_low=nan, slope_high=nan, noise=nan, dead_last=nan,
            dead_onset_sigma2=nan, dead_onset_activation=nan, descriptive=seeds == 1,
            note="; ".join(notes), **common,
        )  # fmt: skip
    if sigma2[0] > 0:
        notes.append(f"no sigma2 = 0: compared with {sigma2[0]:g}")
    if sigma2[-1] < thresholds.FULL_RANGE:
        notes.append(f"sigma2 goes to {sigma2[-1]:g} only")
    if seeds == 1:
        notes.append("one seed: descriptive")

    mean = y.mean(0)
    noise, freedom = _noise(y)
    from_zero = y - y[:, :1]
    reach = np.abs(from_zero.mean(0)) + half_width(from_zero, 1 - thresholds.ALPHA)
    equivalent = bool(reach.max() <= thresholds.MARGIN)
    tau, p_value = _kendall(y)
    slope, slope_low, slope_high = _slope(np.sqrt(sigma2), y)
    level = 1 - thresholds.ALPHA / 2
    change = float(from_zero[:, -1].mean())
    half = float(half_width(from_zero[:, -1:], level)[0])
    low, high = (change - half, change + half) if seeds > 1 else (float("nan"), float("nan"))
    dead = curve.dead[block].mean(0)
    onset = dead_onset(dead)
    return Trend(
        trend="flat" if equivalent else _direction(y, noise, freedom),
        first=float(mean[0]),
        last=float(mean[-1]),
        lowest=float(mean.min()),
        lowest_half=float(half_width(y, level)[mean.argmin()]),
        change=change,
        change_low=low,
        change_high=high,
        largest_change=float(np.abs(from_zero.mean(0)).max()),
        equivalent=equivalent,
        tau=tau,
        p_value=p_value,
        slope=slope,
        slope_low=slope_low,
        slope_high=slope_high,
        noise=noise,
        dead_last=float(dead[-1]),
        dead_onset_sigma2=float("nan") if onset is None else float(sigma2[onset]),
        dead_onset_activation=float("nan") if onset is None else float(mean[onset]),
        descriptive=seeds == 1,
        note="; ".join(notes),
        **common,
    )


def _left_out(curve: Curve, seeds: int, values: int) -> list[str]:
    """What of a curve does not enter its trend, in words."""
    counts = [
        (curve.diverged, "diverged trial", "left out"),
        (curve.behind, "trial", f"left out: not yet at epoch {curve.epoch}"),
        (curve.unfinished, "trial", "unfinished"),
        (curve.sigma2.size - values if seeds else 0, "sigma2", "left out for missing trials"),
        (curve.seeds.size - seeds if values else 0, "seed", "left out for missing trials"),
    ]
    return [
        f"{count} {what}{'' if count == 1 or what == 'sigma2' else 's'} {why}"
        for count, what, why in counts
        if count
    ]


def _convergence(curve: Curve, block: tuple[np.ndarray, ...]) -> tuple[bool, bool, list[str]]:
    """`Trend.converged` and `Trend.settled`, and what to say of them."""
    moved, drift = curve.moved[block].mean(0), curve.drift[block].mean(0)
    if curve.epoch < thresholds.FEWEST_EPOCHS:
        return False, False, ["too few epochs to see convergence"]
    if not moved.size or not np.isfinite(moved).all():
        return False, True, ["no earlier epochs: convergence unknown"] if moved.size else []
    if np.abs(moved).max() > thresholds.STILL_MOVING:
        return False, False, ["not converged"]
    if (np.abs(drift) > thresholds.DRIFTING).any():  # unknown, NaN, is not above
        return True, False, ["mean pre-activation still moving"]
    return True, True, []


def _complete_block(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (seeds) and columns (sigma2) without gaps.

    Drops the one with the largest share of gaps until none is left; among equals a sigma2, as
    seeds are what the error is estimated from.
    """
    rows, columns = np.arange(y.shape[0]), np.arange(y.shape[1])
    while (gaps := ~np.isfinite(y[np.ix_(rows, columns)])).any():
        by_row, by_column = gaps.mean(1), gaps.mean(0)
        if by_row.max() > by_column.max():
            rows = np.delete(rows, by_row.argmax())
        else:
            columns = np.delete(columns, by_column.argmax())
    return rows, columns


def _noise(y: np.ndarray) -> tuple[float, int]:
    """Standard deviation that seeds (rows) and sigma2 (columns) leave, and its freedom."""
    seeds, values = y.shape
    freedom = (seeds - 1) * (values - 1)
    if freedom == 0:
        return 0.0, 0
    left = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    return float(np.sqrt((left**2).sum() / freedom)), freedom


def _direction(y: np.ndarray, noise: float, freedom: int) -> str:
    """The class of a curve that is not shown to be flat."""
    seeds, values = y.shape
    mean = y.mean(0)
    by_chance = 0.0
    if freedom:
        pairs = values * (values - 1) / 2
        by_chance = _t(1 - thresholds.ALPHA / 2 / pairs, freedom) * noise * np.sqrt(2 / seeds)
    later_minus_earlier = np.triu(mean[None, :] - mean[:, None])
    moves = {}
    for sign in (1, -1):
        earlier, later = np.unravel_index((sign * later_minus_earlier).argmax(), (values, values))
        size = sign * later_minus_earlier[earlier, later]
        half = half_width(y[:, [later]] - y[:, [earlier]], 1 - thresholds.ALPHA / 2)[0]
        moves[sign] = (size > thresholds.MARGIN, size > max(thresholds.MARGIN, by_chance, half))
    (any_rise, rises), (any_fall, falls) = moves[1], moves[-1]
    if falls and rises:
        return "irregular"
    if falls and not any_rise:
        return "decreasing"
    if rises and not any_fall:
        return "increasing"
    return "undecided"


def half_width(differences: np.ndarray, level: float) -> np.ndarray:
    """Half of Student's interval of the mean over seeds: (seeds, K) -> (K,); 0 for one seed."""
    seeds = differences.shape[0]
    if seeds == 1:
        return np.zeros(differences.shape[1])
    return _t(level, seeds - 1) * differences.std(0, ddof=1) / np.sqrt(seeds)


@cache
def _t(level: float, freedom: int) -> float:
    return float(special.stdtrit(freedom, level))


def _kendall(y: np.ndarray) -> tuple[float, float]:
    """Kendall's tau over the pairs within each seed, and its exact two-sided p-value.

    If sigma2 had no effect every order of a seed's values were as likely, so the sum of the seeds'
    scores is distributed as the convolution of Kendall's null distribution with itself.
    """
    seeds, values = y.shape
    upper = np.triu_indices(values, 1)
    scores = np.sign(y[:, upper[1]] - y[:, upper[0]]).sum(1)
    pairs = upper[0].size
    null = _kendall_null(values)
    total = np.ones(1)
    for _ in range(seeds):
        total = np.convolve(total, null)
    # Concordant pairs c give the score 2 c - pairs, over all seeds.
    possible = 2 * np.arange(total.size) - seeds * pairs
    p = total[np.abs(possible) >= abs(scores.sum()) - 1e-9].sum()
    return float(scores.sum() / (seeds * pairs)), float(min(1.0, p))


@cache
def _kendall_null(values: int) -> np.ndarray:
    """Probability of each number of concordant pairs in a random order (Mahonian numbers)."""
    counts = np.ones(1)
    for i in range(2, values + 1):
        counts = np.convolve(counts, np.full(i, 1 / i))
    return counts


def _slope(sigma: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Theil-Sen slope of the mean curve against sigma, with a bootstrap interval over seeds."""
    a, b = np.triu_indices(sigma.size, 1)

    def theil_sen(means: np.ndarray) -> np.ndarray:
        return np.median((means[:, b] - means[:, a]) / (sigma[b] - sigma[a]), axis=1)

    estimate = float(theil_sen(y.mean(0, keepdims=True))[0])
    seeds = y.shape[0]
    if seeds == 1:
        return estimate, float("nan"), float("nan")
    if seeds**seeds <= thresholds.BOOTSTRAP:
        draws = np.array(list(itertools.product(range(seeds), repeat=seeds)))
    else:
        draws = np.random.default_rng(0).integers(0, seeds, (thresholds.BOOTSTRAP, seeds))
    slopes = theil_sen(y[draws].mean(1))
    half = thresholds.ALPHA / 2
    return estimate, float(np.quantile(slopes, half)), float(np.quantile(slopes, 1 - half))


def dead_onset(dead: np.ndarray) -> int | None:
    """The first of ascending sigma2 (K,) at which dead units have begun to rise."""
    risen = np.flatnonzero(dead > dead[0] + thresholds.DEAD_RISE)
    return int(risen[0]) if risen.size else None
