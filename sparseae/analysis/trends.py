"""The trend of each curve: does the code get sparser with sigma2, denser, or stay as it is?

What is judged is the effect, the paired change from sigma2 = 0 to the largest sigma2, of the
activation fraction and of E[a_j]. One margin parts three answers, so that each has an error of its
own and no two can be shown at once: `flat` is an effect within it at every sigma2 and in both
measures, now and were it trained on; `decreasing` and `increasing` one beyond it, with no opposite
move beyond it along sigma2; `irregular` has moves beyond it in both directions. What shows none of
these is `undecided`. How p-values are made: `sparseae.analysis.inference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from sparseae.analysis import thresholds
from sparseae.analysis.curves import Curve, curves, read_curves
from sparseae.analysis.inference import (
    NAN,
    Effect,
    equivalence,
    mean,
    p_above,
    p_below,
    p_some,
)
from sparseae.analysis.shown import with_html

FLAT, DECREASING, INCREASING, IRREGULAR = "flat", "decreasing", "increasing", "irregular"
UNDECIDED = "undecided"

#: The two measures, as the table of verdicts names them, and their margins.
ACTIVATION, PRE_ACTIVATION = "activation_fraction", "pre_activation"
MARGINS = {ACTIVATION: thresholds.MARGIN, PRE_ACTIVATION: thresholds.PRE_MARGIN}


@dataclass(frozen=True)
class Trend:
    """What is known of one curve; intervals are Student's, 95 %, over seeds."""

    trend: str  # flat | decreasing | increasing | irregular | undecided
    p: float  # with which this is shown, uncorrected
    seeds: int
    sigma2_values: int
    sigma2_first: float  # the smallest and the largest that the trend speaks of
    sigma2_last: float
    first: float  # the activation fraction at the smallest sigma2
    last: float  # at the largest
    lowest: float  # over sigma2
    change: float  # last - first, paired over seeds, with its interval
    change_low: float
    change_high: float
    largest_change: float  # the largest |change from the smallest sigma2|
    pre_first: float  # E[a_j] in lengths of the weights, as above
    pre_last: float
    pre_change: float
    pre_low: float
    pre_high: float
    tau: float  # Kendall's, over the pairs of values within each seed; a description
    dead_first: float  # fraction of dead units at the smallest sigma2 and at the largest
    dead_last: float
    dead_onset_sigma2: float  # where dead units begin to rise; NaN: nowhere
    dead_onset_activation: float  # the activation fraction there
    settled: bool  # as long again would move no effect by more than its margin
    alive: bool  # the units live at the smallest sigma2, in two seeds at least
    sensitive: bool  # and the activation fraction is not at 0 or 1 there
    measure: str  # the one that decides
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

    @property
    def effect(self) -> tuple[float, float, float]:
        """The change with its interval, in the measure that decides."""
        return self.change_in(self.measure)

    def change_in(self, measure: str) -> tuple[float, float, float]:
        """The change with its interval, in one measure."""
        if measure == PRE_ACTIVATION:
            return self.pre_change, self.pre_low, self.pre_high
        return self.change, self.change_low, self.change_high

    def moved(self, measure: str) -> bool:
        """Whether the whole interval of the change is beyond the margin."""
        _, low, high = self.change_in(measure)
        return low > MARGINS[measure] or high < -MARGINS[measure]


@dataclass(frozen=True)
class Shown:
    """With which p-value each class of a curve is shown, in the measure that decides.

    NaN where the class cannot be claimed whatever the p-value; ``lacks`` says what flatness lacks,
    ``lasting`` which of the classes are shown to last however the curve drifts.
    """

    p: dict[str, float] = field(default_factory=dict)
    lacks: str = "trials"
    lasting: frozenset[str] = frozenset()

    def __getitem__(self, trend: str) -> float:
        return self.p.get(trend, NAN)


@dataclass(frozen=True)
class Sound:
    """What of a curve can be compared: its seeds and values of sigma2, and its effects.

    Attributes:
        seeds: (R,) rows of the curve: with a trial at the smallest sigma2 whose units live.
        columns: (K,) of its sigma2 that have enough of these seeds.
        effects: by measure the paired changes from the smallest sigma2, (R, K - 1).
        dead: seeds left out because their units are dead at the smallest sigma2.
    """

    seeds: np.ndarray
    columns: np.ndarray
    effects: dict[str, Effect]
    dead: int

    @classmethod
    def of(cls, curve: Curve) -> Sound:
        there = np.isfinite(curve.activation)
        rows, columns = there.any(1), _enough(there)
        dead = 0
        if columns.size:
            base = columns[0]
            rows = there[:, base]
            lifeless = rows & (curve.dead[:, base] > thresholds.DEAD_FROM_THE_START)
            dead, rows = int(lifeless.sum()), rows & ~lifeless
            if rows.any():
                columns = np.union1d(base, _enough(there[rows]))
        seeds = np.flatnonzero(rows)
        effects = {}
        if seeds.size and columns.size > 1:
            for name, history in _measures(curve).items():
                window = history[np.ix_(seeds, columns)][..., curve.last_half]
                effects[name] = Effect.of(window[:, 1:] - window[:, :1], curve.epoch)
        return cls(seeds, columns, effects, dead)


def _enough(there: np.ndarray) -> np.ndarray:
    """The columns of (R, K) that have three seeds, or as many as any has."""
    counts = there.sum(0)
    return np.flatnonzero((counts > 0) & (counts >= min(thresholds.FEWEST_SEEDS, counts.max())))


def _measures(curve: Curve) -> dict[str, np.ndarray]:
    """Both measures by epoch; without E[a_j] where the rows do not have it."""
    both = {ACTIVATION: curve.activations, PRE_ACTIVATION: curve.pre_activations}
    return (
        both
        if np.isfinite(curve.pre_activations[..., -1]).any()
        else {ACTIVATION: both[ACTIVATION]}
    )


Judged = list[tuple[Curve, Trend]]


def judge(frame: pd.DataFrame) -> Judged:
    """Every curve of a table of epochs with its trend.

    Raises:
        RequestError: if a column is missing.
    """
    return [(curve, trend_of(curve)) for curve in curves(frame)]


def judge_places(places: str | Path | Sequence[str | Path]) -> Judged:
    """Every curve of one or several sweeps with its trend, without all rows in memory.

    Raises:
        RequestError: in one line, where a folder or its files cannot be used.
    """
    return [(curve, trend_of(curve)) for curve in read_curves(places)]


def trends(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a curve: model, activation, constraint, dataset, variant and `Trend`'s fields.

    Raises:
        RequestError: if a column is missing.
    """
    shown = ("dataset", "constraint", "activation", "model", "variant", "trend", "first", "last")
    return with_html(trend_table(judge(frame)), (*shown, "change", "seeds"))


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
    sound = Sound.of(curve)
    rows, columns = sound.seeds, sound.columns
    shown = shown_of(curve, sound)
    y = curve.activation[np.ix_(rows, columns)]
    sigma2 = curve.sigma2[columns]
    one_seed, whole = rows.size == 1, rows.size > 0 and columns.size > 1
    change = sound.effects[ACTIVATION][-1].interval() if whole else (NAN,) * 3
    pre = sound.effects.get(PRE_ACTIVATION)
    pre_change = pre[-1].interval() if pre else (NAN,) * 3
    at_pre = curve.pre_activations[np.ix_(rows, columns)][..., -1]
    levels, pre_levels, dead = mean(y), mean(at_pre), mean(curve.dead[np.ix_(rows, columns)])
    onset = dead_onset(dead) if whole else None
    trend, p = _described(y) if one_seed and whole else _class(shown)
    ceiling = bool(whole and at_the_end(float(levels[0])))
    settled = whole and all(e.settled(MARGINS[name]) for name, e in sound.effects.items())
    return Trend(
        trend=trend,
        p=p,
        seeds=int(rows.size),
        sigma2_values=int(columns.size) if rows.size else 0,
        sigma2_first=float(sigma2[0]) if columns.size else NAN,
        sigma2_last=float(sigma2[-1]) if columns.size else NAN,
        first=float(levels[0]) if y.size else NAN,
        last=float(levels[-1]) if y.size else NAN,
        lowest=float(levels.min()) if y.size else NAN,
        change=change[0],
        change_low=change[1],
        change_high=change[2],
        largest_change=float(np.abs(mean(sound.effects[ACTIVATION].now)).max()) if whole else NAN,
        pre_first=float(pre_levels[0]) if y.size else NAN,
        pre_last=float(pre_levels[-1]) if y.size else NAN,
        pre_change=pre_change[0],
        pre_low=pre_change[1],
        pre_high=pre_change[2],
        tau=_kendall(y) if whole else NAN,
        dead_first=float(dead[0]) if y.size else NAN,
        dead_last=float(dead[-1]) if y.size else NAN,
        dead_onset_sigma2=NAN if onset is None else float(sigma2[onset]),
        dead_onset_activation=NAN if onset is None else float(levels[onset]),
        settled=settled,
        alive=rows.size > 0 and (rows.size > 1 or not sound.dead),
        sensitive=rows.size > 0 and not ceiling,
        measure=deciding(curve, sound),
        descriptive=one_seed,
        epochs=curve.epoch,
        trials=curve.trials,
        diverged=curve.diverged,
        unfinished=curve.unfinished,
        note="; ".join(_notes(curve, sound, settled, ceiling)),
    )


def at_the_end(activation: float) -> bool:
    """Whether an activation fraction is within the margin of 0 or 1."""
    return not thresholds.MARGIN < activation < 1 - thresholds.MARGIN


def deciding(curve: Curve, sound: Sound) -> str:
    """The measure that decides: E[a_j] where the activation fraction stands at 0 or 1 and has not
    left it."""
    if not sound.effects:
        return ACTIVATION
    level = float(mean(curve.activation[np.ix_(sound.seeds, sound.columns[:1])])[0])
    left = abs(float(mean(sound.effects[ACTIVATION].now)[-1])) > thresholds.MARGIN
    return PRE_ACTIVATION if at_the_end(level) and not left else ACTIVATION


def shown_of(curve: Curve, sound: Sound) -> Shown:
    """With which p-value a curve is shown to be of each class, in the measure that decides."""
    measure = deciding(curve, sound)
    if measure not in sound.effects:
        return Shown(lacks="trials" if not sound.effects else "measure")
    effect, margin = sound.effects[measure], MARGINS[measure]
    p, lacks = {}, "epochs"
    if curve.epoch >= thresholds.FEWEST_EPOCHS:
        order = sorted(sound.effects, key=lambda name: name != measure)
        equivalent = equivalence([(sound.effects[name], MARGINS[name]) for name in order])
        p[FLAT], lacks = equivalent.p, equivalent.lacks
    moves, moves_on, end = _moves(effect.now), _moves(effect.forecast), effect[-1]
    expected = mean(end.later if np.isfinite(end.again).all() else end.now)[0]
    for trend, sign in ((DECREASING, -1), (INCREASING, 1)):
        opposite = (-sign * mean(moves)).max() > margin
        stays = sign * expected > margin
        if stays and not opposite:
            p[trend] = min(1.0, 2 * float(p_above(sign * end.now, margin)[0]))
    p[IRREGULAR] = _both(moves, margin)
    lasts = {
        FLAT: True,  # or it is not shown
        DECREASING: end.lasts_below(-margin)[0],
        INCREASING: end.lasts_above(margin)[0],
        IRREGULAR: _both(moves_on, margin) <= thresholds.LASTS,
    }
    return Shown(p, lacks, frozenset(name for name, whether in lasts.items() if whether))


def _moves(effects: np.ndarray) -> np.ndarray:
    """(R, K) paired changes from the smallest sigma2 -> those between any two sigma2."""
    level = np.concatenate([np.zeros((effects.shape[0], 1)), effects], 1)
    first, later = np.triu_indices(level.shape[1], 1)
    return level[:, later] - level[:, first]


def _both(moves: np.ndarray, margin: float) -> float:
    """The p-value of moves beyond the margin in both directions."""
    return max(p_some(p_above(moves, margin)), p_some(p_below(moves, -margin)))


def _class(shown: Shown) -> tuple[str, float]:
    """The class that is shown, with its p-value, uncorrected."""
    found = {trend: p for trend, p in shown.p.items() if p <= thresholds.ALPHA}
    return min(found.items(), key=lambda item: item[1]) if found else (UNDECIDED, NAN)


def _described(y: np.ndarray) -> tuple[str, float]:
    """The class that one seed's numbers are of."""
    level = y[0]
    later, margin = np.triu(level[None, :] - level[:, None]), thresholds.MARGIN
    rises, falls = later.max() > margin, later.min() < -margin
    if np.abs(level - level[0]).max() <= margin and not (rises and falls):
        return FLAT, NAN
    if rises and falls:
        return IRREGULAR, NAN
    return (INCREASING if rises else DECREASING), NAN


def _notes(curve: Curve, sound: Sound, settled: bool, ceiling: bool) -> list[str]:
    """What of a curve does not enter its trend, and what limits it, in words."""
    rows, columns = sound.seeds, sound.columns
    left = curve.seeds.size - rows.size - sound.dead if columns.size else 0
    gone = curve.sigma2.size - columns.size if rows.size else 0
    counts = [
        (curve.diverged, "diverged trial", "left out"),
        (curve.behind, "trial", f"left out: not yet at epoch {curve.epoch}"),
        (curve.unfinished, "trial", "unfinished"),
        (sound.dead, "seed", "left out: units dead at the smallest sigma2"),
        (gone, "sigma2", "left out for missing trials"),
        (left, "seed", "left out for missing trials"),
    ]
    notes = [
        f"{count} {what}{'' if count == 1 or what == 'sigma2' else 's'} {why}"
        for count, what, why in counts
        if count
    ]
    if not rows.size:
        return [*notes, "no complete trials"]
    if columns.size < 2:
        return [*notes, "fewer than two values of sigma2"]
    sigma2 = curve.sigma2[columns]
    if sigma2[0] > 0:
        notes.append(f"no sigma2 = 0: compared with {sigma2[0]:g}")
    if sigma2[-1] < thresholds.FULL_RANGE:
        notes.append(f"sigma2 goes to {sigma2[-1]:g} only")
    if rows.size == 1:
        notes.append("one seed: descriptive")
    if PRE_ACTIVATION not in sound.effects:
        notes.append("E[a_j] unknown")
    if ceiling:
        notes.append("activation fraction at its limit at the smallest sigma2")
    if curve.epoch < thresholds.FEWEST_EPOCHS:
        notes.append("too few epochs to see a pace")
    elif not settled:
        notes.append("the effect still moves")
    return notes


def _kendall(y: np.ndarray) -> float:
    """Kendall's tau over the pairs within each seed."""
    first, later = np.triu_indices(y.shape[1], 1)
    signs = np.sign(y[:, later] - y[:, first])
    return float(np.nanmean(signs))


def dead_onset(dead: np.ndarray) -> int | None:
    """The first of ascending sigma2 (K,) at which dead units have begun to rise."""
    risen = np.flatnonzero(dead > dead[0] + thresholds.DEAD_RISE)
    return int(risen[0]) if risen.size else None
