"""The paper's predictions, each a short class that judges itself on curves.

A new prediction is a class that derives from `Prediction` or `TrendPrediction`; the verdict table,
the command line and the report pick it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from sparseae.analysis import thresholds
from sparseae.analysis.curves import WHITENED, Curve
from sparseae.analysis.trends import Judged, Trend, dead_onset, half_width, judge

SUPPORTED, CONTRADICTED = "supported", "contradicted"
INCONCLUSIVE, NOT_TESTED = "inconclusive", "not tested"

#: Why curves are not compared while a sweep runs.
EPOCHS_DIFFER = "not at the same epoch, or too few epochs"

#: The row of a prediction over all data sets together.
TOGETHER = "all"


@dataclass(frozen=True)
class Outcome:
    """A verdict, the numbers that decided, and the curves they come from (docs/analysis.md)."""

    verdict: str
    evidence: str
    curves: Judged = field(default_factory=list)
    effect: float = float("nan")
    effect_low: float = float("nan")
    effect_high: float = float("nan")
    measure: str = ""
    seeds: int = 0
    p: float = float("nan")
    p_corrected: float = float("nan")
    settled: bool = False
    sensitive: bool = False
    needs: str = ""
    would_change: str = ""


class Evidence:
    """The curves of one data set, found by what they are."""

    def __init__(self, found: Judged) -> None:
        self._found = found

    @property
    def measured(self) -> Judged:
        """The curves of which the theory was measured (``theory: true``)."""
        return [(curve, trend) for curve, trend in self._found if curve.theory]

    def find(
        self,
        model: str,
        activation: str,
        constraint: str,
        *,
        encoder_bias: bool = True,
        most_corruptions: bool = False,
    ) -> Judged:
        """Every variant of a curve, with its trend.

        Without an encoder bias, and with more corruptions a sample than the fewest (the paper has
        one), only on request.
        """
        wanted = {"model": model, "activation": activation, "constraint": constraint}
        found = [
            (curve, trend)
            for curve, trend in self._found
            if all(curve.name[key] == value for key, value in wanted.items())
            and bool(curve.settings.get("encoder_bias", True)) == encoder_bias
        ]
        fewest = min((corruptions_of(curve) for curve, _ in found), default=1)
        return [p for p in found if most_corruptions or corruptions_of(p[0]) == fewest]


def corruptions_of(curve: Curve) -> int:
    """Corruptions a sample of a curve's trials."""
    return int(curve.settings.get("corruptions") or 1)


class Prediction:
    """One prediction of the paper. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    claim: ClassVar[str]
    section: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            PREDICTIONS.append(cls)

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        """The single statements that the class makes."""
        yield cls()

    #: The function of `sparseae.analysis.plot` that draws the curves that decided.
    figure: ClassVar[str] = "of_curves"

    #: What the statement is about, where the class makes several.
    subject: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}: {self.subject}" if self.subject else self.name

    def test(self, evidence: Evidence) -> Outcome:
        """Judge on one data set."""
        raise NotImplementedError

    def together(self, outcomes: Mapping[str, Outcome]) -> Outcome:
        """Judge over data sets: contradicted anywhere is contradicted, else all must support."""
        tested = {k: o for k, o in outcomes.items() if o.verdict != NOT_TESTED}
        if not tested:
            return Outcome(NOT_TESTED, "no data set has the trials")
        parts = [f"{o.verdict} on {', '.join(k for k in tested if tested[k].verdict == o.verdict)}"
                 for o in {o.verdict: o for o in tested.values()}.values()]  # fmt: skip
        kept = [pair for o in tested.values() for pair in o.curves]
        return Outcome(combined([o.verdict for o in tested.values()]), "; ".join(parts), kept)


#: The columns of the table of verdicts.
COLUMNS = [
    "prediction", "claim", "section", "dataset", "verdict", "evidence", "effect", "effect_low",
    "effect_high", "measure", "seeds", "p", "p_corrected", "settled", "sensitive", "needs",
    "would_change", "trials", "diverged",
]  # fmt: skip


#: Every prediction, in the order of the paper's sections.
PREDICTIONS: list[type[Prediction]] = []


def combined(verdicts: Sequence[str]) -> str:
    """One verdict for statements that all have to hold."""
    if not verdicts:
        return NOT_TESTED
    for verdict in (CONTRADICTED, INCONCLUSIVE, NOT_TESTED):
        if verdict in verdicts:
            return verdict
    return SUPPORTED


def described(trend: Trend) -> str:
    """A trend with its numbers."""
    interval = (
        ""
        if np.isnan(trend.change_low)
        else f" [{trend.change_low:+.3f}, {trend.change_high:+.3f}]"
    )
    words = (
        f"{trend.trend}: {trend.first:.3f} -> {trend.last:.3f}, change {trend.change:+.3f}"
        f"{interval}, tau {trend.tau:+.2f} (p {trend.p_value:.2g}), {trend.seeds} seeds, "
        f"{trend.epochs} epochs"
    )
    return words + (f" ({trend.note})" if trend.note else "")


class TrendPrediction(Prediction):
    """Some curves have a trend."""

    expected: ClassVar[str]
    models: ClassVar[tuple[str, ...]]
    activations: ClassVar[tuple[str, ...]]
    constraints: ClassVar[tuple[str, ...]] = ("unit_norm",)

    def __init__(self, model: str, activation: str, constraint: str) -> None:
        self.model, self.activation, self.constraint = model, activation, constraint
        self.subject = f"{activation} {model} {constraint}"

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        for constraint in cls.constraints:
            for activation in cls.activations:
                for model in cls.models:
                    yield cls(model, activation, constraint)

    def test(self, evidence: Evidence) -> Outcome:
        found = evidence.find(self.model, self.activation, self.constraint)
        if not found:
            return Outcome(NOT_TESTED, f"no {self.activation} {self.model} under {self.constraint}")
        words = [_of(curve) + described(trend) for curve, trend in found]
        verdict = combined([self._verdict(trend) for _, trend in found])
        return Outcome(verdict, "; ".join(words), found)

    def _verdict(self, trend: Trend) -> str:
        if trend.trend == "undecided" or trend.descriptive:
            return INCONCLUSIVE
        if trend.trend == self.expected and (self.expected != "flat" or _shows_flatness(trend)):
            return SUPPORTED
        # A curve that still moves, or ends early, may yet do what was predicted.
        return CONTRADICTED if trend.settled and trend.full_range else INCONCLUSIVE


def _shows_flatness(trend: Trend) -> bool:
    """Initial weights are the same for every sigma2, and a small sigma2 is none."""
    return trend.full_range and trend.epochs >= thresholds.FEWEST_EPOCHS


def comparable(curves: Judged) -> bool:
    """Whether curves are at the same epoch, and past the first."""
    epochs = {curve.epoch for curve, _ in curves}
    return len(epochs) == 1 and min(epochs) >= thresholds.FEWEST_EPOCHS


def _of(curve: Curve) -> str:
    """Which of several variants a number is of."""
    return f"{curve.suffix.removeprefix(', ')}: " if curve.variant else ""


class ReluPenaltyFlat(TrendPrediction):
    name = "relu-flat"
    claim = (
        "With relu and weights of length one the bias gradient of the penalty is zero, so the "
        "activation fraction does not depend on sigma2."
    )
    section = "3.1, figure 1"
    expected, models, activations = "flat", ("cae", "mdae"), ("relu",)


class MdaeEqualsCae(Prediction):
    name = "mdae-equals-cae"
    claim = "With weights of length one, cae and mdae are the same objective (relu)."
    section = "3.1, footnote 3"

    def test(self, evidence: Evidence) -> Outcome:
        cae = evidence.find("cae", "relu", "unit_norm")
        mdae = evidence.find("mdae", "relu", "unit_norm")
        differences = [
            abs(a.activation[i, j] - b.activation[k, m])
            for a, _ in cae
            for b, _ in mdae
            if a.settings == b.settings and a.epoch == b.epoch
            for i, seed in enumerate(a.seeds)
            for j, sigma2 in enumerate(a.sigma2)
            for k in np.flatnonzero(b.seeds == seed)
            for m in np.flatnonzero(b.sigma2 == sigma2)
        ]
        gaps = np.array([d for d in differences if np.isfinite(d)])
        used = [*cae, *mdae]
        if not gaps.size:
            return Outcome(NOT_TESTED, "no pairs of relu cae and mdae under unit_norm", used)
        words = (
            f"{gaps.size} pairs differ by {gaps.mean():.4f} on average, at most {gaps.max():.4f}"
        )
        if not comparable(used):
            return Outcome(INCONCLUSIVE, f"{words}; {EPOCHS_DIFFER}", used)
        if gaps.max() <= thresholds.EQUAL:
            return Outcome(SUPPORTED, words, used)
        return Outcome(
            CONTRADICTED if gaps.max() > thresholds.MARGIN else INCONCLUSIVE, words, used
        )


class ReluCorruptionSparser(TrendPrediction):
    name = "relu-corruption-sparser"
    claim = (
        "With relu and weights of length one, explicit corruption makes the code sparser with "
        "sigma2, and so does its first-order term alone (edae)."
    )
    section = "3.1, 3.1.1, figures 1 and 3"
    expected, models, activations = "decreasing", ("dae", "edae"), ("relu",)


class DeadUnitsLate(Prediction):
    name = "dead-units-late"
    claim = (
        "relu dae with weights of length one: dead units begin to rise only once the activation "
        "fraction is around 0.05."
    )
    section = "3.1"

    def test(self, evidence: Evidence) -> Outcome:
        found = evidence.find("dae", "relu", "unit_norm")
        if not found:
            return Outcome(NOT_TESTED, "no relu dae under unit_norm")
        judged = [self._judge(curve, trend) for curve, trend in found]
        words = [_of(curve) + text for (curve, _), (_, text) in zip(found, judged, strict=True)]
        return Outcome(combined([verdict for verdict, _ in judged]), "; ".join(words), found)

    def _judge(self, curve: Curve, trend: Trend) -> tuple[str, str]:
        onsets = _onsets(curve)
        if trend.descriptive or not onsets:
            return INCONCLUSIVE, "one seed" if trend.descriptive else "too few trials"
        late = thresholds.NEAR_FIVE_PERCENT
        from_above, seen = max(o.crossing for o in onsets), [o.seen for o in onsets]
        if not any(seen):
            words = f"no rise of dead units down to activation {from_above:.3f}"
        else:
            words = (
                f"dead units begin to rise between activation {from_above:.3f} and {min(seen):.3f}"
            )
        words += f", {len(onsets)} seeds"
        if from_above <= late:
            return SUPPORTED, words
        if min(seen) > late:
            return CONTRADICTED, words
        return INCONCLUSIVE, f"{words}: sigma2 too coarse, or not far enough"


@dataclass(frozen=True)
class _Onset:
    """Where along sigma2 the dead units of one seed begin to rise, in activation fractions."""

    alive: float  # the lowest without a rise
    crossing: float  # the highest at which it can begin, as dead units come ever faster (convexly)
    seen: float  # the first with a rise; 0 where there is none


def _onsets(curve: Curve) -> list[_Onset]:
    """One of each seed that has trials."""
    onsets = []
    for activation, dead in zip(curve.activation, curve.dead, strict=True):
        there = np.isfinite(activation) & np.isfinite(dead)
        if not there.any():
            continue
        a, d = activation[there], dead[there]
        first = dead_onset(d)
        if first is None:
            onsets.append(_Onset(float(a.min()), float(a.min()), 0.0))
            continue
        share = (d[0] + thresholds.DEAD_RISE - d[first - 1]) / (d[first] - d[first - 1])
        crossing = a[first - 1] + share * (a[first] - a[first - 1])
        onsets.append(_Onset(float(a[:first].min()), float(crossing), float(a[first])))
    return onsets


class FreeWeightsFloor(Prediction):
    name = "free-weights-floor"
    claim = "relu dae without the constraint does not go below an activation fraction of 0.1."
    section = "3.1, figure 2"

    def test(self, evidence: Evidence) -> Outcome:
        found = evidence.find("dae", "relu", "none")
        if not found:
            return Outcome(NOT_TESTED, "no relu dae without the constraint")
        judged = [self._judge(curve, trend) for curve, trend in found]
        words = [_of(curve) + text for (curve, _), (_, text) in zip(found, judged, strict=True)]
        return Outcome(combined([verdict for verdict, _ in judged]), "; ".join(words), found)

    def _judge(self, curve: Curve, trend: Trend) -> tuple[str, str]:
        if trend.descriptive or np.isnan(trend.lowest):
            return INCONCLUSIVE, f"{trend.seeds} seeds, lowest activation {trend.lowest:.3f}"
        low, high = trend.lowest - trend.lowest_half, trend.lowest + trend.lowest_half
        words = f"lowest activation {trend.lowest:.3f} [{low:.3f}, {high:.3f}], {trend.seeds} seeds"
        words += f", sigma2 to {trend.sigma2_last:g}"
        if high < thresholds.FREE_WEIGHTS_FLOOR:
            return CONTRADICTED, words
        # What still falls, or was not pushed far enough, may yet go below.
        if low >= thresholds.FREE_WEIGHTS_FLOOR and trend.settled and trend.full_range:
            return SUPPORTED, words
        return INCONCLUSIVE, words + (f" ({trend.note})" if trend.note else "")


class ConstraintSparser(Prediction):
    name = "constraint-sparser"
    claim = (
        "relu dae reaches sparser codes before units die with weights of length one than without "
        "the constraint."
    )
    section = "3.1, summary"

    def test(self, evidence: Evidence) -> Outcome:
        sides = [evidence.find("dae", "relu", c) for c in ("unit_norm", "none")]
        used = [*sides[0], *sides[1]]
        if not all(sides):
            return Outcome(NOT_TESTED, "needs relu dae under unit_norm and none", used)
        fixed, free = (min((_sparsest_alive(c) for c, _ in side), key=_mean) for side in sides)
        words = (
            f"sparsest code before units die: {_mean(fixed):.3f} with, {_mean(free):.3f} without"
        )
        if not comparable(used):
            return Outcome(INCONCLUSIVE, f"{words}; {EPOCHS_DIFFER}", used)
        seeds = sorted(set(fixed) & set(free))
        if len(seeds) < 2:
            return Outcome(INCONCLUSIVE, f"{words}; fewer than two seeds have both", used)
        gap = np.array([[free[seed] - fixed[seed]] for seed in seeds])
        size, half = float(gap.mean()), float(half_width(gap, 1 - thresholds.ALPHA / 2)[0])
        interval = f"[{size - half:+.3f}, {size + half:+.3f}]"
        words += f", difference {size:+.3f} {interval}, {len(seeds)} seeds"
        if abs(size) <= max(thresholds.MARGIN, half):
            return Outcome(INCONCLUSIVE, words, used)
        return Outcome(SUPPORTED if size > 0 else CONTRADICTED, words, used)


def _sparsest_alive(curve: Curve) -> dict[int, float]:
    """Of each seed the lowest activation fraction at which dead units have not begun to rise."""
    seeds = curve.seeds[np.isfinite(curve.activation).any(1)]
    return {int(s): onset.alive for s, onset in zip(seeds, _onsets(curve), strict=True)}


def _mean(by_seed: Mapping[int, float]) -> float:
    return float(np.mean(list(by_seed.values()))) if by_seed else float("inf")


class SigmoidSparser(TrendPrediction):
    name = "sigmoid-sparser"
    claim = "With sigmoid and weights of length one, the code gets sparser with sigma2."
    section = "3.2, figure 4"
    expected, models, activations = "decreasing", ("dae", "cae", "mdae", "sae"), ("sigmoid",)


class SoftplusSparser(TrendPrediction):
    name = "softplus-sparser"
    claim = "Softplus has trends like sigmoid's: the code gets sparser with sigma2."
    section = "3.2, footnote 4"
    expected, models, activations = "decreasing", ("dae", "cae", "mdae", "sae"), ("softplus",)


class FreeWeightsUnpredictable(TrendPrediction):
    name = "free-weights-unpredictable"
    claim = (
        "Without the constraint the trend of cae and mdae is unpredictable: irregular, or of "
        "different sign on different data sets."
    )
    section = "3.1, 3.2, figures 2 and 5"
    expected, models, activations = "irregular", ("cae", "mdae"), ("relu", "sigmoid")
    constraints = ("none",)

    def _verdict(self, trend: Trend) -> str:
        # A regular trend on one data set is half of what the claim needs.
        irregular = trend.trend == "irregular" and not trend.descriptive
        return SUPPORTED if irregular else INCONCLUSIVE

    def together(self, outcomes: Mapping[str, Outcome]) -> Outcome:
        judged = {k: [trend for _, trend in o.curves] for k, o in outcomes.items() if o.curves}
        if not judged:
            return Outcome(NOT_TESTED, "no data set has the trials")
        words = "; ".join(f"{k} {', '.join(t.trend for t in v)}" for k, v in judged.items())
        used = [pair for o in outcomes.values() for pair in o.curves]
        kinds = {t.trend for found in judged.values() for t in found if not t.descriptive}
        if "irregular" in kinds or {"increasing", "decreasing"} <= kinds:
            return Outcome(SUPPORTED, words, used)
        # A whitened data set is another view of the same data, not another data set.
        several = len({k.removesuffix(WHITENED) for k in judged}) > 1
        settled = all(t.settled and t.full_range for found in judged.values() for t in found)
        if several and kinds in ({"increasing"}, {"decreasing"}, {"flat"}):
            verdict = CONTRADICTED if settled else INCONCLUSIVE
            return Outcome(verdict, f"the same everywhere: {words}", used)
        return Outcome(INCONCLUSIVE, words if several else f"one data set: {words}", used)


class SaeAlwaysSparser(TrendPrediction):
    name = "sae-sparser"
    claim = (
        "The penalty of sae has a positive bias gradient with every such activation: the code gets "
        "sparser with sigma2."
    )
    section = "2.1.1, corollary 1"
    expected, models = "decreasing", ("sae",)
    activations = ("relu", "sigmoid", "softplus")
    constraints = ("unit_norm", "none")


class NoGuarantee(Prediction):
    name = "no-saturation-no-guarantee"
    claim = "tanh and maxout do not saturate at 0 and give no guarantee of sparsity."
    section = "2.1.2"

    def __init__(self, activation: str) -> None:
        self.activation = self.subject = activation

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        for activation in ("tanh", "maxout"):
            yield cls(activation)

    def test(self, evidence: Evidence) -> Outcome:
        models = ("dae", "cae", "mdae", "sae")
        found = [pair for m in models for pair in evidence.find(m, self.activation, "unit_norm")]
        words = "; ".join(f"{c.name['model']} {t.trend}" for c, t in found)
        if not found:
            return Outcome(NOT_TESTED, f"no {self.activation} under unit_norm")
        unlike = ("flat", "increasing", "irregular")
        if any(t.trend in unlike and t.settled and t.full_range and not t.descriptive
               for _, t in found):  # fmt: skip
            return Outcome(SUPPORTED, words, found)
        # That a guarantee is missing does not forbid that the code gets sparser.
        return Outcome(INCONCLUSIVE, words, found)


class BiasNeeded(Prediction):
    name = "bias-needed"
    claim = "Without an encoder bias the sparsity that units can reach is limited."
    section = "2.1.1"

    def __init__(self, model: str) -> None:
        self.model = model
        self.subject = f"relu {model}"

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        for model in ("dae", "sae"):
            yield cls(model)

    def test(self, evidence: Evidence) -> Outcome:
        with_bias, without = (
            evidence.find(self.model, "relu", "unit_norm", encoder_bias=bias)
            for bias in (True, False)
        )
        used = [*with_bias, *without]
        if not with_bias or not without:
            return Outcome(NOT_TESTED, f"needs relu {self.model} with and without bias", used)
        low, low_without = (min(t.lowest for _, t in side) for side in (with_bias, without))
        words = f"lowest activation {low:.3f} with a bias, {low_without:.3f} without"
        if not comparable(used):
            return Outcome(INCONCLUSIVE, f"{words}; {EPOCHS_DIFFER}", used)
        one_seed = any(trend.descriptive for _, trend in used)
        if one_seed or not abs(low - low_without) > thresholds.MARGIN:  # NaN is not above
            return Outcome(INCONCLUSIVE, words, used)
        return Outcome(SUPPORTED if low < low_without else CONTRADICTED, words, used)


def check_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a prediction and data set, and one over all data sets together.

    Columns: `COLUMNS`, which docs/analysis.md explains.

    Raises:
        RequestError: if a column is missing.
    """
    return verdict_table(judge(frame))


def verdict_table(judged: Judged) -> pd.DataFrame:
    """`check_predictions` of curves that are judged already."""
    datasets = sorted({curve.name["dataset"] for curve, _ in judged})
    rows = []
    for case, outcomes in outcomes_of(judged):
        for dataset in [*datasets, TOGETHER]:
            outcome = outcomes[dataset]
            rows.append(
                {
                    "prediction": case.label,
                    "claim": case.claim,
                    "section": case.section,
                    "dataset": dataset,
                    "trials": sum(curve.trials for curve, _ in outcome.curves),
                    "diverged": sum(curve.diverged for curve, _ in outcome.curves),
                }
                | {name: getattr(outcome, name) for name in COLUMNS if hasattr(outcome, name)}
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def every_case() -> Iterator[Prediction]:
    """Every statement of every prediction."""
    for kind in PREDICTIONS:
        yield from kind.cases()


def outcomes_of(
    judged: Judged, cases: Iterable[Prediction] | None = None
) -> Iterator[tuple[Prediction, dict[str, Outcome]]]:
    """Statements (all) with their outcome by data set and, as `TOGETHER`, over all of them."""
    by_dataset: dict[str, Judged] = {}
    for curve, trend in judged:
        by_dataset.setdefault(curve.name["dataset"], []).append((curve, trend))
    for case in every_case() if cases is None else cases:
        each = {d: case.test(Evidence(found)) for d, found in sorted(by_dataset.items())}
        yield case, {**each, TOGETHER: case.together(each)}
