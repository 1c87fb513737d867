"""A stack: trials that train together as one batched tensor program (docs/glossary.md).

The members of a stack share every shape, the model, the activation and the constraint; sigma2, the
seed and the other numbers of `STACKABLE` differ. Weights stand in one tensor (S, m, n). On a GPU a
step updates all members at once; on a CPU it updates one after the other, because one member's
working set fits in the cache and a whole stack's does not.

A member's numbers are those of the trial alone. It holds by this: its streams of random numbers are
functions of its seed (`sparseae.engine.randomness`); its W and b lie in memory as they do alone
(`_parameters`); on a CPU it steps alone, by what was chosen for its shape and not for the stack
(`sparseae.engine.choice`); and what is measured is taken in chunks that do not depend on the stack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseae.engine import randomness
from sparseae.engine.choice import (
    measuring_products,
    measuring_sums,
    steps_of,
    torch_products,
)
from sparseae.engine.cuda_graph import Program, precision
from sparseae.engine.measurements import (
    BATCHED_ROWS,
    BYTES,
    ROWS,
    Measurement,
    Measurer,
    measured_together,
)
from sparseae.engine.minibatches import Minibatches, Run
from sparseae.engine.products import TORCH, Alone, routine_of
from sparseae.engine.step import Members, Problem
from sparseae.engine.subnormals import subnormals_are_zero
from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
from sparseae.model.coefficients import Coefficients
from sparseae.model.contract import require_sound
from sparseae.model.network import Network
from sparseae.model.trial import STACKABLE, Trial


class Stack:
    """Trials that train together.

    Args:
        trials: the members; equal in everything but the keys of `STACKABLE`.
        x: the prepared data, (N, n).
        device: where to train; ``x`` is moved there.
        dtype: float32 to train, float64 for the tests.
        routine: a choice of `sparseae.engine.choice`: how a step is computed.
        tf32: train with products in TF32 where the GPU has it; measurements are in float32 always.
        together: how many members a step updates at once: by default all, but one on a CPU.
        at_once: whether an epoch is a program of such steps (`sparseae.engine.cuda_graph`): by
            default where more than one member steps at once, and on a GPU.
        measure_bytes: a measurement of members at once takes as many as so many bytes hold.

    Raises:
        ValueError: if the trials differ in more than a stack can hold, or their model, activation
            or constraint is not what it says of itself (`sparseae.model.contract`).
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        x: Tensor,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        routine: str = TORCH,
        *,
        tf32: bool = False,
        together: int | None = None,
        at_once: bool | None = None,
        measure_bytes: int = BYTES,
    ) -> None:
        _require_stackable(trials)
        self._routine = routine
        first = trials[0]
        self.trials = tuple(trials)
        self.training = first.training
        self.device = torch.device(device)
        self.x = x.to(self.device, dtype)
        size, m, n = len(trials), first.training.hidden_units, self.x.shape[1]
        if together is None:
            together = 1 if self.device.type == "cpu" else size
        self.problem = problem = Problem(
            model=MODELS[first.model](first.training),
            activation=ACTIVATIONS[first.activation](),
            constraint=CONSTRAINTS[first.constraint](),
            training=first.training,
            together=together,
            inputs=n,
            dtype=dtype,
            device=self.device,
            tf32=tf32,
        )
        require_sound(problem.model, problem.activation, problem.constraint)
        self.seeds = sorted({trial.seed for trial in trials})
        self.minibatches = Minibatches(
            self.x, self.seeds, first.training.batch_size, problem.model.encoder_input.draws
        )

        initial = {s: randomness.initial_weights(s, m, n) for s in self.seeds}
        #: W and b of a member beside each other, so that one operation updates both; and V and vb.
        self.parameters, self.W, self.b = _parameters(size, m, n, self.device, dtype)
        self.momentum, self.V, self.vb = _parameters(size, m, n, self.device, dtype)
        for row, trial in enumerate(trials):
            self.W[row].copy_(initial[trial.seed])
        #: What is finite as long as the losses of the epoch's steps were.
        self.probe = self.W.new_zeros(size, 1, 1)
        self.diverged = torch.zeros(size, dtype=torch.bool)

        self.groups = [
            self._members(slice(start, min(start + together, size)))
            for start in range(0, size, together)
        ]
        for group in self.groups:
            problem.constraint.project(group.W, group.coefficients)
        if at_once is None:
            at_once = together > 1 or self.device.type != "cpu"
        self.steps = steps_of(problem, self.groups, routine)
        self._measurer = Measurer(
            problem,
            Coefficients.of(trials, self.W.new_empty(0, dtype=torch.float64)),
            self.x,
            self.W,
            self.b,
            measuring_products(problem, routine),
            1 if together == 1 else min(together, measured_together(problem, m, measure_bytes)),
            BATCHED_ROWS if at_once else ROWS,
            measuring_sums(problem, routine),
        )
        #: What trains where all members step at once.
        self.program = Program(self.minibatches, self.run) if at_once else None

    def _members(self, own: slice) -> Members:
        return Members(
            self.trials[own], self.seeds,
            W=self.W[own], V=self.V[own], b=self.b[own], vb=self.vb[own],
            parameters=self.parameters[own], momentum=self.momentum[own], probe=self.probe[own],
        )  # fmt: skip

    @property
    def device_name(self) -> str:
        """What the results call the device: ``cpu`` or the card's name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type

    def network(self, member: int) -> Network:
        """One member's network, (1, m, n), by the products that were chosen."""
        own = slice(member, member + 1)
        products = routine_of(torch_products(self.problem, self._routine))
        return Alone(self.W[own], self.b[own], products)

    @property
    def data_mean(self) -> Tensor:
        """The mean sample, (n,), float64."""
        return self._measurer.data_mean

    @torch.inference_mode()
    def train_epoch(self, epoch: int) -> None:
        """Train every member that has not diverged for one epoch; ``epoch`` counts from 1."""
        if self.diverged.all():
            return
        self.probe.zero_()
        with precision(tf32=self.problem.tf32), subnormals_are_zero():
            if self.program is not None:
                self.program.run(epoch)
            else:
                for run in self.minibatches.runs(epoch):
                    self.run(run)
        # The extremes, because isfinite() of all makes a second matrix. NaN is an extreme too.
        extremes = [
            extreme(t, dim=1)
            for t in (self.parameters, self.probe.flatten(1))  # W and b lie in one row a member
            for extreme in (torch.amax, torch.amin)
        ]
        self.diverged |= ~torch.stack(extremes).isfinite().all(0).cpu()

    @torch.inference_mode()
    def run(self, run: Run) -> None:
        """Take the steps of a run, in each group all of them: its weights are in the cache."""
        together = self.problem.together
        for group, step in enumerate(self.steps):
            if not self.diverged[group * together : (group + 1) * together].all():
                step.run(run)

    @torch.inference_mode()
    def measure(self) -> Measurement:
        """Measure every member on the clean, full training set (eq. 14)."""
        with precision(tf32=False), subnormals_are_zero():
            return self._measurer.measure(self.diverged)

    def sums(self) -> list[tuple[Tensor | None, ...]]:
        """All that a measurement computes on the device, without the transfer."""
        return [
            self._measurer.sums(self.W[group], self.b[group]) for group in self._measurer.groups
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """What the next epoch depends on, beside the trials and the data."""
        return {"W": self.W, "V": self.V, "b": self.b, "vb": self.vb, "diverged": self.diverged}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`, in place.

        Raises:
            ValueError: if a tensor is missing or has another shape.
        """
        own = self.state_dict()
        shapes = {name: tensor.shape for name, tensor in own.items()}
        if {name: tensor.shape for name, tensor in state.items()} != shapes:
            raise ValueError("the checkpoint is not one of this stack")
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _parameters(
    size: int, m: int, n: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros: the parameters of each member as a row, and in them W (S, m, n) and b (S, m).

    Every W and b begins on a cache line. MKL's products with one row round by how the matrix lies
    in memory, so that a member in a stack must lie as it does alone.
    """
    line = 64 // dtype.itemsize
    bias_at = -(-m * n // line) * line
    rows = torch.zeros(size, bias_at + -(-m // line) * line, device=device, dtype=dtype)
    return rows, rows[:, : m * n].unflatten(1, (m, n)), rows[:, bias_at : bias_at + m]


def _require_stackable(trials: Sequence[Trial]) -> None:
    def fixed(trial: Trial) -> dict:
        values = trial.values()
        return {k: v for k, v in values.items() if k not in STACKABLE}

    first = fixed(trials[0])
    for trial in trials[1:]:
        other = fixed(trial)
        differing = [key for key in first if first[key] != other[key]]
        if differing:
            raise ValueError(f"trials with different {', '.join(differing)} cannot share a stack")
