"""What a stack costs, found by stepping it on tensors that have sizes and no contents ("meta").

Nothing is counted by hand: a model, an activation or a constraint costs what its own operations
allocate and multiply. The terms of the theory (`sparseae.theory.terms`) are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparseae.engine.allocations import Allocations
from sparseae.engine.minibatches import Run
from sparseae.engine.stack import Stack
from sparseae.model import ACTIVATIONS, MODELS
from sparseae.model.coefficients import Coefficients
from sparseae.model.network import Network
from sparseae.model.trial import Training, Trial

_FLOAT32, _INT64 = 4, 8

#: The GEMMs' workspaces: cuBLAS and cuBLASLt on two streams, 32 MiB each on an H100 by torch's
#: documentation; not measured.
_WORKSPACES = 128 << 20

#: Samples of which a stack's memory is found; of more, the data alone grow.
_TRACED = 1000


@dataclass(frozen=True)
class Footprint:
    """Bytes of a stack.

    Attributes:
        lasting: data, weights, momentum, the buffers of a step, the last measurement.
        step: what a step adds.
        measuring: what a measurement adds.
    """

    lasting: int
    step: int
    measuring: int

    @property
    def allocated(self) -> int:
        """The peak of the tensors, as ``torch.cuda.max_memory_allocated`` counts."""
        return self.lasting + max(self.step, self.measuring)

    @property
    def reserved(self) -> int:
        """What torch takes of a card, beside CUDA's own context.

        The graph keeps a step's temporaries, the step that runs without it takes them again, and
        neither shares with a measurement.
        """
        return _WORKSPACES + self.lasting + 2 * self.step + self.measuring


def footprint(
    trials: Sequence[Trial], samples: int, inputs: int, *, together: int | None = None
) -> Footprint:
    """The memory of a stack on data of shape (samples, inputs), its members ``together`` or all."""
    kind = (trials[0].model, trials[0].activation, trials[0].constraint)
    seeds = tuple(sorted({trial.seed for trial in trials}).index(t.seed) for t in trials)
    t = _shape(trials[0].training)
    try:
        return _footprint(kind, t, seeds, samples, inputs, together or len(trials))
    except RuntimeError:  # a size that overflows, which fits no machine
        rows = MODELS[kind[0]](t).encoder_input.rows * t.batch_size
        numbers = 2 * len(trials) * t.hidden_units * inputs + rows * (t.hidden_units + inputs)
        return Footprint(lasting=_FLOAT32 * numbers, step=0, measuring=0)


@lru_cache(maxsize=1024)
def _footprint(
    kind: tuple[str, str, str], training: Training, seeds: tuple[int, ...], samples: int,
    inputs: int, together: int,
) -> Footprint:  # fmt: skip
    model, activation, constraint = kind
    # Different sigma2, as of the members of a stack: a number that all share is not a tensor.
    trials = [
        Trial(model=model, activation=activation, constraint=constraint, dataset="", seed=seed,
              sigma2=0.01 * i, training=training)
        for i, seed in enumerate(seeds)
    ]  # fmt: skip
    batch = min(training.batch_size, samples)
    traced = min(samples, max(batch, _TRACED))
    x = torch.empty(traced, inputs, device="meta")
    distinct = len(set(seeds))
    with torch.inference_mode(), Allocations(x.device) as count:
        stack = Stack(trials, x, x.device, together=together)
        count.peak = 0
        for size in {batch, samples % batch} - {0}:
            rows = torch.empty(1, distinct, size, dtype=torch.int64, device=x.device)
            stack.run(Run(x, rows, stack.minibatches.noise(1, size)))
            del rows
        lasting, step = count.held, count.peak
        count.peak = 0
        kept = stack.sums()
        measuring = count.peak
        results = count.held - lasting
        del kept
    more = (samples - traced) * (_FLOAT32 * inputs + _INT64 * distinct)
    return Footprint(
        lasting=lasting + results + more,
        step=step - lasting,
        measuring=measuring - lasting,
    )


class _Flops(TorchDispatchMode):
    """Counts the floating point operations of the products."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        counted = flop_registry.get(func._overloadpacket)
        if counted is not None:
            self.total += counted(*args, **(kwargs or {}), out_val=result)
        return result


def flops(trial: Trial, inputs: int) -> tuple[float, float]:
    """Floating point operations of the products: training on a sample, and measuring it."""
    return _flops(trial.model, trial.activation, _shape(trial.training), inputs)


@lru_cache(maxsize=4096)
def _flops(model: str, activation: str, training: Training, inputs: int) -> tuple[float, float]:
    m, batch = training.hidden_units, training.batch_size
    trained, s = MODELS[model](training), ACTIVATIONS[activation]()
    if trained.declared:
        # Encode, decode, back through the decoder, both parts of the weight gradient: without
        # "meta", whose first use takes a second.
        return 10 * m * inputs * trained.encoder_input.rows, 4 * m * inputs
    W = torch.empty(1, m, inputs, device="meta")
    x, draws = W.new_empty(1, batch, inputs), trained.encoder_input.draws
    eps = W.new_empty(1, draws, batch, inputs) if draws else None
    with torch.inference_mode(), _Flops() as step:
        c = Coefficients(W, [1.0])
        gradient = trained.gradient(Network(W, W.new_empty(1, m)), x, eps, s, c)
        gradient.weights(W)
    return step.total / batch, 4 * m * inputs


def _shape(training: Training) -> Training:
    """The training with what changes neither memory nor products at its default."""
    plain = Training()
    return replace(
        training, epochs=plain.epochs, learning_rate=plain.learning_rate, samples=plain.samples,
        data_seed=plain.data_seed, whiten=plain.whiten, standardize=plain.standardize,
    )  # fmt: skip
