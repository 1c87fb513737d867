"""What a prediction is: a short class that says with which p-values some curves speak for it.

A new prediction derives from `Prediction` or `TrendPrediction`; the table of verdicts, the command
line and the report pick it up. It makes no verdict: `sparseae.analysis.verdicts` does, for the
whole table at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import numpy as np

from sparseae.analysis import thresholds
from sparseae.analysis.curves import Curve
from sparseae.analysis.inference import NAN, Effect, p_above, p_below, p_some_lasting
from sparseae.analysis.trends import (
    ACTIVATION,
    DECREASING,
    FLAT,
    INCREASING,
    IRREGULAR,
    PRE_ACTIVATION,
    Judged,
    Shown,
    Sound,
    Trend,
    shown_of,
)
from sparseae.model.trial import OWN_KEYS

#: Settings in which a positive control may differ: one model's own.
_OF_ONE_MODEL = {*OWN_KEYS, "corruptions", "rho"}


@dataclass(frozen=True)
class Finding:
    """What some curves say of a statement.

    Attributes:
        evidence: the numbers in words.
        curves: the curves they come from, with their trends.
        supports, contradicts: the p-values with which they do; NaN where that cannot be claimed,
            whatever the p-value.
        effect, low, high: what was judged: mean over seeds and 95 % interval.
        measure: what it is of.
        lacks: what it takes to claim more, a word of `sparseae.analysis.verdicts.NEEDS`.
        hint: that in a sentence, where it can be said more precisely.
    """

    evidence: str
    curves: Judged = field(default_factory=list)
    supports: float = NAN
    contradicts: float = NAN
    effect: float = NAN
    low: float = NAN
    high: float = NAN
    measure: str = ""
    seeds: int = 0
    settled: bool = False
    sensitive: bool = False
    lacks: str = ""
    hint: str = ""
    tested: bool = True

    @property
    def p(self) -> float:
        """Of the stronger claim; NaN where none is allowed."""
        known = [p for p in (self.supports, self.contradicts) if p == p]
        return min(known, default=NAN)


def not_tested(why: str, curves: Judged | None = None) -> Finding:
    """There are no trials for a statement."""
    return Finding(why, curves or [], tested=False)


def all_of(findings: Sequence[Finding]) -> Finding:
    """Several statements that all have to hold, of variants of a curve.

    Those whose units are dead from the start say nothing where others do.
    """
    if len(findings) == 1:
        return findings[0]
    telling = [f for f in findings if f.lacks != "live units"] or list(findings)
    contradicts = [f.contradicts for f in telling if f.contradicts == f.contradicts]
    # One that cannot be claimed is the weakest, and none can then.
    weakest = max(telling, key=lambda f: np.inf if f.supports != f.supports else f.supports)
    return replace(
        weakest,
        evidence="; ".join(f.evidence for f in findings),
        curves=[pair for f in findings for pair in f.curves],
        contradicts=min(1.0, len(contradicts) * min(contradicts)) if contradicts else NAN,
        seeds=min(f.seeds for f in telling),
        settled=all(f.settled for f in telling),
        sensitive=all(f.sensitive for f in telling),
    )


class Evidence:
    """The curves of one data set, found by what they are.

    Those without an encoder bias are controls: every statement of the paper is of encoders with
    one (section 2.1.1), so that they are there on request alone.
    """

    def __init__(self, found: Judged) -> None:
        self._found = found

    @property
    def measured(self) -> Judged:
        """The curves of which the theory was measured (``theory: true``)."""
        return [(c, t) for c, t in self._found if c.theory and c.epoch > 0 and has_bias(c)]

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
            and has_bias(curve) == encoder_bias
        ]
        fewest = min((corruptions_of(curve) for curve, _ in found), default=1)
        return [p for p in found if most_corruptions or corruptions_of(p[0]) == fewest]

    def control(self, curve: Curve, measure: str) -> str:
        """The model whose curve shows that this curve's setting can move; empty if there is none.

        Trained alike, at no later epoch, and moved by more than the margin.
        """
        for other, trend in self._found:
            if (
                other.name["model"] != curve.name["model"]
                and all(other.name[k] == curve.name[k] for k in ("activation", "constraint"))
                and other.epoch <= curve.epoch
                and same_settings(other, curve, _OF_ONE_MODEL)
                and trend.moved(measure)
            ):
                return other.name["model"]
        return ""


def has_bias(curve: Curve) -> bool:
    """Whether the encoder of a curve's trials has a bias, as it has where that is not known."""
    return curve.settings.get("encoder_bias") in (None, True)


def corruptions_of(curve: Curve) -> int:
    """Corruptions a sample of a curve's trials."""
    return int(curve.settings.get("corruptions") or 1)


def same_settings(one: Curve, other: Curve, but: set[str] | frozenset[str] = frozenset()) -> bool:
    """Whether two curves agree in every setting that both know, some apart."""
    both = (set(one.settings) & set(other.settings)) - but
    return all(None in (a := (one.settings[k], other.settings[k])) or a[0] == a[1] for k in both)


class Prediction:
    """One prediction of the paper. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    claim: ClassVar[str]
    section: ClassVar[str]

    #: The function of `sparseae.analysis.plot` that draws the curves that decided.
    figure: ClassVar[str] = "of_curves"

    #: What the statement is about, where the class makes several.
    subject: str = ""

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            PREDICTIONS.append(cls)

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        """The single statements that the class makes."""
        yield cls()

    @property
    def label(self) -> str:
        return f"{self.name}: {self.subject}" if self.subject else self.name

    def test(self, evidence: Evidence) -> Finding:
        """What one data set says."""
        raise NotImplementedError

    def together(self, findings: Mapping[str, Finding]) -> Finding | None:
        """What all data sets say together; None: what the verdict on each says."""
        return None


#: Every prediction, in the order of the paper's sections.
PREDICTIONS: list[type[Prediction]] = []


def every_case() -> Iterator[Prediction]:
    """Every statement of every prediction."""
    for kind in PREDICTIONS:
        yield from kind.cases()


def interval_words(low: float, high: float) -> str:
    """An interval in brackets, behind a space; empty where it is not known."""
    return f" [{low:+.3f}, {high:+.3f}]" if low == low else ""


def described(trend: Trend) -> str:
    """A trend with its numbers, in both measures."""
    words = (
        f"{trend.trend}: activation {trend.first:.3f} -> {trend.last:.3f}, "
        f"{trend.change:+.3f}{interval_words(trend.change_low, trend.change_high)}"
    )
    if trend.pre_change == trend.pre_change:
        words += f"; E[a_j] {trend.pre_change:+.3f}{interval_words(trend.pre_low, trend.pre_high)}"
    words += f"; {trend.seeds} seeds, {trend.epochs} epochs"
    return words + (f" ({trend.note})" if trend.note else "")


def variant_words(curve: Curve) -> str:
    """Which of several variants a number is of."""
    return f"{curve.suffix.removeprefix(', ')}: " if curve.variant else ""


#: The classes that a curve cannot be of where a statement gives it another.
_OTHERS = {
    FLAT: (DECREASING, INCREASING, IRREGULAR),
    DECREASING: (FLAT, INCREASING, IRREGULAR),
    IRREGULAR: (),
}


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

    def test(self, evidence: Evidence) -> Finding:
        found = evidence.find(self.model, self.activation, self.constraint)
        if not found:
            return not_tested(f"no {self.activation} {self.model} under {self.constraint}")
        return all_of([self.judge(evidence, curve, trend) for curve, trend in found])

    def judge(self, evidence: Evidence, curve: Curve, trend: Trend) -> Finding:
        """What one curve says."""
        p, lasting, lacks, words = claims(evidence, curve, trend)
        against = [lasting[c] for c in _OTHERS[self.expected]]
        contradicts = min((value for value in against if value == value), default=NAN)
        effect, low, high = trend.effect
        return Finding(
            f"{variant_words(curve)}{described(trend)}{words}",
            [(curve, trend)],
            supports=p[self.expected],
            contradicts=contradicts,
            effect=effect,
            low=low,
            high=high,
            measure=trend.measure,
            seeds=trend.seeds,
            settled=trend.settled,
            sensitive=trend.sensitive,
            lacks=self._lacks(trend, p, lacks),
        )

    def _lacks(self, trend: Trend, p: Mapping[str, float], flat_lacks: str) -> str:
        if common := lacks_of(trend):
            return common
        if self.expected == FLAT or abs(trend.effect[0]) <= _margin(trend):
            return flat_lacks or "seeds"
        return "seeds" if p[self.expected] == p[self.expected] or trend.settled else "epochs"


def _margin(trend: Trend) -> float:
    return thresholds.PRE_MARGIN if trend.measure == PRE_ACTIVATION else thresholds.MARGIN


def lacks_of(trend: Trend) -> str:
    """What a curve lacks for any claim; empty where it lacks nothing."""
    if not trend.alive:
        return "live units"
    if trend.sigma2_values < 2:
        return "trials"
    if trend.descriptive:
        return "seeds"
    return ""


class Claims(NamedTuple):
    """What a curve may be claimed to be.

    Attributes:
        p: the p-value of each class; NaN where it cannot be claimed.
        lasting: the same where the class may contradict another: the effect is settled over the
            full range of sigma2, and the class is shown to last.
        lacks: what flatness lacks.
        words: what to say of it.
    """

    p: dict[str, float]
    lasting: dict[str, float]
    lacks: str = ""
    words: str = ""


def claims(evidence: Evidence, curve: Curve, trend: Trend) -> Claims:
    """What a curve may be claimed to be.

    Flat needs the whole range of sigma2 and a positive control, as in an equivalence trial.
    """
    names = (FLAT, DECREASING, INCREASING, IRREGULAR)
    if not trend.alive or trend.descriptive:
        return Claims(dict.fromkeys(names, NAN), dict.fromkeys(names, NAN))
    shown = shown_of(curve, Sound.of(curve))
    p, lacks, words = _with_control(evidence, curve, trend, shown)
    may = trend.settled and trend.full_range
    lasting = {c: p[c] if may and c in shown.lasting else NAN for c in names}
    return Claims(p, lasting, lacks, words)


def _with_control(
    evidence: Evidence, curve: Curve, trend: Trend, shown: Shown
) -> tuple[dict[str, float], str, str]:
    names = (FLAT, DECREASING, INCREASING, IRREGULAR)
    p, lacks = {name: shown[name] for name in names}, shown.lacks
    words = f"; judged by E[a_j]: {why}" if (why := _why_not_activation(trend)) else ""
    if p[FLAT] != p[FLAT]:
        return p, lacks, words
    if not trend.full_range:
        return p | {FLAT: NAN}, "range", words
    control = evidence.control(curve, trend.measure)
    if not control:
        return p | {FLAT: NAN}, "control", f"{words}; no positive control"
    return p, lacks, f"{words}; control {control}"


def _why_not_activation(trend: Trend) -> str:
    if trend.measure == ACTIVATION:
        return ""
    return f"the activation fraction stands at {trend.first:.3f} and cannot show it"


def limited(effect: Effect, below: float, above: float) -> tuple[float, float]:
    """p-values with which the mean over seeds is below one limit, and above another.

    NaN where it is not shown to last, and of fewer than two seeds. Of too few epochs no pace is
    known, and none is asked for.
    """
    one = effect[0]
    if np.isfinite(one.now).sum() < 2:
        return NAN, NAN
    paced = np.isfinite(one.trend).all()
    return (
        float(p_below(one.now, below)[0]) if not paced or one.lasts_below(below)[0] else NAN,
        float(p_above(one.now, above)[0]) if not paced or one.lasts_above(above)[0] else NAN,
    )


def apart(gap: Effect) -> float:
    """The p-value with which two curves differ by more than the margin, and will; else NaN."""
    margin = thresholds.MARGIN
    more = p_some_lasting(p_above(gap.now, margin), gap.lasts_above(margin))
    less = p_some_lasting(p_below(gap.now, -margin), gap.lasts_below(-margin))
    return min((p for p in (more, less) if p == p), default=NAN)
