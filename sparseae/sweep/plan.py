"""The plan of a sweep: its stacks, how they are cut for the workers, and what they cost."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from sparseae import data
from sparseae.engine.choice_on_cpu import choose
from sparseae.engine.footprint import flops, footprint
from sparseae.engine.minibatches import NOISE_BYTES
from sparseae.engine.stack import Stack
from sparseae.model.trial import TRAINING_TYPES, Trial
from sparseae.sweep.cards import CARDS, seconds_on
from sparseae.sweep.config import Sweep
from sparseae.sweep.preparation import Preparation
from sparseae.sweep.routines import shape_of

#: Pieces are cut until the longest worker has at most this much more than its share of the work.
_IMBALANCE = 1.1

#: How much smaller the largest piece may be each time that this is not reached.
_FINER = 0.9

#: A piece is at most this share of a worker's work, because models and sizes differ in speed by up
#: to 1.5 either way (quickstart.yaml) and no more than a piece is lost at the end ...
_SHARE = 1 / 6
#: ... but no smaller for that than 4 s on a core, against which a Tune trial's 0.04 s are little.
_SMALLEST = 4e11

#: Bytes of a piece's members at most: without it a stack of thousands of trials is one piece.
_MOST_BYTES = 2 << 30

_FLOAT32 = 4

#: Bytes that are measured of a unit.
_MEASURED = 6 * 8

#: Seconds that a plan spends measuring the rate of each kind of trial, and of all of them.
_RATE_SECONDS, _ALL_RATES_SECONDS = 0.1, 4.0


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

    Training takes the model's products (encode, decode, back through the decoder and the two parts
    of the weight gradient: 2 each a weight), measuring encodes and decodes.
    """
    samples, inputs = data_shape(trial)
    training, measuring = flops(trial, inputs)
    epochs = trial.training.epochs
    return float(samples) * (training * epochs + measuring * (epochs + 1))


def data_shape(trial: Trial) -> tuple[int, int]:
    """(samples, inputs) of a trial's data set."""
    t = trial.training
    return _data_shape(trial.dataset, t.samples, t.gaussian_inputs, t.holdout)


@lru_cache
def _data_shape(name: str, samples: int, gaussian_inputs: int, holdout: float) -> tuple[int, int]:
    # A file's shape is read once for all its trials; a file that changes meanwhile only makes the
    # plan's figures old.
    return data.shape(name, samples=samples, gaussian_inputs=gaussian_inputs, holdout=holdout)


def cut(plans: Sequence[StackPlan], workers: int, *, gpu: bool = False) -> list[StackPlan]:
    """Cut stacks so that no worker idles, no finer than that needs; the longest first.

    The finish of the last of ``workers``, each taking the next piece when free, is at most 10 %
    later than an even division of the work; where whole trials do not allow that, it is within 2 %
    of the earliest found. Long pieces are cut further, because some are slower than their FLOPs
    say; not on a GPU, where a stack is faster than its parts.
    """
    plans = [part for plan in plans for part in plan.split(_parts_that_fit(plan))]
    total = sum(plan.flops for plan in plans)
    largest_trial = max(plan.flops / len(plan.trials) for plan in plans)
    ideal = max(total / workers, largest_trial)
    limit = ideal
    if workers > 1 and not gpu:
        limit = min(ideal, max(_SHARE * ideal, _SMALLEST, largest_trial))
    tried: list[tuple[float, list[StackPlan]]] = []
    while True:
        pieces = [p for plan in plans for p in plan.split(math.ceil(plan.flops / limit))]
        pieces.sort(key=lambda piece: piece.flops, reverse=True)
        finish = _last_finish([piece.flops for piece in pieces], workers)
        if finish <= _IMBALANCE * ideal:
            return pieces
        tried.append((finish, pieces))
        if all(len(piece.trials) == 1 for piece in pieces):
            earliest = min(finish for finish, _ in tried)
            return next(pieces for finish, pieces in tried if finish <= 1.02 * earliest)
        limit *= _FINER


def _parts_that_fit(plan: StackPlan) -> int:
    """Into how many parts a stack must be cut for its members, the data apart, to fit in memory."""
    return 1 + _saved_bytes(plan) // _MOST_BYTES


def _last_finish(pieces: Sequence[float], workers: int) -> float:
    """When the last worker is done, each taking the next piece when it is free."""
    free = [0.0] * workers
    for piece in pieces:
        heapq.heappush(free, heapq.heappop(free) + piece)
    return max(free)


def memory(plan: StackPlan) -> int:
    """Bytes that a Tune trial of this stack needs at its peak, beside the libraries.

    Parameters and momentum, four times over while a checkpoint is serialized; the buffers of a
    step; a minibatch's noise; a chunk of the measurement; the data.
    """
    trial = plan.trials[0]
    t, (samples, n) = trial.training, data_shape(trial)
    alone = footprint([trial], samples, n, together=1).allocated
    noise = len({trial.seed for trial in plan.trials}) * t.batch_size * n * _FLOAT32
    minibatches = max(noise * max(t.corruptions, 1), NOISE_BYTES)
    # Of the one whose buffers all use, the parameters are counted twice.
    return alone + _saved_bytes(plan) + 2 * minibatches


def _saved_bytes(plan: StackPlan) -> int:
    """What each member has of its own: parameters and momentum, four times over while a checkpoint
    is serialized, and what was measured of its units."""
    units, n = plan.trials[0].training.hidden_units, data_shape(plan.trials[0])[1]
    return len(plan.trials) * units * (4 * 2 * (n + 1) * _FLOAT32 + _MEASURED)


def gpu_memory(plan: StackPlan) -> int:
    """Bytes of a card that a Tune trial of this stack needs, beside CUDA's own context."""
    return footprint(plan.trials, *data_shape(plan.trials[0])).reserved


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
    largest_memory: int  # bytes of the largest Tune trial, of the card where it is on a GPU
    preparation_memory: int  # bytes, before training, of the data set that takes most
    flops: float
    seconds: float | None  # estimated; None on GPUs of a kind that is not known
    rate: float | None  # FLOP/s of one core, training and measuring, measured; None on GPUs
    checkpoint_bytes: int


def make_plan(
    sweep: Sweep, workers: int, *, gpu: bool = False, card: str | None = None, share: float = 1.0
) -> Plan:
    """Plan a sweep for so many Tune trials at once.

    Args:
        gpu: on GPUs, not on CPUs.
        card: Ray's name of these (`sparseae.sweep.cards`).
        share: of a card that a Tune trial has; those that share one take turns.
    """
    trials = sweep.trials()
    whole = stacks(sweep)
    pieces = cut(whole, workers, gpu=gpu)
    flops = sum(piece.flops for piece in pieces)
    seconds = rate = None
    if not gpu:
        rates = _rates(pieces)
        each = [piece.flops / rate for piece, rate in zip(pieces, rates, strict=True)]
        seconds, rate = _last_finish(each, workers), flops / sum(each)
    elif card in CARDS:
        each = [seconds_on(CARDS[card], p.trials, *data_shape(p.trials[0])) for p in pieces]
        seconds = _last_finish(sorted(each, reverse=True), workers) / min(share, 1.0)
    shapes = [(data_shape(plan.trials[0]), plan.trials) for plan in whole]
    return Plan(
        trials=len(trials),
        excluded=sweep.excluded,
        merged=sweep.merged,
        tune_trials=len(pieces),
        workers=workers,
        epochs=sum(t.training.epochs for t in trials),
        samples=sum(n * t.training.epochs for (n, _), stack in shapes for t in stack),
        largest_memory=max(map(gpu_memory if gpu else memory, pieces)),
        preparation_memory=max(p.memory for p in set(map(Preparation.of, trials))),
        flops=flops,
        seconds=seconds,
        rate=rate,
        checkpoint_bytes=sum(
            2 * _FLOAT32 * t.training.hidden_units * (inputs + 1)
            for (_, inputs), stack in shapes
            for t in stack
        ),
    )


def _rates(pieces: Sequence[StackPlan]) -> list[float]:
    """FLOP/s of one core for each piece; where time runs short, the mean of the longer ones."""
    known: dict[tuple, float] = {}
    stop = time.perf_counter() + _ALL_RATES_SECONDS
    keys = [kind_of(piece.trials[0]) for piece in pieces]
    for key, piece in zip(keys, pieces, strict=True):
        if key not in known and (not known or time.perf_counter() < stop):
            known[key] = rate_of(piece.trials[0])
    mean = sum(known.values()) / len(known)
    return [known.get(key, mean) for key in keys]


def kind_of(trial: Trial) -> tuple:
    """What a trial's speed depends on."""
    t = trial.training
    inputs = data_shape(trial)[1]
    return (trial.model, trial.activation, inputs, t.hidden_units, t.batch_size, t.corruptions)


def rate_of(trial: Trial) -> float:
    """FLOP/s of one core, measured by training and measuring this trial for a moment.

    On some rows of noise, and no larger than where the rate no longer grows with the size.
    """
    samples, inputs = data_shape(trial)
    t = trial.training
    small = replace(
        trial,
        training=replace(
            t,
            hidden_units=min(t.hidden_units, 1024),
            batch_size=min(t.batch_size, 200),
            corruptions=min(t.corruptions, 4),
        ),
    )
    inputs = min(inputs, 1024)
    operations = sum(flops(small, inputs))
    batch = small.training.batch_size
    rows = min(samples, batch * max(1, min(20, int(2e10 / (operations * batch)))))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        routine = choose(shape_of(small, inputs), threads=1)
        stack = Stack([small], torch.randn(rows, inputs), routine=routine)
        stack.train_epoch(1)  # the first allocates
        epochs, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < _RATE_SECONDS:
            stack.train_epoch(2)
            stack.measure()
            epochs += 1
    finally:
        torch.set_num_threads(threads)
    return operations * rows * epochs / elapsed
