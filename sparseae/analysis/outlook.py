"""What would decide a statement that is inconclusive: more seeds, epochs or values of sigma2.

Each option is simulated: what is not there yet is drawn from what the rows show, and the statement
is judged again as it would be, with the error that a further look leaves. The odds are the share of
the draws that decide, either way.

- A further seed deviates from the mean over seeds as these do: a random combination of whole runs'
  deviations, so that what belongs together along sigma2, epochs, models and measures stays
  together. The mean and the size of the deviations are drawn too, as a few seeds tell them.
- Further epochs go on at the pace of the last fifth, which slows down as a power of the epochs,
  from not at all to as their inverse square; the power is drawn.
- A further value of sigma2 lies between its neighbours; how far along is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import boxcox

from sparseae.analysis import thresholds
from sparseae.analysis.curves import Curve
from sparseae.analysis.inference import NAN, mean
from sparseae.analysis.prediction import Evidence, Prediction
from sparseae.analysis.trends import Judged, dead_onset, trend_of
from sparseae.analysis.verdicts import INCONCLUSIVE, TOGETHER, Looks, Outcome, outcomes_of

#: Draws of an option; fewer where the first ones agree. 48 know odds of a half to 7 %.
_DRAWS, _FIRST = 48, 12

#: A statement about more curves than this, as one over all models, takes seconds to judge: it is
#: drawn `_FIRST` times.
_FEW = 4

#: An option with these odds is enough; a dearer one is not tried.
ENOUGH = 0.8

#: Further seeds, and how many times the epochs, from the cheapest on. Beyond, one plans another
#: sweep.
_SEEDS = (1, 2, 3, 5, 8)
_EPOCHS = (1.5, 2.0, 3.0, 5.0, 10.0)
_SIGMA2 = (1, 2, 4)

#: The most that an option may cost, in times of what was spent on the curves so far.
_MOST = 10.0

#: Deviation between seeds of the activation fraction where one seed does not tell it: that of real
#: runs is 0.002 to 0.01 (`thresholds.MARGIN`). Of E[a_j] 1 / 0.4 times as much.
_UNKNOWN_NOISE = 0.006


@dataclass(frozen=True)
class Option:
    """What could be trained for a statement.

    Attributes:
        seeds: how many more of each curve.
        epochs: how many each of its trials has then; 0 for as many as it has.
        sigma2: further values.
        odds: the share of draws in which the statement is decided.
    """

    seeds: int = 0
    epochs: int = 0
    sigma2: tuple[float, ...] = ()
    odds: float = float("nan")

    def words(self, epoch: int) -> str:
        """As a person says it, of curves that have so many epochs."""
        parts = []
        if self.seeds:
            parts.append(f"{self.seeds} more seed{'s' if self.seeds > 1 else ''}")
        if self.epochs:
            parts.append(f"{self.epochs - epoch:,} more epochs")
        if self.sigma2:
            parts.append(f"sigma2 {', '.join(f'{value:.3g}' for value in self.sigma2)}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Open:
    """A statement that is inconclusive on a data set.

    Attributes:
        case, dataset, outcome: what it is, and why it is not decided.
        options: what was simulated, from the cheapest on; empty where training more of the same
            cannot help.
    """

    case: Prediction
    dataset: str
    outcome: Outcome
    options: list[Option]

    @property
    def curves(self) -> list[Curve]:
        """The curves that it is about."""
        return [curve for curve, _ in self.outcome.curves]

    @property
    def epoch(self) -> int:
        """Epochs that its curves have."""
        return max(curve.epoch for curve in self.curves)

    @property
    def best(self) -> Option | None:
        """The cheapest option whose odds are enough, else the one with the best odds."""
        enough = [option for option in self.options if option.odds >= ENOUGH]
        if enough:
            return enough[0]
        hopeful = [option for option in self.options if option.odds > 0]
        return max(hopeful, key=lambda option: option.odds, default=None)

    @property
    def label(self) -> str:
        """The statement and the data set, for people."""
        subject = self.case.subject.replace(" unit_norm", "")
        return ", ".join(filter(None, [f"{self.case.name}", subject, self.dataset]))


def open_statements(judged: Judged, looks: Looks) -> Iterator[Open]:
    """Every inconclusive statement with what would decide it. The same rows give the same odds.

    Args:
        judged: every curve.
        looks: those before; the present one is added.
    """
    statements = list(outcomes_of(judged, looks=looks))
    each = [
        (case, dataset, outcome)
        for case, outcomes in statements
        for dataset, outcome in outcomes.items()
        if dataset != TOGETHER
    ]
    known = [o for _, _, o in each if o.p == o.p]
    # Holm's factor for the next that is decided; a statement without a p-value so far adds one.
    factor = 1 + sum(o.verdict == INCONCLUSIVE for o in known)
    for case, dataset, outcome in each:
        if outcome.verdict != INCONCLUSIVE:
            continue
        here = [pair for pair in judged if pair[0].name["dataset"] == dataset]
        look = looks.number(f"{case.label}, {dataset}", outcome.curves) + 1
        limit = thresholds.ALPHA * thresholds.spent(look) / factor
        options: list[Option] = []
        candidates = _candidates(outcome)
        # Where not even the dearest decides, none does.
        if candidates and _odds(case, outcome, here, candidates[-1], limit, _FIRST) > 0:
            draws = _DRAWS if len(outcome.curves) <= _FEW else _FIRST
            for option in candidates:
                odds = _odds(case, outcome, here, option, limit, draws)
                options.append(replace(option, odds=odds))
                if odds >= ENOUGH:
                    break
        yield Open(case, dataset, outcome, options)


def _candidates(outcome: Outcome) -> list[Option]:
    """What may be tried, by its cost."""
    curves = [curve for curve, _ in outcome.curves]
    if not curves:
        return []
    if len(lengths := {curve.epoch for curve in curves}) > 1:
        return [Option(epochs=max(lengths))]  # they cannot be compared before they are alike
    if any(curve.unfinished for curve in curves):
        return []  # what is on its way comes first
    epoch = curves[0].epoch
    longer = [max(thresholds.FEWEST_EPOCHS, round(epoch * by)) for by in _EPOCHS]
    options = []
    if outcome.needs == "seeds":
        options += [Option(seeds=n) for n in _SEEDS]
        options += [Option(seeds=n, epochs=e) for n, e in itertools.product((2, 4), longer[1::2])]
    elif outcome.needs == "epochs":
        options += [Option(epochs=e) for e in longer]
        options += [Option(seeds=n, epochs=e) for n, e in itertools.product((2, 4), longer[1:])]
    elif outcome.needs == "sigma2":
        between = [_between(curves[0], n) for n in _SIGMA2]
        options += [Option(sigma2=values) for values in between if values]
        options += [Option(seeds=3, sigma2=values) for values in between[1:] if values]
    seeds = min(curve.seeds.size for curve in curves)
    costs = {option: _cost(option, seeds, epoch, curves[0].sigma2.size) for option in options}
    return sorted((o for o in costs if costs[o] <= _MOST), key=costs.__getitem__)


def _cost(option: Option, seeds: int, epoch: int, values: int) -> float:
    """In times of what the curves cost so far."""
    longer = (option.epochs or epoch) / epoch if epoch else 1.0
    return (1 + option.seeds / seeds) * (1 + len(option.sigma2) / values) * longer - 1


def _between(curve: Curve, count: int) -> tuple[float, ...]:
    """Values of sigma2, even in sigma, where dead units begin to rise; beyond the last if none."""
    if (onset := dead_onset(mean(curve.dead))) is None:
        return ()
    low, high = np.sqrt(curve.sigma2[onset - 1]), np.sqrt(curve.sigma2[onset])
    inner = np.linspace(low, high, count + 2)[1:-1]
    return tuple(float(f"{value**2:.3g}") for value in inner)


def _odds(
    case: Prediction,
    outcome: Outcome,
    here: Judged,
    option: Option,
    limit: float,
    draws: int,
) -> float:
    """The share of draws in which a statement is decided at this limit of its p-value."""
    rng = np.random.default_rng(0)
    own = [curve for curve, _ in outcome.curves]
    decided = done = 0
    for done in range(1, draws + 1):
        future = _draw(own, option, rng)
        pairs = [
            next(((f, trend_of(f)) for o, f in zip(own, future, strict=True) if o is curve), pair)
            for pair in here
            for curve in [pair[0]]
        ]
        p = case.test(Evidence(pairs)).p
        decided += p <= limit  # NaN is not
        if done == _FIRST and decided in (0, done):
            break
    return decided / done


def _draw(curves: Sequence[Curve], option: Option, rng: np.random.Generator) -> list[Curve]:
    """Some curves as they may be once an option is trained."""
    seeds = max(curve.seeds.size for curve in curves)
    weights = rng.standard_normal((option.seeds + 1, seeds))
    scale = float(np.sqrt((seeds - 1) / rng.chisquare(seeds - 1))) if seeds > 1 else NAN
    power, along = rng.uniform(0, 2), np.exp(rng.normal(0, 0.5))
    future = []
    for curve in curves:
        if option.sigma2:
            curve = _denser(curve, option.sigma2, along)
        if option.epochs:
            curve = _longer(curve, option.epochs, power)
        if option.seeds:
            curve = _wider(curve, weights, scale, rng)
        future.append(curve)
    return future


def _wider(curve: Curve, weights: np.ndarray, scale: float, rng: np.random.Generator) -> Curve:
    """A curve with further seeds: (N + 1, R) weights of the deviations, the first of the mean."""
    there = np.isfinite(curve.activation)
    rows = np.flatnonzero(there.all(1)) if there.all(1).any() else np.flatnonzero(there.any(1))
    more, known = weights.shape[0] - 1, rows.size

    def wider(table: np.ndarray, noise: float, low: float = -np.inf, high: float = np.inf):
        if not known:
            return np.concatenate([table, np.full((more, *table.shape[1:]), np.nan)])
        middle = table[rows].mean(0)
        if known == 1:
            shape = (more, table.shape[1], *[1] * (table.ndim - 2))
            drawn = middle + noise * rng.standard_normal(shape)
        else:
            deviation = scale * (table[rows] - middle) / np.sqrt(known - 1)
            own = weights[:, :known]
            centre = middle + np.tensordot(own[0], deviation, 1) / np.sqrt(known)
            drawn = centre + np.tensordot(own[1:], deviation, 1)
        return np.concatenate([table, np.clip(drawn, low, high)])

    noise = _UNKNOWN_NOISE
    return replace(
        curve,
        seeds=np.concatenate([curve.seeds, curve.seeds.max() + 1 + np.arange(more)]),
        activations=wider(curve.activations, noise, 0, 1),
        deads=wider(curve.deads, 0.0, 0, 1),
        pre_activations=wider(curve.pre_activations, noise / 0.4),
        lengths=wider(curve.lengths, 0.0),
        theory={name: wider(table, 0.0) for name, table in curve.theory.items()},
        trial_ids=np.concatenate([curve.trial_ids, np.full((more, curve.trial_ids.shape[1]), "")]),
        trials=curve.trials + more * curve.sigma2.size,
    )


def _longer(curve: Curve, epochs: int, power: float) -> Curve:
    """A curve with more epochs, whose pace falls with a power of them."""
    now = max(curve.epoch, 1)
    # The sum of the paces from now on: t^(1 - power) - 1 over 1 - power, or log t.
    way = now * boxcox(np.arange(curve.epoch + 1, epochs + 1) / now, 1 - power)

    def longer(table: np.ndarray, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
        window = table[..., curve.epoch - -(-curve.epoch // 5) :]
        x = np.arange(window.shape[-1]) - (window.shape[-1] - 1) / 2
        pace = (window @ x) / (x @ x) if window.shape[-1] > 1 else np.zeros(table.shape[:-1])
        ahead = np.clip(table[..., -1:] + pace[..., None] * way, low, high)
        return np.concatenate([table, ahead], axis=-1)

    return replace(
        curve,
        epoch=epochs,
        activations=longer(curve.activations, 0, 1),
        deads=longer(curve.deads, 0, 1),
        pre_activations=longer(curve.pre_activations),
        theory={name: longer(table) for name, table in curve.theory.items()},
    )


def _denser(curve: Curve, sigma2: Sequence[float], along: float) -> Curve:
    """A curve with further values of sigma2, each between its neighbours: as far as its sigma is,
    to the power of ``along``."""
    sigma, known = np.sqrt(np.array(sigma2)), np.sqrt(curve.sigma2)
    after = np.searchsorted(known, sigma)
    share = ((sigma - known[after - 1]) / (known[after] - known[after - 1])) ** along
    order = np.argsort(np.concatenate([known, sigma]))

    def denser(table: np.ndarray) -> np.ndarray:
        way = share.reshape(share.shape + (1,) * (table.ndim - 2))
        new = (1 - way) * table[:, after - 1] + way * table[:, after]
        return np.concatenate([table, new], axis=1)[:, order]

    ids = np.full((curve.trial_ids.shape[0], len(sigma2)), "")
    return replace(
        curve,
        sigma2=np.concatenate([curve.sigma2, sigma2])[order],
        activations=denser(curve.activations),
        deads=denser(curve.deads),
        pre_activations=denser(curve.pre_activations),
        lengths=denser(curve.lengths),
        theory={name: denser(table) for name, table in curve.theory.items()},
        trial_ids=np.concatenate([curve.trial_ids, ids], axis=1)[:, order],
        trials=curve.trials + curve.seeds.size * len(sigma2),
    )
