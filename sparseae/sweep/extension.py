"""A sweep with more seeds, epochs or values of sigma2 for some of its curves, and what that costs.

What is added is said in the configuration's own words: axes with more values, entries of `exclude`
that keep these from all other curves, and overrides of the epochs. So it runs, stops and goes on as
any sweep.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparseae.errors import RequestError
from sparseae.model.space import ZIP
from sparseae.model.trial import Trial
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep, difference
from sparseae.sweep.plan import cost, kind_of, rate_of

#: Beside ``sweep.yaml``: the sweep that a person asked for, where `sparseae next` added to it.
ASKED = "asked.yaml"


@dataclass(frozen=True)
class Addition:
    """What is added to a curve.

    Attributes:
        trial_ids: some trials of the curve; they say which it is.
        seeds: how many more.
        epochs: of each of its trials; 0 for as many as now.
        sigma2: further values.
    """

    trial_ids: tuple[str, ...]
    seeds: int = 0
    epochs: int = 0
    sigma2: tuple[float, ...] = ()


@dataclass
class _Wanted:
    seeds: dict[int, None] = field(default_factory=dict)
    sigma2: dict[float, None] = field(default_factory=dict)
    epochs: int = 0


def extended(sweep: Sweep, additions: Iterable[Addition]) -> Sweep:
    """The sweep with what is added to some of its curves.

    Raises:
        RequestError: where the configuration cannot say it: `epochs` is an axis, or seeds or sigma2
            are paired with another.
    """
    if "epochs" in sweep.axes:
        raise RequestError("space.epochs: a sweep along epochs cannot be added to")
    for block in sweep.blocks:
        for axis in ("seed", "sigma2"):
            if any(axis in group for group in block[ZIP]):
                raise RequestError(f"zip: a sweep that pairs {axis} cannot be added to")
    axes = [axis for axis in sweep.axes if axis not in ("seed", "sigma2")]
    curves: dict[tuple, _Wanted] = {}
    of_trial: dict[str, tuple] = {}
    for trial in sweep.trials():
        key = _key(trial, axes)
        of_trial[trial.trial_id] = key
        wanted = curves.setdefault(key, _Wanted())
        wanted.seeds[trial.seed] = wanted.sigma2[trial.sigma2] = None
        wanted.epochs = max(wanted.epochs, trial.training.epochs)
    longer: dict[tuple, int] = {}
    before = {key: list(wanted.seeds) for key, wanted in curves.items()}
    for addition in additions:
        keys = dict.fromkeys(of_trial[i] for i in addition.trial_ids if i in of_trial)
        # The curves of a statement have the same seeds, and two statements that want more of one
        # curve want the same ones.
        have = {seed for key in keys for seed in before[key]}
        more = range(max(have) + 1, max(have) + 1 + addition.seeds) if addition.seeds else ()
        for key in keys:
            wanted = curves[key]
            if addition.seeds:
                wanted.seeds |= dict.fromkeys([*sorted(have), *more])
            wanted.sigma2 |= dict.fromkeys(addition.sigma2)
            if addition.epochs > max(wanted.epochs, longer.get(key, 0)):
                longer[key] = addition.epochs
    seeds = sorted({*sweep.axes["seed"]}.union(*(w.seeds for w in curves.values())))
    sigma2 = sorted({*sweep.axes["sigma2"]}.union(*(w.sigma2 for w in curves.values())))
    raw = sweep.resolved()
    raw["space"] = [{**block, "seed": seeds, "sigma2": sigma2} for block in sweep.space]
    # What earlier additions keep from the other curves is said anew, from the trials.
    exclude = [entry for entry in raw["exclude"] if not _of_one_curve(entry, axes)]
    overrides = list(raw["overrides"])
    for key, wanted in curves.items():
        curve = dict(zip(axes, key, strict=True))
        for axis, all_of, own in (("seed", seeds, wanted.seeds), ("sigma2", sigma2, wanted.sigma2)):
            if missing := [value for value in all_of if value not in own]:
                exclude.append(curve | {axis: missing})
        if key in longer:
            overrides.append({"when": curve, "training": {"epochs": longer[key]}})
    made = Sweep.load(raw | {"exclude": _once(exclude), "overrides": overrides})
    if lost := difference(sweep, made):
        raise RequestError(f"{sweep.name} cannot be added to: {'; '.join(lost)}")
    return made


def _of_one_curve(entry: Mapping[str, Any], axes: Sequence[str]) -> bool:
    """Whether an entry of ``exclude`` takes seeds or values of sigma2 from one curve whole."""
    plain = not any(isinstance(entry.get(axis), list) for axis in axes)
    return plain and entry.keys() in ({*axes, "seed"}, {*axes, "sigma2"})


def _key(trial: Trial, axes: Sequence[str]) -> tuple:
    values = trial.values()
    return tuple(values[axis] for axis in axes)


def _once(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())


def as_asked(location: Location, sweep: Sweep) -> Sweep:
    """A sweep with what `sparseae next` has added to it there.

    Who runs the configuration of before goes on with all of it.
    """
    asked, record = location / ASKED, location / "sweep.yaml"
    if not asked.exists() or not record.exists():
        return sweep
    before = Sweep.recorded(asked.read_bytes(), str(asked))
    whole = Sweep.recorded(record.read_bytes(), str(record))
    return sweep if difference(before, sweep) or difference(sweep, whole) else whole


class Pace:
    """How fast this machine trains each kind of trial, measured when it is asked.

    Args:
        workers: trials that train at once.
        known: rates in FLOP/s by kind, of an earlier `Pace`.
    """

    def __init__(self, workers: int, known: Mapping[str, float] | None = None) -> None:
        self.workers = workers
        self.known = dict(known or {})

    def seconds(self, left: Mapping[Trial, int]) -> float:
        """Time for trials that have so many epochs each, -1 for none, to their last."""
        each = [self._seconds(trial, done) for trial, done in left.items()]
        return max(sum(each) / self.workers, max(each, default=0.0))

    def _seconds(self, trial: Trial, done: int) -> float:
        kind = repr(kind_of(trial))
        if kind not in self.known:
            self.known[kind] = rate_of(trial)
        rest = max(0, trial.training.epochs - max(done, 0))
        part = replace(trial, training=replace(trial.training, epochs=rest))
        return cost(part) / self.known[kind]
