"""Predictions on the families of penalties, and on what ``theory: true`` measures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from sparseae.analysis import thresholds
from sparseae.analysis.curves import WHITENED, Curve
from sparseae.analysis.inference import (
    NAN,
    Effect,
    mean,
    p_above,
    p_below,
    p_some,
    p_some_lasting,
    p_within,
)
from sparseae.analysis.prediction import (
    Evidence,
    Finding,
    Prediction,
    TrendPrediction,
    has_bias,
    interval_words,
    limited,
    not_tested,
    same_settings,
)
from sparseae.analysis.trends import DECREASING, FLAT, Judged, Sound, Trend


class FamiliesFlat(TrendPrediction):
    name = "families-flat"
    claim = (
        "cae_h and every penalty of corollary 2 have no bias gradient with relu: with weights of "
        "length one the activation fraction does not depend on sigma2."
    )
    section = "2.2, corollary 2"
    expected, models, activations = FLAT, ("cae_h", "corollary2"), ("relu",)


class FamiliesSparser(TrendPrediction):
    name = "families-sparser"
    claim = "Every penalty of corollary 1 makes the code sparser with sigma2."
    section = "corollary 1"
    expected, models = DECREASING, ("corollary1",)
    activations = ("relu", "sigmoid", "softplus")


class BoundedWeightsSparser(TrendPrediction):
    name = "bounded-weights-sparser"
    claim = (
        "Theorem 2 needs weight lengths that are bounded, not fixed: with max_norm or weight_decay "
        "too, explicit corruption and the penalty of sae make a relu code sparser with sigma2."
    )
    section = "2.1.1, theorem 2"
    expected, models, activations = DECREASING, ("dae", "sae"), ("relu",)
    constraints = ("max_norm", "weight_decay")

    def judge(self, evidence: Evidence, curve: Curve, trend: Trend) -> Finding:
        finding = super().judge(evidence, curve, trend)
        free = [
            c for c, _ in evidence.find(self.model, "relu", "none")
            if same_settings(c, curve, frozenset({self.constraint}))
        ]  # fmt: skip
        change = max((_shortened(curve, c) for c in free), default=NAN)
        if change >= thresholds.BINDS:
            words = f"{finding.evidence}; the constraint changes the lengths by {change:.0%}"
            return _with(finding, evidence=words)
        why = (
            f"the constraint changes the lengths by {change:.1%} only"
            if free
            else "by how much the constraint changes the lengths is not known: no trials without it"
        )
        return _with(
            finding,
            evidence=f"{finding.evidence}; {why}",
            supports=NAN,
            contradicts=NAN,
            lacks="a binding constraint",
        )


def _with(finding: Finding, **changes: object) -> Finding:
    return Finding(**{**vars(finding), **changes})


def _shortened(curve: Curve, free: Curve) -> float:
    """The relative change of the mean length of the weights against the same trials, free."""
    _, a, b = np.intersect1d(curve.seeds, free.seeds, return_indices=True)
    _, k, m = np.intersect1d(curve.sigma2, free.sigma2, return_indices=True)
    bound, unbound = curve.lengths[np.ix_(a, k)], free.lengths[np.ix_(b, m)]
    ratio = bound / unbound
    return abs(1 - float(np.nanmean(ratio))) if np.isfinite(ratio).any() else NAN


class _OfTheory(Prediction):
    """A statement about all curves of which the theory was measured.

    A number is made for each curve and seed first, and averaged over curves with equal weight: a
    trial that explodes is one of many. Only seeds that every curve has are compared.
    """

    section = "2.1.1"

    def test(self, evidence: Evidence) -> Finding:
        found = [pair for pair in evidence.measured if pair[1].alive]
        if not found:
            return not_tested("no trials with theory: true")
        return self.judge(found)

    def judge(self, found: Judged) -> Finding:
        raise NotImplementedError


def _shared(sets: list[frozenset], fewest: int) -> frozenset:
    """The set that most have as a part, weighed by its size; empty where none is large enough."""
    large = sorted((s for s in set(sets) if len(s) >= fewest), key=sorted)
    return max(large, key=lambda s: len(s) * sum(s <= t for t in sets), default=frozenset())


def _comparable(found: Judged) -> tuple[Judged, list[int]]:
    """The curves that have the same seeds, and these: what others have more or less is left out."""
    each = [frozenset(int(s) for s in c.seeds[Sound.of(c).seeds]) for c, _ in found]
    seeds = _shared(each, 2)
    kept = [pair for pair, own in zip(found, each, strict=True) if seeds and seeds <= own]
    return kept, sorted(seeds)


class Assumption1(_OfTheory):
    name = "assumption-1"
    claim = (
        "The data are white, so that Var[a_j] is norm(W_j)^2: Theorems 1 and 2 rest on it "
        "(Assumption 1)."
    )
    section = "2.1.1, assumption 1, theorem 2"
    figure = "lemma1"

    def judge(self, found: Judged) -> Finding:
        known = [p for p in found if np.isfinite(_column(p[0], "variance_ratio")).any()]
        found, seeds = _comparable(known)
        if not seeds:
            return Finding("fewer than two seeds", known, lacks="seeds")
        length = min(c.activations[..., c.last_half].shape[-1] for c, _ in found)
        with np.errstate(divide="ignore"):  # of units that never vary
            logs = [
                _nanmean(np.log(_window(c, "variance_ratio")[np.isin(c.seeds, seeds)]), 1)
                for c, _ in found
            ]
        ratio = Effect.of(
            np.stack([log[:, -length:] for log in logs], 1), max(c.epoch for c, _ in found)
        )
        sizes, white = mean(ratio.now), thresholds.WHITE
        worst = int(np.abs(sizes).argmax())
        effect, low, high = ratio[worst].interval()
        settled = ratio.settled(white)
        stays = bool(ratio.lasts_within(white).all())
        beyond = np.minimum(p_above(ratio.now, white), p_below(ratio.now, -white))
        out = ratio.lasts_above(white) | ratio.lasts_below(-white)
        return Finding(
            f"Var[a_j] / norm(W_j)^2 is {math.exp(sizes.min()):.2f} to {math.exp(sizes.max()):.2f} "
            f"by curve{_bound_words(found)}; {len(seeds)} seeds",
            found,
            supports=float(p_within(ratio.now, white).max()) if stays else NAN,
            contradicts=np.minimum(1.0, 2 * p_some_lasting(beyond, out)) if settled else NAN,
            effect=effect,
            low=low,
            high=high,
            measure="log of Var[a_j] / norm(W_j)^2 of the curve where it is farthest from 0",
            seeds=len(seeds),
            settled=settled,
            sensitive=True,
            lacks="seeds" if settled else "epochs",
        )


def _bound_words(found: Judged) -> str:
    """How far Theorem 2's bound, which has norm(W_j)^2 for the variance, holds."""
    shares = [_column(curve, "theorem2_share") for curve, _ in found]
    known = np.concatenate([s[np.isfinite(s)] for s in shares])
    if not known.size:
        return ""
    return (
        f"; Theorem 2's bound holds for {known.mean():.2%} of units, at the worst epoch of a trial "
        f"for {known.min():.2%}, and by Cantelli's inequality for all with the measured variance"
    )


class BiasGradientMoves(_OfTheory):
    name = "bias-gradient-moves"
    claim = (
        "The sign of the whole bias gradient foretells whether the mean pre-activation falls over "
        "the next epoch, hundreds of steps with momentum."
    )
    section = "2.1.1, eq. 5"
    figure = "drift"

    def judge(self, found: Judged) -> Finding:
        every = found
        found, seeds = _comparable(every)
        accuracy = _accuracies(found, seeds)
        if accuracy is None:
            return Finding("fewer than two seeds, or no sign ever differs", every, lacks="seeds")
        effect, low, high = accuracy.interval()
        chance = thresholds.CHANCE + thresholds.MARGIN
        below, above = limited(accuracy, chance, thresholds.FORETELLS)
        settled = accuracy.settled(thresholds.MARGIN)
        return Finding(
            f"balanced accuracy {effect:.3f}{interval_words(low, high)}, {len(found)} curves, "
            f"{len(seeds)} seeds",
            found,
            supports=above,
            contradicts=below if settled else NAN,
            effect=effect,
            low=low,
            high=high,
            measure="balanced accuracy",
            seeds=len(seeds),
            settled=settled,
            sensitive=True,
            lacks=_between(effect, chance, thresholds.FORETELLS, settled),
        )


def _accuracies(found: Judged, seeds: list[int]) -> Effect | None:
    """How well the sign foretells the move by seed, means over curves, (R, 1); None: not known."""
    each = [a for curve, _ in found if (a := _foretold(curve, seeds)) is not None]
    if len(seeds) < 2 or not each:
        return None
    shortest = min(a.shape[1] for a in each)
    window = np.mean([a[:, a.shape[1] - shortest :] for a in each], axis=0)[:, None, :]
    return Effect.of(window, max(curve.epoch for curve, _ in found))


def _foretold(curve: Curve, seeds: list[int]) -> np.ndarray | None:
    """Balanced accuracy of a curve by seed, over all epochs up to each of the last half, (R, T).

    The mean of two shares: of units with a positive whole gradient those that fell, and of the
    others those that rose. None where a seed has no unit of a kind.
    """
    rows = np.isin(curve.seeds, seeds)
    share = _column(curve, "descent_share")[rows, :, :-1]
    all_fell = _column(curve, "fell_share")[rows, :, 1:]
    both = share * np.nan_to_num(_column(curve, "descent_fell")[rows, :, 1:])
    known = np.isfinite(share) & np.isfinite(all_fell)

    def up_to(values: np.ndarray) -> np.ndarray:
        return np.where(known, values, 0).sum(1).cumsum(-1)

    down, down_fell = up_to(share), up_to(both)
    up, up_fell = up_to(1 - share), up_to(all_fell - both)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = (down_fell / down + 1 - up_fell / up) / 2
    first = max(0, curve.last_half.start - 1)
    window = accuracy[:, first:]
    return window if window.size and np.isfinite(window).all() else None


class Reach(_OfTheory):
    name = "reach"
    claim = (
        "Across all models and activations, the bias gradient of the regularizer at the initial "
        "weights foretells how much sparser than at sigma2 = 0 the code becomes (weights of "
        "length one)."
    )
    section = "4"
    figure = "reach"

    def judge(self, found: Judged) -> Finding:
        found = [
            (c, t)
            for c, t in found
            if c.name["constraint"] == "unit_norm"
            and "bias_gradient" in c.theory
            and c.sigma2[0] == 0
        ]
        found, seeds = _comparable(found)
        found, grid = _on_one_grid(found, seeds)
        models = {c.name["model"] for c, _ in found}
        if len(models) < 2 or len(found) * len(grid) < thresholds.FEWEST_POINTS:
            return not_tested("too few curves under unit_norm with sigma2 = 0 and the same seeds")
        gradient, change = _points(found, seeds, grid)
        rho = np.array([
            [[_rank_correlation(g, c[..., t]) for t in range(change.shape[-1])]]
            for g, c in zip(gradient, change, strict=True)
        ])  # fmt: skip
        by_seed = Effect.of(rho, min(c.epoch for c, _ in found))
        effect, low, high = by_seed.interval()
        low, high = max(low, -1.0), min(high, 1.0)
        by_chance = _permuted(gradient.mean(0), change[..., -1].mean(0))
        without = _leave_one_out(gradient.mean(0), change[..., -1].mean(0))
        below, above = limited(by_seed, -thresholds.STRONG, -thresholds.WEAK)
        settled = by_seed.settled(thresholds.MARGIN)
        return Finding(
            f"rank correlation {effect:+.2f}{interval_words(low, high)} over {len(found)} curves "
            f"at {len(grid)} sigma2; {without.min():+.2f} to {without.max():+.2f} without one of "
            f"them; permuting whole curves p {by_chance:.2g}; {len(seeds)} seeds",
            found,
            supports=max(below, by_chance) if without.max() < -thresholds.WEAK else NAN,
            contradicts=above if settled and without.min() > -thresholds.WEAK else NAN,
            effect=effect,
            low=low,
            high=high,
            measure="rank correlation",
            seeds=len(seeds),
            settled=settled,
            sensitive=all(trend.sensitive for _, trend in found),
            lacks=_between(effect, -thresholds.STRONG, -thresholds.WEAK, settled),
        )


def _between(effect: float, low: float, high: float, settled: bool) -> str:
    """What a number lacks that has to be below one limit or above another."""
    return "epochs" if not settled else "nothing" if low <= effect <= high else "seeds"


def _on_one_grid(found: Judged, seeds: list[int]) -> tuple[Judged, list[float]]:
    """The curves that have all seeds at sigma2 = 0 and at the same further values, and these."""
    each = []
    for curve, _ in found:
        rows = np.isin(curve.seeds, seeds)
        gradient = curve.theory["bias_gradient"][rows, :, 0]
        there = np.isfinite(curve.activation[rows] + gradient).all(0)
        values = set(curve.sigma2[there].tolist())
        each.append(frozenset(values - {0.0} if 0.0 in values else ()))
    grid = _shared(each, 1)
    return [p for p, own in zip(found, each, strict=True) if grid and grid <= own], sorted(grid)


def _points(found: Judged, seeds: list[int], grid: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """lambda dR/db_j at the initial weights, (R, curves, K), and the change of the activation
    fraction from sigma2 = 0 over the last half of the epochs, (R, curves, K, T)."""
    gradients, changes = [], []
    length = min(c.activations[..., c.last_half].shape[-1] for c, _ in found)
    for curve, _ in found:
        rows, columns = np.isin(curve.seeds, seeds), np.isin(curve.sigma2, grid)
        gradients.append(curve.theory["bias_gradient"][rows][:, columns, 0])
        history = curve.activations[rows][..., -length:]
        changes.append(history[:, columns] - history[:, :1])
    return np.stack(gradients, 1), np.stack(changes, 1)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(x).ravel(), _ranks(y).ravel())[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    """The rank of each entry, in x's shape; ties share theirs."""
    return pd.Series(x.ravel()).rank().to_numpy().reshape(x.shape)


def _permuted(gradient: np.ndarray, change: np.ndarray) -> float:
    """Chance of as low a rank correlation were the curves (rows) exchanged as wholes."""
    count = gradient.shape[0]
    x, y = _ranks(gradient), _ranks(change)
    products = x @ y.T  # of each curve's gradients with each curve's changes
    if math.factorial(count) <= thresholds.PERMUTATIONS:
        orders = np.array(list(itertools.permutations(range(count))))
        extra = 0
    else:
        rng = np.random.default_rng(0)
        orders = rng.permuted(np.tile(np.arange(count), (thresholds.PERMUTATIONS, 1)), axis=1)
        extra = 1  # the order that was seen
    sums = products[np.arange(count), orders].sum(1)
    return float((np.sum(sums <= np.trace(products) + 1e-9) + extra) / (len(orders) + extra))


def _leave_one_out(gradient: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The rank correlation without each of the curves in turn."""
    kept = ~np.eye(gradient.shape[0], dtype=bool)
    return np.array([_rank_correlation(gradient[k], change[k]) for k in kept])


def reach_points(curves: Iterable[Curve]) -> list[dict]:
    """A point for each curve under unit_norm and sigma2 > 0, means over seeds, for the figure.

    ``gradient`` is lambda dR/db_j at the initial weights, ``change`` that of the activation
    fraction from sigma2 = 0; ``model``, ``activation`` and ``sigma2`` say whose.
    """
    points = []
    for curve in curves:
        fixed = curve.name["constraint"] == "unit_norm" and has_bias(curve)
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


class WhitenedFitsBetter(_OfTheory):
    name = "whitened-fits-better"
    claim = (
        "Whitened data, for which Assumption 1 holds, fit the theory better than the same data "
        "unwhitened: the sign of the bias gradient foretells the move of E[a_j] more often."
    )
    section = "2.1.1, assumption 1"
    figure = "drift"

    def judge(self, found: Judged) -> Finding:
        return not_tested("needs the same trials whitened and not", found)

    def together(self, findings: Mapping[str, Finding]) -> Finding | None:
        pairs = [(n, f"{n}{WHITENED}") for n in findings if f"{n}{WHITENED}" in findings]
        gains, words, used = [], [], []
        for raw, white in pairs:
            sides = _alike(findings[raw].curves, findings[white].curves)
            if not sides[0]:
                continue
            both, seeds = _comparable([*sides[0], *sides[1]])
            kept = {id(curve) for curve, _ in both}
            whole = [i for i, pair in enumerate(zip(*sides, strict=True))
                     if all(id(curve) in kept for curve, _ in pair)]  # fmt: skip
            sides = [sides[0][i] for i in whole], [sides[1][i] for i in whole]
            accuracy = [_accuracies(side, seeds) for side in sides]
            if accuracy[0] is None or accuracy[1] is None:
                continue
            gains.append(accuracy[1].less(accuracy[0]))
            effect, low, high = gains[-1].interval()
            levels = [float(mean(a.now)[0]) for a in accuracy if a is not None]
            words.append(
                f"{raw} {levels[0]:.3f}, whitened {levels[1]:.3f}, {effect:+.3f}"
                f"{interval_words(low, high)}, {len(seeds)} seeds"
            )
            used += [*sides[0], *sides[1]]
        if not gains:
            return not_tested("needs the same trials whitened and not")
        margin = thresholds.MARGIN
        claims = [limited(gain, -margin, margin) for gain in gains]
        settled = all(gain.settled(margin) for gain in gains)
        better = [above for _, above in claims]
        worse = [below for below, _ in claims if below == below]
        effect, low, high = min(gain.interval() for gain in gains)
        return Finding(
            f"balanced accuracy: {'; '.join(words)}",
            used,
            supports=max(better) if all(p == p for p in better) else NAN,
            contradicts=p_some(np.array(worse)) if worse and settled else NAN,
            effect=effect,
            low=low,
            high=high,
            measure="gain of balanced accuracy",
            seeds=min(gain.now.shape[0] for gain in gains),
            settled=settled,
            sensitive=True,
            lacks="seeds" if settled else "epochs",
        )


def _alike(raw: Judged, white: Judged) -> tuple[Judged, Judged]:
    """The curves that differ in whitening alone."""
    pairs = [
        (a, b)
        for a in raw
        for b in white
        if all(a[0].name[k] == b[0].name[k] for k in a[0].name if k != "dataset")
        and same_settings(a[0], b[0], frozenset({"whiten"}))
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _column(curve: Curve, name: str) -> np.ndarray:
    """A column of the theory, (R, K, E); NaN where it was not measured."""
    if name in curve.theory:
        return curve.theory[name]
    return np.full((curve.seeds.size, curve.sigma2.size, curve.epoch + 1), np.nan)


def _window(curve: Curve, name: str) -> np.ndarray:
    """A column of the theory over the last half of the epochs, (R, K, T)."""
    return _column(curve, name)[..., curve.last_half]


def _nanmean(x: np.ndarray, axis: int) -> np.ndarray:
    there = np.isfinite(x)
    with np.errstate(invalid="ignore"):
        return np.where(there, x, 0).sum(axis) / there.sum(axis)
