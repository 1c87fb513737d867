"""The plan of a sweep: its stacks, how they are cut for the workers, and what they cost."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sparseae import data
from sparseae.objectives import OBJECTIVES
from sparseae.sweep.config import Sweep
from sparseae.trial import TRAINING_TYPES, Trial

#: Pieces are cut until the longest worker has at most this much more than its share of the work.
_IMBALANCE = 1.1

_FLOAT32 = 4


@dataclass(frozen=True)
class StackPlan:
    """Trials that one Tune trial trains: equal in everything but the stacked axes."""

    trials: tuple[Trial, ...]

    @cached_property
    def flops(self) -> float:
        """Floating point operations of the whole stack."""
        return cost(self.trials[0]) * len(self.trials)

    def split(self, parts: int) -> list[StackPlan]:
        """At most ``parts`` stacks of nearly equal size, the members in order."""
        parts = min(parts, len(self.trials))
        bounds = [len(self.trials) * i // parts for i in range(parts + 1)]
        return [StackPlan(self.trials[a:b]) for a, b in itertools.pairwise(bounds)]


def stacks(sweep: Sweep, trials: Sequence[Trial] | None = None) -> list[StackPlan]:
    """Group trials into stacks.

    An override or exclude that names a stacked axis splits the stack, and nothing else changes:
    the members of a stack agree in every value but the stacked axes.
    """
    groups: dict[tuple, list[Trial]] = defaultdict(list)
    fixed_training = [key for key in TRAINING_TYPES if key not in sweep.stack]
    fixed_axes = [
        axis
        for axis in ("model", "activation", "constraint", "dataset", "sigma2", "seed")
        if axis not in sweep.stack
    ]
    for trial in sweep.trials() if trials is None else trials:
        key = (
            *(getattr(trial, axis) for axis in fixed_axes),
            *(getattr(trial.training, name) for name in fixed_training),
        )
        groups[key].append(trial)
    return [StackPlan(tuple(members)) for members in groups.values()]


def cost(trial: Trial) -> float:
    """Floating point operations of a trial: training and measuring, every epoch.

    Training takes the model's products a weight and sample (encode, decode, back through the
    decoder and the two parts of the weight gradient: 2 each), measuring encodes and decodes.
    """
    t = trial.training
    samples, inputs = data_shape(trial)
    objective = OBJECTIVES[trial.model]
    step = objective.flops_per_weight_and_sample * objective.copies(t)
    return float(t.hidden_units * inputs * samples) * (step * t.epochs + 4 * (t.epochs + 1))


def data_shape(trial: Trial) -> tuple[int, int]:
    """(samples, inputs) of a trial's data set."""
    t = trial.training
    return data.shape(trial.dataset, samples=t.samples, gaussian_inputs=t.gaussian_inputs)


def cut(plans: Sequence[StackPlan], workers: int) -> list[StackPlan]:
    """Cut stacks so that no worker idles, no finer than that needs; the longest first.

    The finish of the last of ``workers``, each taking the next piece when free, is at most 10 %
    later than an even division of the work, as far as whole trials allow.
    """
    total = sum(plan.flops for plan in plans)
    largest_trial = max(plan.flops / len(plan.trials) for plan in plans)
    ideal = max(total / workers, largest_trial)
    limit = ideal
    while True:
        pieces = [p for plan in plans for p in plan.split(math.ceil(plan.flops / limit))]
        pieces.sort(key=lambda piece: piece.flops, reverse=True)
        alone = all(len(piece.trials) == 1 for piece in pieces)
        if alone or _last_finish([piece.flops for piece in pieces], workers) <= _IMBALANCE * ideal:
            return pieces
        limit *= 0.8


def _last_finish(pieces: Sequence[float], workers: int) -> float:
    """When the last worker is done, each taking the next piece when it is free."""
    free = [0.0] * workers
    for piece in pieces:
        heapq.heappush(free, heapq.heappop(free) + piece)
    return max(free)


def memory(plan: StackPlan) -> int:
    """Bytes that a Tune trial of this stack needs: parameters, buffers, data."""
    t = plan.trials[0].training
    samples, n = data_shape(plan.trials[0])
    m, members = t.hidden_units, len(plan.trials)
    objective = OBJECTIVES[plan.trials[0].model]
    parameters = 2 * (m * n + m)
    rows = t.batch_size * objective.copies(t)
    buffers = rows * (objective.pairs * (m + n) + 3 * m)
    return _FLOAT32 * (members * (parameters + buffers) + samples * n)


@dataclass(frozen=True)
class Plan:
    """What a sweep would run."""

    trials: int
    excluded: int
    merged: int
    tune_trials: int
    workers: int
    epochs: int
    samples: int  # trained, over all trials and epochs
    largest_memory: int  # bytes of the largest Tune trial
    flops: float
    seconds: float  # estimated, with `rate` on each worker
    rate: float  # FLOP/s of one core, training, measured
    checkpoint_bytes: int


def make_plan(sweep: Sweep, workers: int) -> Plan:
    """Plan a sweep for so many Tune trials at once."""
    trials = sweep.trials()
    pieces = cut(stacks(sweep), workers)
    flops = sum(piece.flops for piece in pieces)
    rates: dict[tuple, float] = {}
    seconds = []
    for piece in pieces:
        t = piece.trials[0].training
        shape = (data_shape(piece.trials[0])[1], t.hidden_units, t.batch_size)
        if shape not in rates:
            rates[shape] = _rate(piece.trials[0])
        seconds.append(piece.flops / rates[shape])
    return Plan(
        trials=len(trials),
        excluded=sweep.excluded,
        merged=sweep.merged,
        tune_trials=len(pieces),
        workers=workers,
        epochs=sum(t.training.epochs for t in trials),
        samples=sum(t.training.epochs * data_shape(t)[0] for t in trials),
        largest_memory=max(map(memory, pieces)),
        flops=flops,
        seconds=_last_finish(seconds, workers),
        rate=flops / sum(seconds),
        checkpoint_bytes=sum(
            2 * _FLOAT32 * t.training.hidden_units * (data_shape(t)[1] + 1) for t in trials
        ),
    )


def _rate(trial: Trial) -> float:
    """FLOP/s of one core, measured by training this trial for a fifth of a second."""
    import torch

    from sparseae.stack import Stack

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = min(20 * trial.training.batch_size, data_shape(trial)[0])
        stack = Stack([trial], torch.randn(rows, data_shape(trial)[1]))
        stack.train_epoch(1)  # the first allocates
        epochs, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < 0.2:
            stack.train_epoch(2)
            epochs += 1
    finally:
        torch.set_num_threads(threads)
    per_epoch = cost(trial) / (data_shape(trial)[0] * max(1, trial.training.epochs))
    return per_epoch * rows * epochs / elapsed
