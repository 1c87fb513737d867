"""Why relu dae gets sparse (section 3.1.1): statements about its effect, the mean fall of the
activation fraction over sigma2 > 0."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import ClassVar

import numpy as np

from sparseae.analysis import thresholds
from sparseae.analysis.curves import Curve
from sparseae.analysis.inference import NAN, Effect
from sparseae.analysis.prediction import (
    Evidence,
    Finding,
    Prediction,
    all_of,
    corruptions_of,
    interval_words,
    lacks_of,
    limited,
    not_tested,
    same_settings,
)
from sparseae.analysis.trends import Judged, Sound, Trend

_Pair = tuple[Curve, Trend]


class _Explanation(Prediction):
    """A statement on relu dae and another model under unit_norm, for each way of training."""

    section = "3.1.1"
    model: ClassVar[str]

    def test(self, evidence: Evidence) -> Finding:
        findings = [
            self.judge(daes, others) for daes, others in self._groups(evidence) if daes and others
        ]
        if not findings:
            return not_tested(f"needs relu dae and {self.model} under unit_norm")
        return all_of(findings)

    def _groups(self, evidence: Evidence) -> Iterator[tuple[list[_Pair], list[_Pair]]]:
        """The curves of dae and of the other model that were trained alike, by corruptions."""
        daes, others = (
            sorted(
                evidence.find(model, "relu", "unit_norm", most_corruptions=True),
                key=lambda pair: corruptions_of(pair[0]),
            )
            for model in ("dae", self.model)
        )
        apart = frozenset({"corruptions"})
        while daes:
            first = daes[0][0]
            alike = [pair for pair in daes if same_settings(pair[0], first, apart)]
            daes = [pair for pair in daes if not any(pair is other for other in alike)]
            yield alike, [pair for pair in others if same_settings(pair[0], first, apart)]

    def judge(self, daes: list[_Pair], others: list[_Pair]) -> Finding:
        """What the curves say, each list by rising number of corruptions."""
        raise NotImplementedError


def _shared(pairs: list[_Pair]) -> np.ndarray:
    """The sigma2 that every curve has: over others their falls cannot be compared."""
    known = [curve.sigma2[Sound.of(curve).columns] for curve, _ in pairs]
    return reduce(np.intersect1d, known)


def _fall(curve: Curve, at: np.ndarray) -> dict[int, np.ndarray]:
    """By seed how far the activation fraction falls from the first sigma2 of ``at``: the mean over
    the others, over the last half of the epochs."""
    sound = Sound.of(curve)
    columns = sound.columns[np.isin(curve.sigma2[sound.columns], at)]
    if columns.size < 2:
        return {}
    history = curve.activations[np.ix_(sound.seeds, columns)][..., curve.last_half]
    falls = (history[:, :1] - history[:, 1:]).mean(1)
    return {
        int(seed): fall
        for seed, fall in zip(curve.seeds[sound.seeds], falls, strict=True)
        if np.isfinite(fall).all()
    }


def _excess(part: Curve, whole: Curve, at: np.ndarray) -> Effect:
    """By how much the fall of one curve is more than half of another's, (R, 1), paired by seed."""
    a, b = _fall(part, at), _fall(whole, at)
    seeds = sorted(set(a) & set(b))
    window = np.array([[a[seed] - thresholds.MOST * b[seed]] for seed in seeds])
    return Effect.of(window, part.epoch) if seeds else Effect(*np.full((3, 0, 1), NAN))


def _size(curve: Curve, at: np.ndarray) -> float:
    falls = [fall[-1] for fall in _fall(curve, at).values()]
    return float(np.mean(falls)) if falls else NAN


def _words(name: str, pairs: list[_Pair], at: np.ndarray) -> str:
    sizes = [f"{_size(c, at):.3f} at {corruptions_of(c)}" for c, _ in pairs]
    return f"{name} falls by {', '.join(sizes)} corruptions a sample"


def _lacking(used: Judged, dae: _Pair, at: np.ndarray) -> str:
    """What the curves lack for a statement about dae's effect over some sigma2."""
    epochs = {curve.epoch for curve, _ in used}
    if len(epochs) > 1 or min(epochs) < thresholds.FEWEST_EPOCHS:
        return "epochs"
    if lacking := next((word for _, trend in used if (word := lacks_of(trend))), ""):
        return lacking
    if at.size < 2 or at[0] > 0 or at[-1] < thresholds.FULL_RANGE:
        return "range"
    return "" if _size(dae[0], at) > thresholds.MARGIN else "control"


def _less(used: Judged, dae: _Pair, part: Curve, words: str, at: np.ndarray) -> Finding:
    """That the fall of ``part`` is less than half of dae's."""
    if lacking := _lacking(used, dae, at):
        return Finding(words, used, lacks=lacking)
    excess = _excess(part, dae[0], at)
    if excess.now.shape[0] < 2:
        return Finding(words, used, lacks="seeds")
    below, above = limited(excess, -thresholds.MARGIN, thresholds.MARGIN)
    settled = excess.settled(thresholds.MARGIN)
    effect, low, high = excess.interval()
    return Finding(
        f"{words}; above one half of dae's fall by {effect:+.3f}{interval_words(low, high)}",
        used,
        supports=below,
        contradicts=above if settled else NAN,
        effect=effect,
        low=low,
        high=high,
        measure="fall of the activation_fraction beyond half of dae's",
        seeds=excess.now.shape[0],
        settled=settled,
        sensitive=all(trend.sensitive for _, trend in used),
        lacks="seeds" if settled else "epochs",
    )


class FirstOrderContributes(_Explanation):
    name = "first-order-contributes"
    claim = (
        "The first-order term, which a finite number of corruptions leaves, contributes to the "
        "sparsity of relu dae: alone (edae) it makes the code sparser."
    )
    model = "edae"

    def judge(self, daes: list[_Pair], others: list[_Pair]) -> Finding:
        used, edae = [daes[0], others[0]], others[0][0]
        at = _shared(used)
        words = f"{_words('dae', daes[:1], at)}; {_words('edae', others[:1], at)}"
        falls = np.array([[fall] for fall in _fall(edae, at).values()])
        if lacking := _lacking(used, daes[0], at) or ("" if len(falls) > 1 else "seeds"):
            return Finding(words, used, lacks=lacking)
        fall = Effect.of(falls, edae.epoch)
        below, above = limited(fall, thresholds.MARGIN, thresholds.MARGIN)
        settled = fall.settled(thresholds.MARGIN)
        effect, low, high = fall.interval()
        return Finding(
            f"{words}{interval_words(low, high)}, {len(falls)} seeds",
            used,
            supports=above,
            contradicts=below if settled else NAN,
            effect=effect,
            low=low,
            high=high,
            measure="fall of the activation_fraction",
            seeds=len(falls),
            settled=settled,
            sensitive=all(trend.sensitive for _, trend in used),
            lacks="seeds" if settled else "epochs",
        )


class FirstOrderNecessary(_Explanation):
    name = "first-order-necessary"
    claim = (
        "The first-order term is necessary for the sparsity of relu dae: as the corruptions of a "
        "sample grow in number it vanishes, and most of the fall with it."
    )
    model = "edae"

    def judge(self, daes: list[_Pair], others: list[_Pair]) -> Finding:
        used = [*daes, *others]
        at = _shared(used)
        words = f"{_words('dae', daes, at)}; {_words('edae', others, at)}"
        few, many = (corruptions_of(pair[0]) for pair in (daes[0], daes[-1]))
        if many / few <= thresholds.MORE_CORRUPTIONS:
            return Finding(f"{words}; the number was not varied", used, lacks="corruptions")
        return _less([daes[0], daes[-1]], daes[0], daes[-1][0], words, at)


class KinkExplains(_Explanation):
    name = "kink-explains"
    claim = (
        "What makes relu dae sparse is relu's kink (footnote 1's Dirac term): without it (dae2, "
        "eq. 7) most of the fall is gone."
    )
    section = "3.1.1, footnote 1"
    model = "dae2"

    def judge(self, daes: list[_Pair], others: list[_Pair]) -> Finding:
        dae, dae2 = daes[0], others[0]
        at = _shared([dae, dae2])
        words = f"{_words('dae', [dae], at)}; {_words('dae2', [dae2], at)}"
        return _less([dae, dae2], dae, dae2[0], words, at)


def kink_share(curve: Curve) -> float:
    """The kink's term as a share of the bias gradient that the noise adds to relu dae."""
    terms = [curve.theory[k][:, curve.sigma2 > 0] for k in ("kink_gradient", "bias_gradient")]
    kink, whole = (float(np.nansum(term)) for term in terms)
    return kink / whole if whole else NAN
