"""The paper's predictions, each a short class that judges itself on curves.

A new prediction is a class that derives from `Prediction` or `TrendPrediction`; the verdict table,
the command line and the report pick it up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from sparseae.analysis import thresholds
from sparseae.analysis.curves import Curve, curves
from sparseae.analysis.trends import Trend, trend_of

SUPPORTED, CONTRADICTED = "supported", "contradicted"
INCONCLUSIVE, NOT_TESTED = "inconclusive", "not tested"

#: The row of a prediction over all data sets together.
TOGETHER = "all"


@dataclass(frozen=True)
class Outcome:
    """A verdict, the numbers that decided, and the curves they come from."""

    verdict: str
    evidence: str
    curves: tuple[Curve, ...] = ()


class Evidence:
    """The curves of one data set, found by what they are."""

    def __init__(self, found: Sequence[tuple[Curve, Trend]]) -> None:
        self._found = found

    def find(
        self, model: str, activation: str, constraint: str, *, encoder_bias: bool = True
    ) -> list[tuple[Curve, Trend]]:
        """Every variant of a curve, with its trend; without an encoder bias only on request."""
        wanted = {"model": model, "activation": activation, "constraint": constraint}
        return [
            (curve, trend)
            for curve, trend in self._found
            if all(curve.name[key] == value for key, value in wanted.items())
            and bool(curve.variant.get("encoder_bias", True)) == encoder_bias
        ]


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

    @property
    def label(self) -> str:
        return self.name

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
        kept = tuple(curve for o in tested.values() for curve in o.curves)
        return Outcome(combined([o.verdict for o in tested.values()]), "; ".join(parts), kept)


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

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        for constraint in cls.constraints:
            for activation in cls.activations:
                for model in cls.models:
                    yield cls(model, activation, constraint)

    @property
    def label(self) -> str:
        return f"{self.name}: {self.activation} {self.model} {self.constraint}"

    def test(self, evidence: Evidence) -> Outcome:
        found = evidence.find(self.model, self.activation, self.constraint)
        verdicts, words = [], []
        for curve, trend in found:
            verdicts.append(self._verdict(trend))
            variant = "".join(f"{k}={v} " for k, v in curve.variant.items())
            words.append(variant + described(trend))
        if not found:
            words = [f"no {self.activation} {self.model} under {self.constraint}"]
        return Outcome(combined(verdicts), "; ".join(words), tuple(c for c, _ in found))

    def _verdict(self, trend: Trend) -> str:
        if trend.trend == "undecided":
            return INCONCLUSIVE
        if trend.trend == self.expected:
            return SUPPORTED
        # A curve that still moves may yet do what was predicted.
        return CONTRADICTED if trend.converged else INCONCLUSIVE


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
            if a.variant == b.variant
            for i, seed in enumerate(a.seeds)
            for j, sigma2 in enumerate(a.sigma2)
            for k in np.flatnonzero(b.seeds == seed)
            for m in np.flatnonzero(b.sigma2 == sigma2)
        ]
        gaps = np.array([d for d in differences if np.isfinite(d)])
        used = tuple(c for c, _ in (*cae, *mdae))
        if not gaps.size:
            return Outcome(NOT_TESTED, "no pairs of relu cae and mdae under unit_norm", used)
        words = (
            f"{gaps.size} pairs differ by {gaps.mean():.4f} on average, at most {gaps.max():.4f}"
        )
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
        verdicts, words = [], []
        found = evidence.find("dae", "relu", "unit_norm")
        for _, trend in found:
            at = trend.dead_onset_activation
            if np.isnan(trend.lowest):
                verdicts.append(INCONCLUSIVE)
                words.append("too few trials")
            elif np.isnan(at):
                sparse = trend.lowest <= thresholds.NEAR_FIVE_PERCENT
                verdicts.append(SUPPORTED if sparse else INCONCLUSIVE)
                words.append(f"no rise of dead units down to activation {trend.lowest:.3f}")
            else:
                late = at <= thresholds.NEAR_FIVE_PERCENT
                verdicts.append(SUPPORTED if late else CONTRADICTED)
                words.append(
                    f"dead units rise at sigma2 {trend.dead_onset_sigma2:g}, activation {at:.3f}"
                )
        text = "; ".join(words) or "no relu dae under unit_norm"
        return Outcome(combined(verdicts), text, tuple(c for c, _ in found))


class FreeWeightsFloor(Prediction):
    name = "free-weights-floor"
    claim = "relu dae without the constraint does not go below an activation fraction of 0.1."
    section = "3.1, figure 2"

    def test(self, evidence: Evidence) -> Outcome:
        found = evidence.find("dae", "relu", "none")
        verdicts, words = [], []
        for _, trend in found:
            words.append(f"lowest activation {trend.lowest:.3f}")
            if np.isnan(trend.lowest):
                verdicts.append(INCONCLUSIVE)
            else:
                above = trend.lowest >= thresholds.FREE_WEIGHTS_FLOOR
                verdicts.append(SUPPORTED if above else CONTRADICTED)
        text = "; ".join(words) or "no relu dae without the constraint"
        return Outcome(combined(verdicts), text, tuple(c for c, _ in found))


class ConstraintSparser(Prediction):
    name = "constraint-sparser"
    claim = (
        "relu dae reaches sparser codes before units die with weights of length one than without "
        "the constraint."
    )
    section = "3.1, summary"

    def test(self, evidence: Evidence) -> Outcome:
        fixed, free = (evidence.find("dae", "relu", c) for c in ("unit_norm", "none"))
        used = tuple(c for c, _ in (*fixed, *free))
        if not fixed or not free:
            return Outcome(NOT_TESTED, "needs relu dae under unit_norm and none", used)
        best = [min(_sparsest_alive(c) for c, _ in side) for side in (fixed, free)]
        words = f"sparsest code with few dead units: {best[0]:.3f} with, {best[1]:.3f} without"
        if not np.isfinite(best).all() or abs(best[0] - best[1]) <= thresholds.MARGIN:
            return Outcome(INCONCLUSIVE, words, used)
        return Outcome(SUPPORTED if best[0] < best[1] else CONTRADICTED, words, used)


def _sparsest_alive(curve: Curve) -> float:
    """The lowest activation fraction at which dead units have not begun to rise."""
    there = np.isfinite(curve.activation).any(0)
    if not there.any():
        return float("inf")
    activation = np.nanmean(curve.activation[:, there], axis=0)
    dead = np.nanmean(curve.dead[:, there], axis=0)
    return float(activation[dead <= dead[0] + thresholds.DEAD_RISE].min())


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
        return SUPPORTED if trend.trend == "irregular" else INCONCLUSIVE

    def together(self, outcomes: Mapping[str, Outcome]) -> Outcome:
        judged = {k: [trend_of(c) for c in o.curves] for k, o in outcomes.items()}
        judged = {k: found for k, found in judged.items() if found}
        if not judged:
            return Outcome(NOT_TESTED, "no data set has the trials")
        words = "; ".join(f"{k} {', '.join(t.trend for t in v)}" for k, v in judged.items())
        used = tuple(c for o in outcomes.values() for c in o.curves)
        kinds = {trend.trend for found in judged.values() for trend in found}
        if "irregular" in kinds or {"increasing", "decreasing"} <= kinds:
            return Outcome(SUPPORTED, words, used)
        # A whitened data set is another view of the same data, not another data set.
        several = len({k.removesuffix(" (whitened)") for k in judged}) > 1
        settled = all(trend.converged for found in judged.values() for trend in found)
        if several and kinds in ({"increasing"}, {"decreasing"}, {"flat"}):
            verdict = CONTRADICTED if settled else INCONCLUSIVE
            return Outcome(verdict, f"the same everywhere: {words}", used)
        return Outcome(INCONCLUSIVE, words if several else f"one data set: {words}", used)


class SaeAlwaysSparser(TrendPrediction):
    name = "sae-sparser"
    claim = "The penalty of sae has a positive bias gradient with every such activation."
    section = "2.1.1, corollary 1"
    expected, models = "decreasing", ("sae",)
    activations = ("relu", "sigmoid", "softplus")
    constraints = ("unit_norm", "none")


class NoGuarantee(Prediction):
    name = "no-saturation-no-guarantee"
    claim = "tanh and maxout do not saturate at 0 and give no guarantee of sparsity."
    section = "2.1.2"

    def __init__(self, activation: str) -> None:
        self.activation = activation

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        for activation in ("tanh", "maxout"):
            yield cls(activation)

    @property
    def label(self) -> str:
        return f"{self.name}: {self.activation}"

    def test(self, evidence: Evidence) -> Outcome:
        models = ("dae", "cae", "mdae", "sae")
        found = [pair for m in models for pair in evidence.find(m, self.activation, "unit_norm")]
        words = "; ".join(f"{c.name['model']} {t.trend}" for c, t in found)
        used = tuple(c for c, _ in found)
        if not found:
            return Outcome(NOT_TESTED, f"no {self.activation} under unit_norm", used)
        unlike = [t for _, t in found if t.trend in ("flat", "increasing", "irregular")]
        if unlike:
            return Outcome(SUPPORTED, words, used)
        # That a guarantee is missing does not forbid that the code gets sparser.
        return Outcome(INCONCLUSIVE, words, used)


class BiasNeeded(Prediction):
    name = "bias-needed"
    claim = "Without an encoder bias the sparsity that units can reach is limited."
    section = "2.1.1"

    def __init__(self, model: str) -> None:
        self.model = model

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        for model in ("dae", "sae"):
            yield cls(model)

    @property
    def label(self) -> str:
        return f"{self.name}: relu {self.model}"

    def test(self, evidence: Evidence) -> Outcome:
        with_bias, without = (
            evidence.find(self.model, "relu", "unit_norm", encoder_bias=bias)
            for bias in (True, False)
        )
        used = tuple(c for c, _ in (*with_bias, *without))
        if not with_bias or not without:
            return Outcome(NOT_TESTED, f"needs relu {self.model} with and without bias", used)
        low, low_without = (min(t.lowest for _, t in side) for side in (with_bias, without))
        words = f"lowest activation {low:.3f} with a bias, {low_without:.3f} without"
        if np.isnan([low, low_without]).any() or abs(low - low_without) <= thresholds.MARGIN:
            return Outcome(INCONCLUSIVE, words, used)
        return Outcome(SUPPORTED if low < low_without else CONTRADICTED, words, used)


def check_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a prediction and data set, and one over all data sets together.

    Columns: prediction, claim, section, dataset, verdict, evidence, trials, diverged.

    Raises:
        RequestError: if a column is missing.
    """
    judged = [(curve, trend_of(curve)) for curve in curves(frame)]
    datasets = sorted({curve.name["dataset"] for curve, _ in judged})
    rows = []
    for kind in PREDICTIONS:
        for case in kind.cases():
            outcomes = {
                d: case.test(Evidence([p for p in judged if p[0].name["dataset"] == d]))
                for d in datasets
            }
            for dataset, outcome in {**outcomes, TOGETHER: case.together(outcomes)}.items():
                rows.append(
                    {
                        "prediction": case.label,
                        "claim": case.claim,
                        "section": case.section,
                        "dataset": dataset,
                        "verdict": outcome.verdict,
                        "evidence": outcome.evidence,
                        "trials": sum(c.trials for c in outcome.curves),
                        "diverged": sum(c.diverged for c in outcome.curves),
                    }
                )
    return pd.DataFrame(rows, columns=["prediction", "claim", "section", "dataset", "verdict",
                                       "evidence", "trials", "diverged"])  # fmt: skip
