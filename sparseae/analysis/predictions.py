"""The paper's predictions on what section 3 shows: activation fractions along sigma2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from sparseae.analysis import thresholds
from sparseae.analysis.curves import Curve, without_views
from sparseae.analysis.inference import (
    NAN,
    Effect,
    equivalence,
    mean,
    p_above,
    p_below,
    p_some,
    p_some_lasting,
)
from sparseae.analysis.prediction import (
    Evidence,
    Finding,
    Prediction,
    TrendPrediction,
    all_of,
    apart,
    claims,
    interval_words,
    lacks_of,
    limited,
    not_tested,
    same_settings,
    variant_words,
)
from sparseae.analysis.trends import (
    ACTIVATION,
    DECREASING,
    FLAT,
    INCREASING,
    IRREGULAR,
    PRE_ACTIVATION,
    Judged,
    Sound,
    Trend,
    dead_onset,
    shown_of,
)


class ReluPenaltyFlat(TrendPrediction):
    name = "relu-flat"
    claim = (
        "With relu and weights of length one the bias gradient of the penalty is zero, so the "
        "activation fraction does not depend on sigma2."
    )
    section = "3.1, figure 1"
    expected, models, activations = FLAT, ("cae", "mdae"), ("relu",)


class MdaeEqualsCae(Prediction):
    name = "mdae-equals-cae"
    claim = "With weights of length one, cae and mdae are the same objective (relu)."
    section = "3.1, footnote 3"

    def test(self, evidence: Evidence) -> Finding:
        sides = [evidence.find(model, "relu", "unit_norm") for model in ("cae", "mdae")]
        pairs = [(a, b) for a in sides[0] for b in sides[1] if same_settings(a[0], b[0])]
        if not pairs:
            return not_tested(
                "no pairs of relu cae and mdae under unit_norm", [*sides[0], *sides[1]]
            )
        return all_of([self._judge(evidence, cae, mdae) for cae, mdae in pairs])

    def _judge(
        self, evidence: Evidence, cae: tuple[Curve, Trend], mdae: tuple[Curve, Trend]
    ) -> Finding:
        used = [cae, mdae]
        lacking = _not_comparable(used)
        gaps = {} if lacking else _gaps(cae[0], mdae[0])
        if lacking := lacking or ("" if gaps else "trials"):
            return Finding("cae and mdae cannot be compared", used, lacks=lacking)
        gap = gaps[ACTIVATION]
        sizes = mean(gap.now)
        worst = int(np.abs(sizes).argmax())
        effect, low, high = gap[worst].interval()
        words = f"mdae - cae is {effect:+.4f} [{low:+.4f}, {high:+.4f}] where they differ most"
        control = evidence.control(cae[0], ACTIVATION)
        settled = all(gaps[name].settled(margin) for name, margin in _EQUAL.items() if name in gaps)
        equal = equivalence([(gaps[name], _EQUAL[name]) for name in gaps])
        return Finding(
            f"{words}, {trial_seeds(gap)} seeds{f'; control {control}' if control else ''}",
            used,
            supports=equal.p if control else NAN,
            contradicts=apart(gap) if settled else NAN,
            effect=effect,
            low=low,
            high=high,
            measure="activation_fraction of mdae less that of cae",
            seeds=trial_seeds(gap),
            settled=settled,
            sensitive=all(trend.sensitive for _, trend in used),
            lacks="control"
            if not control
            else "nothing"
            if thresholds.EQUAL < abs(effect) < thresholds.MARGIN
            else equal.lacks,
        )


#: Margins of equality, by measure.
_EQUAL = {ACTIVATION: thresholds.EQUAL, PRE_ACTIVATION: thresholds.PRE_EQUAL}


def _gaps(one: Curve, other: Curve) -> dict[str, Effect]:
    """By measure another curve less one, at the seeds and sigma2 > 0 that both have."""
    live = [Sound.of(curve).seeds for curve in (one, other)]
    seeds, a, b = np.intersect1d(one.seeds[live[0]], other.seeds[live[1]], return_indices=True)
    a, b = live[0][a], live[1][b]
    sigma2, k, m = np.intersect1d(one.sigma2, other.sigma2, return_indices=True)
    gaps = {}
    for name, histories in (
        (ACTIVATION, (one.activations, other.activations)),
        (PRE_ACTIVATION, (one.pre_activations, other.pre_activations)),
    ):
        first, second = (
            h[np.ix_(rows, columns)][..., one.last_half]
            for h, rows, columns in zip(histories, (a, b), (k, m), strict=True)
        )
        gap = (second - first)[:, sigma2 > 0]
        known = np.isfinite(gap[..., -1]).sum(0) > 1
        if seeds.size > 1 and known.any():
            gaps[name] = Effect.of(gap[:, known], one.epoch)
    return gaps if ACTIVATION in gaps else {}


def trial_seeds(effect: Effect) -> int:
    """Seeds behind the first component of an effect."""
    return int(np.isfinite(effect.now[:, 0]).sum())


def _not_comparable(used: Judged) -> str:
    """What curves lack to be compared with one another; empty where nothing."""
    epochs = {curve.epoch for curve, _ in used}
    if len(epochs) > 1 or min(epochs) < thresholds.FEWEST_EPOCHS:
        return "epochs"
    lacking = [lacks_of(trend) for _, trend in used]
    return next((word for word in lacking if word), "")


class ReluCorruptionSparser(TrendPrediction):
    name = "relu-corruption-sparser"
    claim = (
        "With relu and weights of length one, explicit corruption makes the code sparser with "
        "sigma2, and so does its first-order term alone (edae)."
    )
    section = "3.1, 3.1.1, figures 1 and 3"
    expected, models, activations = DECREASING, ("dae", "edae"), ("relu",)


class DeadUnitsLate(Prediction):
    name = "dead-units-late"
    claim = (
        "relu dae with weights of length one: dead units begin to rise only once the activation "
        "fraction is around 0.05."
    )
    section = "3.1"

    def test(self, evidence: Evidence) -> Finding:
        found = evidence.find("dae", "relu", "unit_norm")
        if not found:
            return not_tested("no relu dae under unit_norm")
        return all_of([self._judge(curve, trend) for curve, trend in found])

    def _judge(self, curve: Curve, trend: Trend) -> Finding:
        used = [(curve, trend)]
        if lacking := lacks_of(trend):
            return Finding(f"{variant_words(curve)}{trend.note}", used, lacks=lacking)
        late = thresholds.NEAR_FIVE_PERCENT
        crossing, seen = (_by_seed(curve, of) for of in (_crossing, _seen))
        (above, low, high), (below, _, _) = crossing.interval(), seen.interval()
        words = (
            f"dead units begin to rise between activation {above:.3f} and {below:.3f}"
            if below > 0
            else f"no rise of dead units down to activation {above:.3f}"
        )
        settled = crossing.settled(thresholds.MARGIN) and seen.settled(thresholds.MARGIN)
        within = below <= late < above
        return Finding(
            f"{variant_words(curve)}{words}, {trend.seeds} seeds",
            used,
            supports=limited(crossing, late, np.inf)[0],
            contradicts=limited(seen, -np.inf, late)[1] if settled else NAN,
            effect=above,
            low=low,
            high=high,
            measure="activation_fraction where dead units can begin to rise",
            seeds=trend.seeds,
            settled=settled,
            sensitive=True,
            lacks="sigma2" if within else "seeds" if settled else "epochs",
            hint=(
                f"More values of sigma2 between those with activation {above:.3f} and {below:.3f}, "
                "or larger ones."
                if within
                else ""
            ),
        )


def _by_seed(curve: Curve, of: Callable[[np.ndarray, np.ndarray], float]) -> Effect:
    """A number of a seed's activation fractions and dead units along sigma2, (R, 1)."""
    sound = Sound.of(curve)
    rows = np.ix_(sound.seeds, sound.columns)
    activation, dead = (h[rows][..., curve.last_half] for h in (curve.activations, curve.deads))
    numbers = [
        [_of_known(of, a[:, t], d[:, t]) for t in range(a.shape[1])]
        for a, d in zip(activation, dead, strict=True)
    ]
    return Effect.of(np.array(numbers)[:, None, :], curve.epoch)


def _of_known(of: Callable[[np.ndarray, np.ndarray], float], a: np.ndarray, d: np.ndarray) -> float:
    there = np.isfinite(a) & np.isfinite(d)
    return of(a[there], d[there]) if there.any() else NAN


def _crossing(activation: np.ndarray, dead: np.ndarray) -> float:
    """The highest activation fraction at which dead units can begin to rise.

    They come ever faster (convexly) along sigma2. The lowest of all where they do not rise.
    """
    first = dead_onset(dead)
    if first is None:
        return float(activation.min())
    share = (dead[0] + thresholds.DEAD_RISE - dead[first - 1]) / (dead[first] - dead[first - 1])
    return float(activation[first - 1] + share * (activation[first] - activation[first - 1]))


def _seen(activation: np.ndarray, dead: np.ndarray) -> float:
    """The first activation fraction with risen dead units; 0 where there is none."""
    first = dead_onset(dead)
    return 0.0 if first is None else float(activation[first])


def _alive(activation: np.ndarray, dead: np.ndarray) -> float:
    """The lowest activation fraction at which dead units have not begun to rise."""
    first = dead_onset(dead)
    return float(activation[:first].min())


def _lowest(activation: np.ndarray, dead: np.ndarray) -> float:
    return float(activation.min())


class FreeWeightsFloor(Prediction):
    name = "free-weights-floor"
    claim = "relu dae without the constraint does not go below an activation fraction of 0.1."
    section = "3.1, figure 2"

    def test(self, evidence: Evidence) -> Finding:
        found = evidence.find("dae", "relu", "none")
        if not found:
            return not_tested("no relu dae without the constraint")
        return all_of([self._judge(curve, trend) for curve, trend in found])

    def _judge(self, curve: Curve, trend: Trend) -> Finding:
        used = [(curve, trend)]
        if lacking := lacks_of(trend):
            words = f"lowest activation {trend.lowest:.3f}, {trend.seeds} seeds"
            return Finding(f"{variant_words(curve)}{words}", used, lacks=lacking)
        sound, floor = Sound.of(curve), thresholds.FREE_WEIGHTS_FLOOR
        rows = np.ix_(sound.seeds, sound.columns)
        level = Effect.of(curve.activations[rows][..., curve.last_half], curve.epoch)
        worst = int(mean(level.now).argmin())
        effect, low, high = level[worst].interval()
        above, lower = bool(level.lasts_above(floor).all()), level.lasts_below(floor)
        words = f"lowest activation {effect:.3f}{interval_words(low, high)}, {trend.seeds} seeds"
        return Finding(
            f"{variant_words(curve)}{words}, sigma2 to {trend.sigma2_last:g}"
            + (f" ({trend.note})" if trend.note else ""),
            used,
            supports=float(p_above(level.now, floor).max()) if above and trend.full_range else NAN,
            contradicts=p_some_lasting(p_below(level.now, floor), lower) if trend.settled else NAN,
            effect=effect,
            low=low,
            high=high,
            measure="lowest activation_fraction",
            seeds=trend.seeds,
            settled=trend.settled,
            sensitive=True,
            lacks="range" if not trend.full_range else "seeds" if above else "epochs",
        )


class _Sparser(Prediction):
    """One kind of curve gets sparser than another of the same seeds, by more than the margin."""

    #: The number of a seed that is compared, and how it is called.
    number: Callable[[np.ndarray, np.ndarray], float]
    words: str
    names: tuple[str, str]

    def sides(self, evidence: Evidence) -> tuple[Judged, Judged]:
        """The curves that are to be sparser, and those that they are compared with."""
        raise NotImplementedError

    #: Settings in which the two sides differ.
    apart: frozenset[str] = frozenset()

    def test(self, evidence: Evidence) -> Finding:
        ours, theirs = self.sides(evidence)
        pairs = [(a, b) for a in ours for b in theirs if same_settings(a[0], b[0], self.apart)]
        if not pairs:
            return not_tested(f"needs curves {' and '.join(self.names)}", [*ours, *theirs])
        return all_of([self._judge(a, b) for a, b in pairs])

    def _judge(self, ours: tuple[Curve, Trend], theirs: tuple[Curve, Trend]) -> Finding:
        used = [ours, theirs]
        if lacking := _not_comparable(used):
            return Finding(f"{' and '.join(self.names)} cannot be compared", used, lacks=lacking)
        of = type(self).number
        sides = [_by_seed(curve, of) for curve, _ in used]
        rows = [curve.seeds[Sound.of(curve).seeds] for curve, _ in used]
        _, a, b = np.intersect1d(*rows, return_indices=True)
        gap = sides[1].of_seeds(b).less(sides[0].of_seeds(a))
        if trial_seeds(gap) < 2:
            return Finding("fewer than two seeds have both", used, lacks="seeds")
        effect, low, high = gap.interval()
        levels = [float(mean(side.now)[0]) for side in sides]
        below, above = limited(gap, -thresholds.MARGIN, thresholds.MARGIN)
        settled = gap.settled(thresholds.MARGIN)
        return Finding(
            f"{self.words} {levels[0]:.3f} {self.names[0]}, {levels[1]:.3f} {self.names[1]}, "
            f"difference {effect:+.3f}{interval_words(low, high)}, {trial_seeds(gap)} seeds",
            used,
            supports=above,
            contradicts=below if settled else NAN,
            effect=effect,
            low=low,
            high=high,
            measure=f"difference of the {self.words}",
            seeds=trial_seeds(gap),
            settled=settled,
            sensitive=True,
            lacks="seeds" if settled else "epochs",
        )


class ConstraintSparser(_Sparser):
    name = "constraint-sparser"
    claim = (
        "relu dae reaches sparser codes before units die with weights of length one than without "
        "the constraint."
    )
    section = "3.1, summary"
    number, words = staticmethod(_alive), "sparsest code before units die"
    names = ("with the constraint", "without it")

    def sides(self, evidence: Evidence) -> tuple[Judged, Judged]:
        return evidence.find("dae", "relu", "unit_norm"), evidence.find("dae", "relu", "none")


class SigmoidSparser(TrendPrediction):
    name = "sigmoid-sparser"
    claim = "With sigmoid and weights of length one, the code gets sparser with sigma2."
    section = "3.2, figure 4"
    expected, models, activations = DECREASING, ("dae", "cae", "mdae", "sae"), ("sigmoid",)


class SoftplusSparser(TrendPrediction):
    name = "softplus-sparser"
    claim = "Softplus has trends like sigmoid's: the code gets sparser with sigma2."
    section = "3.2, footnote 4"
    expected, models, activations = DECREASING, ("dae", "cae", "mdae", "sae"), ("softplus",)


class FreeWeightsUnpredictable(TrendPrediction):
    name = "free-weights-unpredictable"
    claim = (
        "Without the constraint the trend of cae and mdae is unpredictable: irregular, or of "
        "different sign on different data sets."
    )
    section = "3.1, 3.2, figures 2 and 5"
    # A regular trend on one data set is half of what the claim needs.
    expected, models, activations = IRREGULAR, ("cae", "mdae"), ("relu", "sigmoid")
    constraints = ("none",)

    def together(self, findings: Mapping[str, Finding]) -> Finding | None:
        judged = {k: f.curves for k, f in findings.items() if f.curves}
        if not judged:
            return None
        # Another view of the same data is not another data set.
        several = len({without_views(name)[0] for name in judged}) > 1
        words = "; ".join(f"{k} {', '.join(t.trend for _, t in v)}" for k, v in judged.items())
        each = [(t, shown_of(c, Sound.of(c))) for pairs in judged.values() for c, t in pairs]
        of = {
            name: [shown[name] for trend, shown in each if trend.alive and trend.seeds > 1]
            for name in (DECREASING, INCREASING, IRREGULAR)
        }
        fall, rise, both = (p_some(np.array([p for p in ps if p == p])) for ps in of.values())
        seeds = min(trend.seeds for trend, _ in each)
        settled = all(trend.settled and trend.full_range for trend, _ in each)
        same = [max(of[name]) for name in (DECREASING, INCREASING)
                if len(of[name]) == len(each) and all(p == p for p in of[name])
                and all(name in shown.lasting for _, shown in each)]  # fmt: skip
        return Finding(
            words if several else f"one data set: {words}",
            [pair for pairs in judged.values() for pair in pairs],
            supports=min(1.0, 2 * min(both, max(fall, rise))) if seeds > 1 else NAN,
            contradicts=min(same, default=NAN) if several and settled else NAN,
            measure=ACTIVATION,
            seeds=seeds,
            settled=settled,
            sensitive=all(trend.sensitive for trend, _ in each),
            lacks="seeds" if several else "data sets",
        )


class SaeAlwaysSparser(TrendPrediction):
    name = "sae-sparser"
    claim = (
        "The penalty of sae has a positive bias gradient with every such activation: the code gets "
        "sparser with sigma2."
    )
    section = "2.1.1, corollary 1"
    expected, models = DECREASING, ("sae",)
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

    def test(self, evidence: Evidence) -> Finding:
        models = ("dae", "cae", "mdae", "sae")
        found = [pair for m in models for pair in evidence.find(m, self.activation, "unit_norm")]
        if not found:
            return not_tested(f"no {self.activation} under unit_norm")
        # That a guarantee is missing does not forbid that a code gets sparser: nothing contradicts.
        best, least = NAN, found[0]
        for curve, trend in found:
            p = claims(evidence, curve, trend).lasting
            for name in (FLAT, INCREASING, IRREGULAR):
                if p[name] == p[name] and not p[name] >= best:  # the first is not NaN
                    best, least = p[name], (curve, trend)
        effect, low, high = least[1].effect
        return Finding(
            "; ".join(f"{c.name['model']} {t.trend}{f' ({t.note})' if t.note else ''}"
                      for c, t in found),
            found,
            supports=min(1.0, len(found) * best) if best == best else NAN,
            effect=effect,
            low=low,
            high=high,
            measure=least[1].measure,
            seeds=least[1].seeds,
            settled=least[1].settled,
            sensitive=least[1].sensitive,
            lacks=lacks_of(least[1]) or ("seeds" if best == best else "epochs"),
        )  # fmt: skip


class BiasNeeded(_Sparser):
    name = "bias-needed"
    claim = "Without an encoder bias the sparsity that units can reach is limited."
    section = "2.1.1"
    number, words = staticmethod(_lowest), "lowest activation"
    names = ("with a bias", "without")
    apart = frozenset({"encoder_bias"})

    def __init__(self, model: str) -> None:
        self.model = model
        self.subject = f"relu {model}"

    @classmethod
    def cases(cls) -> Iterator[Prediction]:
        for model in ("dae", "sae"):
            yield cls(model)

    def sides(self, evidence: Evidence) -> tuple[Judged, Judged]:
        with_bias, without = (
            evidence.find(self.model, "relu", "unit_norm", encoder_bias=bias)
            for bias in (True, False)
        )
        return with_bias, without
