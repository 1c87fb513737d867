"""Predictions on what ``theory: true`` measures, and two explanations of a sparse relu dae."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from scipy import stats

from sparseae.analysis import thresholds
from sparseae.analysis.curves import WHITENED, Curve
from sparseae.analysis.predictions import (
    CONTRADICTED,
    EPOCHS_DIFFER,
    INCONCLUSIVE,
    NOT_TESTED,
    SUPPORTED,
    Evidence,
    Outcome,
    Prediction,
    TrendPrediction,
    combined,
    comparable,
    corruptions_of,
)
from sparseae.analysis.trends import Judged, half_width


class FamiliesFlat(TrendPrediction):
    name = "families-flat"
    claim = (
        "cae_h and every penalty of corollary 2 have no bias gradient with relu: with weights of "
        "length one the activation fraction does not depend on sigma2."
    )
    section = "2.2, corollary 2"
    expected, models, activations = "flat", ("cae_h", "corollary2"), ("relu",)


class FamiliesSparser(TrendPrediction):
    name = "families-sparser"
    claim = "Every penalty of corollary 1 makes the code sparser with sigma2."
    section = "corollary 1"
    expected, models = "decreasing", ("corollary1",)
    activations = ("relu", "sigmoid", "softplus")


class BoundedWeightsSparser(TrendPrediction):
    name = "bounded-weights-sparser"
    claim = (
        "Theorem 2 needs weight lengths that are bounded, not fixed: with max_norm or weight_decay "
        "too, explicit corruption and the penalty of sae make a relu code sparser with sigma2."
    )
    section = "2.1.1, theorem 2"
    expected, models, activations = "decreasing", ("dae", "sae"), ("relu",)
    constraints = ("max_norm", "weight_decay")


class _OfTheory(Prediction):
    """A statement about all curves of which the theory was measured."""

    def test(self, evidence: Evidence) -> Outcome:
        found = [pair for pair in evidence.measured if pair[0].epoch > 0]
        if not found:
            return Outcome(NOT_TESTED, "no trials with theory: true")
        verdict, words = self.judge(found)
        return Outcome(verdict, f"{words}; {sum(c.trials for c, _ in found)} trials", found)

    def judge(self, found: Judged) -> tuple[str, str]:
        raise NotImplementedError


class Lemma1(_OfTheory):
    name = "lemma-1"
    claim = "dJ_AE/db_j lies within 2 sigma_r sqrt(n) norm(W_j) of zero."
    section = "2.1.1, lemma 1"
    figure = "lemma1"

    def judge(self, found: Judged) -> tuple[str, str]:
        share = _all(found, "lemma1_share")
        tightness = _all(found, "ae_bias_gradient_rms") / _all(found, "lemma1_bound")
        words = (
            f"holds for {share.mean():.2%} of units, at the worst epoch of a trial for "
            f"{share.min():.2%}; dJ_AE/db_j is {np.nanmedian(tightness):.1%} of the bound "
            f"(median over epochs), at most {np.nanmax(tightness):.1%}"
        )
        return _within(share.min()), words


class Theorem1(_OfTheory):
    name = "theorem-1"
    claim = "Where lambda dR/db_j exceeds Lemma 1's bound, E[a_j] falls."
    section = "2.1.1, theorem 1"
    figure = "lemma1"

    def judge(self, found: Judged) -> tuple[str, str]:
        held = fell = 0.0
        for curve, _ in found:
            share = _column(curve, "condition_share")[..., :-1]
            after = _column(curve, "condition_fell")[..., 1:]
            known = np.isfinite(after)
            held += float(share[known].sum())
            fell += float((share * after)[known].sum())
        every = _all(found, "condition_share")
        words = f"the condition holds for {every.mean():.3%} of units and epochs"
        if held == 0:
            return INCONCLUSIVE, f"{words}: it never came true, and was not put to the test"
        words += f"; E[a_j] then fell in {fell / held:.1%} of them"
        return _against_chance(fell / held, thresholds.SUFFICIENT), words


class BiasGradientMoves(_OfTheory):
    name = "bias-gradient-moves"
    claim = (
        "The sign of the whole bias gradient foretells whether the mean pre-activation falls over "
        "the next epoch."
    )
    section = "2.1.1, eq. 5"
    figure = "drift"

    def judge(self, found: Judged) -> tuple[str, str]:
        fell, rose = _foretold(found)
        words = (
            f"E[a_j] fell in {fell:.1%} of units with a positive gradient and rose in {rose:.1%} "
            "of the others"
        )
        return _against_chance((fell + rose) / 2, thresholds.FORETELLS), words


def _foretold(found: Judged) -> tuple[float, float]:
    """Of units with a positive whole gradient the share that fell, of the others that rose."""
    down = down_fell = up = up_fell = 0.0
    for curve, _ in found:
        share = _column(curve, "descent_share")[..., :-1]
        all_fell = _column(curve, "fell_share")[..., 1:]
        known = np.isfinite(share) & np.isfinite(all_fell)
        both = share * np.nan_to_num(_column(curve, "descent_fell")[..., 1:])
        down += float(share[known].sum())
        down_fell += float(both[known].sum())
        up += float((1 - share)[known].sum())
        up_fell += float((all_fell - both)[known].sum())
    return _ratio(down_fell, down), 1 - _ratio(up_fell, up)


class Theorem2(_OfTheory):
    name = "theorem-2"
    claim = (
        "Pr(h_j <= delta_min) is at least the bound that E[a_j] and Var[a_j] = norm(W_j)^2 give "
        "(Cantelli's)."
    )
    section = "2.1.2, theorem 2"
    figure = "lemma1"

    def judge(self, found: Judged) -> tuple[str, str]:
        share, ratio = _all(found, "theorem2_share"), _all(found, "variance_ratio")
        if not share.size:
            return NOT_TESTED, "no activation with a threshold"
        words = (
            f"holds for {share.mean():.2%} of units, at the worst epoch of a trial for "
            f"{share.min():.2%}; Var[a_j] / norm(W_j)^2 is {np.median(ratio):.2f}"
        )
        return _within(share.min()), words


class Reach(_OfTheory):
    name = "reach"
    claim = (
        "Across all models and activations, the bias gradient of the regularizer at the initial "
        "weights foretells how much sparser than at sigma2 = 0 the code becomes (weights of "
        "length one)."
    )
    section = "4"
    figure = "reach"

    def judge(self, found: Judged) -> tuple[str, str]:
        points = reach_points(curve for curve, _ in found)
        models = {p["model"] for p in points}
        if len(points) < thresholds.FEWEST_POINTS or len(models) < 2:
            return NOT_TESTED, "too few curves under unit_norm with sigma2 = 0"
        words, rho, p = _correlated(points, "whole")
        for activation in sorted({p["activation"] for p in points}):
            of_one = [p for p in points if p["activation"] == activation]
            if len(of_one) >= thresholds.FEWEST_POINTS:
                words += f"; {_correlated(of_one, activation)[0]}"
        if rho <= -thresholds.STRONG and p < thresholds.ALPHA:
            return SUPPORTED, words
        return (CONTRADICTED if rho > -thresholds.WEAK else INCONCLUSIVE), words


def reach_points(curves: Iterable[Curve]) -> list[dict]:
    """A point for each curve under unit_norm and sigma2 > 0, means over seeds.

    ``gradient`` is lambda dR/db_j at the initial weights, ``change`` that of the activation
    fraction from sigma2 = 0; ``model``, ``activation`` and ``sigma2`` say whose.
    """
    points = []
    for curve in curves:
        fixed = curve.name["constraint"] == "unit_norm" and curve.settings.get("encoder_bias", True)
        if not fixed or "bias_gradient" not in curve.theory or curve.sigma2[0] > 0:
            continue
        change = curve.activation - curve.activation[:, :1]
        for k, sigma2 in enumerate(curve.sigma2[1:], 1):
            known = np.isfinite(change[:, k])
            if not known.any():
                continue
            gradient = curve.theory["bias_gradient"][known, k, 0].mean()
            names = {key: curve.name[key] for key in ("model", "activation")}
            points.append(
                names
                | {
                    "sigma2": float(sigma2),
                    "gradient": float(gradient),
                    "change": float(change[known, k].mean()),
                }
            )
    return [p for p in points if np.isfinite(p["gradient"])]


def _correlated(points: list[dict], what: str) -> tuple[str, float, float]:
    x, y = (np.array([p[key] for p in points]) for key in ("gradient", "change"))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return f"{what}: nothing varies over {len(points)} points", 0.0, 1.0
    rho, p = stats.spearmanr(x, y)
    words = f"{what}: rank correlation {rho:+.2f} (p {p:.2g}) over {len(points)} points"
    return words, float(rho), float(p)


class WhitenedFitsBetter(_OfTheory):
    name = "whitened-fits-better"
    claim = (
        "Whitened data, for which Assumption 1 holds, fit the theory better than the same data "
        "unwhitened: the sign of the bias gradient foretells the move of E[a_j] more often."
    )
    section = "2.1.1, assumption 1"
    figure = "drift"

    def judge(self, found: Judged) -> tuple[str, str]:
        ratio = _all(found, "variance_ratio")
        words = (
            f"balanced accuracy {sum(_foretold(found)) / 2:.3f}, "
            f"Var[a_j] / norm(W_j)^2 {np.median(ratio):.2f}"
        )
        return INCONCLUSIVE, f"{words}; needs the same trials whitened and not"

    def together(self, outcomes: Mapping[str, Outcome]) -> Outcome:
        pairs = [(n, f"{n}{WHITENED}") for n in outcomes if f"{n}{WHITENED}" in outcomes]
        gains, words, used = [], [], []
        for raw, white in pairs:
            sides = [_by_what(outcomes[name].curves) for name in (raw, white)]
            both = sorted(set(sides[0]) & set(sides[1]), key=repr)
            if not both:
                continue
            kept = [[side[key] for key in both] for side in sides]
            accuracy = [sum(_foretold(side)) / 2 for side in kept]
            gains.append(accuracy[1] - accuracy[0])
            words.append(f"{raw} {accuracy[0]:.3f}, whitened {accuracy[1]:.3f}")
            used += [pair for side in kept for pair in side]
        if not gains:
            return Outcome(NOT_TESTED, "needs the same trials whitened and not")
        text = f"balanced accuracy: {'; '.join(words)}"
        better, worse = (all(s * g > thresholds.MARGIN for g in gains) for s in (1, -1))
        verdict = SUPPORTED if better else CONTRADICTED if worse else INCONCLUSIVE
        return Outcome(verdict, text, used)


def _by_what(found: Judged) -> dict[tuple, tuple]:
    """Curves by all that they are but the data set."""
    return {
        (
            *(v for k, v in pair[0].name.items() if k != "dataset"),
            *sorted((k, v) for k, v in pair[0].settings.items() if k != "whiten"),
        ): pair
        for pair in found
    }


class _Explanation(Prediction):
    """Why relu dae gets sparse: a statement about its effect, the mean fall over sigma2 > 0."""

    section = "3.1.1"
    #: The model that has (True) or lacks (False) the supposed cause alone, and how it is called.
    model: str
    is_cause: bool
    #: Whether the effect is to vanish as the corruptions grow in number.
    vanishes: bool

    def test(self, evidence: Evidence) -> Outcome:
        groups: dict[tuple, dict[str, dict[int, tuple]]] = defaultdict(lambda: defaultdict(dict))
        for model in ("dae", self.model):
            for curve, trend in evidence.find(model, "relu", "unit_norm", most_corruptions=True):
                rest = {k: v for k, v in curve.settings.items() if k != "corruptions"}
                same = groups[tuple(sorted(rest.items(), key=repr))][model]
                same[corruptions_of(curve)] = (curve, trend)
        whole = [g for g in groups.values() if g["dae"] and g[self.model]]
        if not whole:
            return Outcome(NOT_TESTED, f"needs relu dae and {self.model} under unit_norm")
        judged = [self._judge(g["dae"], g[self.model]) for g in whole]
        used = [pair for g in whole for model in g.values() for pair in model.values()]
        return Outcome(combined([v for v, _ in judged]), "; ".join(w for _, w in judged), used)

    def _judge(self, daes: Mapping[int, tuple], others: Mapping[int, tuple]) -> tuple[str, str]:
        few, many = min(daes), max(daes)
        dae, other = _effects(daes[few][0]), _effects(others[min(others)][0])
        size = _mean(dae)
        words = f"dae falls by {size:.3f} at {few} corruption{'s' * (few > 1)}"
        words += "".join(f", {_mean(_effects(daes[k][0])):.3f} at {k}" for k in sorted(daes)[1:])
        words += f"; {self.model} by {_mean(other):.3f}"
        words += self.details(daes[few][0])
        if not comparable([*daes.values(), *others.values()]):
            return INCONCLUSIVE, f"{words}; {EPOCHS_DIFFER}"
        if not size > thresholds.MARGIN:
            return INCONCLUSIVE, f"{words}; no effect to explain"
        answers = [_more_than_half(other, dae)]
        wanted = [self.is_cause]
        if many / few > thresholds.MORE_CORRUPTIONS:
            answers.append(_more_than_half(_effects(daes[many][0]), dae))
            wanted.append(not self.vanishes)
        elif self.vanishes:
            answers.append(None)
            wanted.append(False)
            words += "; the number of corruptions was not varied"
        if any(a is not None and a != w for a, w in zip(answers, wanted, strict=True)):
            return CONTRADICTED, words
        return (INCONCLUSIVE if None in answers else SUPPORTED), words

    def details(self, dae: Curve) -> str:
        """More to say of the dae, behind a semicolon."""
        return ""


class FirstOrderExplains(_Explanation):
    name = "first-order-explains"
    claim = (
        "What makes relu dae sparse is the first-order term that a finite number of corruptions "
        "leaves: edae alone shows most of the fall, and it vanishes as the corruptions grow in "
        "number."
    )
    model, is_cause, vanishes = "edae", True, True


class KinkExplains(_Explanation):
    name = "kink-explains"
    claim = (
        "What makes relu dae sparse is relu's kink (footnote 1's Dirac term): without it (dae2, "
        "eq. 7) most of the fall is gone, and however many corruptions are averaged it stays."
    )
    section = "3.1.1, footnote 1"
    model, is_cause, vanishes = "dae2", False, False

    def details(self, dae: Curve) -> str:
        if "kink_gradient" not in dae.theory:
            return ""
        terms = {k: dae.theory[k][:, dae.sigma2 > 0] for k in ("kink_gradient", "bias_gradient")}
        share = np.nansum(terms["kink_gradient"]) / np.nansum(terms["bias_gradient"])
        drift = drift_of(dae)
        return (
            f"; the kink's term is {share:.0%} of dae's bias gradient, and the drift of the bias "
            f"has rank correlation {drift['with the kink']:+.2f} with -(dJ_AE/db + kink), "
            f"{drift['without']:+.2f} without the kink"
        )


def drift_of(curve: Curve) -> dict[str, float]:
    """Rank correlation of each epoch's change of E[a] with the bias gradient before."""
    change = _column(curve, "pre_activation_change")[..., 1:]
    ae = _column(curve, "ae_bias_gradient")[..., :-1]
    kink = _column(curve, "kink_gradient")[..., :-1]
    found = {}
    for label, gradient in (("with the kink", ae + kink), ("without", ae)):
        known = np.isfinite(change) & np.isfinite(gradient)
        found[label] = float(stats.spearmanr(-gradient[known], change[known])[0])
    return found


def _effects(curve: Curve) -> dict[int, float]:
    """By seed, how much the activation fraction falls from sigma2 = 0: the mean over sigma2 > 0."""
    falls = (curve.activation[:, :1] - curve.activation[:, 1:]).mean(1)
    return {
        int(seed): float(fall)
        for seed, fall in zip(curve.seeds, falls, strict=True)
        if np.isfinite(fall) and curve.sigma2[0] == 0
    }


def _more_than_half(part: Mapping[int, float], whole: Mapping[int, float]) -> bool | None:
    """Whether an effect is more than half of another, paired over seeds; None: not known."""
    seeds = sorted(set(part) & set(whole))
    if len(seeds) < 2:
        return None
    excess = np.array([[part[s] - thresholds.MOST * whole[s]] for s in seeds])
    half = float(half_width(excess, 1 - thresholds.ALPHA / 2)[0])
    size = float(excess.mean())
    return None if abs(size) <= half else size > 0


def _mean(by_seed: Mapping[int, float]) -> float:
    return float(np.mean(list(by_seed.values()))) if by_seed else float("nan")


def _column(curve: Curve, name: str) -> np.ndarray:
    """A column of the theory, (R, K, E); NaN where it was not measured."""
    if name in curve.theory:
        return curve.theory[name]
    return np.full((curve.seeds.size, curve.sigma2.size, curve.epoch + 1), np.nan)


def _all(found: Judged, name: str) -> np.ndarray:
    """Every known value of a column, flat."""
    values = np.concatenate([_column(curve, name).ravel() for curve, _ in found])
    return values[np.isfinite(values)]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _against_chance(share: float, enough: float) -> str:
    """The verdict on a statement that is right in this share of cases."""
    if share >= enough:
        return SUPPORTED
    return CONTRADICTED if share <= thresholds.CHANCE else INCONCLUSIVE


def _within(share: float) -> str:
    """The verdict on a bound that holds for this share of units at the worst."""
    return SUPPORTED if share >= thresholds.HOLDS else CONTRADICTED
