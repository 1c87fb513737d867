"""The memory of a stack on a GPU, from the sizes of all its tensors.

What an epoch allocates is the sum of what lives throughout and the larger of what a step and a
measurement add; torch takes more of the card: see `Footprint.reserved`. The terms of the theory
(`sparseae.theory.terms`) are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparseae.engine.stack import BATCHED_MEASURE_ROWS, measured_numbers, measured_together
from sparseae.model import ACTIVATIONS, MODELS
from sparseae.model.trial import Trial

_FLOAT32, _FLOAT64, _INT64 = 4, 8, 8

#: The GEMMs' workspaces: cuBLAS and cuBLASLt on two streams, 32 MiB each on an H100 by torch's
#: documentation; not measured.
_WORKSPACES = 128 << 20


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


def footprint(trials: Sequence[Trial], samples: int, inputs: int) -> Footprint:
    """The memory of a stack on data of shape (samples, inputs), all members stepping at once."""
    t, size = trials[0].training, len(trials)
    model = MODELS[trials[0].model]
    objective, activation = model(t), ACTIVATIONS[trials[0].activation]()
    seeds = len({trial.seed for trial in trials})
    n, m, batch = inputs, t.hidden_units, min(t.batch_size, samples)
    copies = objective.copies(t)

    parameters = 2 * size * (m * n + m)
    rows = copies * (batch + samples % batch)
    buffers = size * (objective.pairs * (m + n) + 2 * m) * rows
    lasting = (
        _FLOAT32 * (samples * n + parameters + buffers)
        + _INT64 * seeds * samples
        + _FLOAT64 * size * m * (6 + objective.moments_a_unit)
    )

    # A minibatch and its noise, a seed and, where the members' seeds differ, a member.
    drawn = t.corruptions if objective.stochastic else 0
    gathered = (seeds + (size if seeds > 1 else 0)) * (1 + drawn) * batch * n
    matrices = objective.step_temporaries * batch * copies * m
    step = gathered + size * (matrices + objective.unit_matrices * m * (m + n))

    together = min(size, measured_together(objective, activation, m, n))
    at_once = min(BATCHED_MEASURE_ROWS, samples)
    chunk = measured_numbers(objective, activation, m, n, at_once)
    doubled = 2 * m * n  # the weights in float64
    return Footprint(
        lasting=lasting,
        step=_FLOAT32 * step,
        measuring=_FLOAT32 * together * max(chunk, doubled),
    )
