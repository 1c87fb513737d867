"""A stack: trials that train together as one batched tensor program (specification, "Words").

The members of a stack share every shape, the model, the activation and the constraint; sigma2, the
seed and the other numbers of `STACKABLE` differ. Weights stand in one tensor (S, m, n). On a GPU a
step updates all members at once; on a CPU it updates one after the other, because one member's
working set fits in the cache and a whole stack's does not. The code of a step is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor

from sparseae.engine import randomness
from sparseae.engine.c import compiled
from sparseae.engine.measurements import Measurement, Units
from sparseae.engine.program import Program, precision
from sparseae.engine.torch import TORCH, parts
from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
from sparseae.model.activations import Activation
from sparseae.model.coefficients import PerMember
from sparseae.model.constraints import row_norms
from sparseae.model.objective import Coefficients, Moments, Network, Objective, Pass
from sparseae.model.trial import STACKABLE, Trial

#: Noise for this many bytes is drawn at once and shared by the members with the same seed.
NOISE_BYTES = 4 << 20

#: Samples a chunk of the measurement: large enough for the GEMM, small enough for a CPU's cache, or
#: to keep a GPU busy. The same for stacks of every size, because cae_h draws for a chunk.
MEASURE_ROWS, BATCHED_MEASURE_ROWS = 250, 500

#: A measurement on a GPU takes as many members at once as this many bytes hold.
MEASURE_BYTES = 256 << 20


class _Group:
    """The members that a step updates at once: views into the stack's tensors."""

    def __init__(self, stack: Stack, members: slice) -> None:
        trials = stack.trials[members]
        self.members = members
        own = _index(members)
        self._alone = isinstance(own, int)
        self.W, self.V = stack.W[own], stack.V[own]
        self.b, self.vb = stack.b[own], stack.vb[own]
        #: (W, b) and their momentum as one row a member, (G, 1, .).
        self.parameters = stack.parameters[own].unsqueeze(-2)
        self.momentum = stack.momentum[own].unsqueeze(-2)
        self.error = stack.error[own]
        rows = [stack.seeds.index(trial.seed) for trial in trials]
        #: Where the members' seeds stand among the stack's; a number where they have one seed.
        self._seed_rows: int | Tensor = (
            rows[0] if len(set(rows)) == 1 else torch.tensor(rows, device=stack.device)
        )

        def coefficient(values: list[float]) -> PerMember:
            return PerMember(values, like=self.W)

        training = [trial.training for trial in trials]
        self.coefficients = Coefficients.of(trials, self.W)
        self.learning_rate = coefficient([t.learning_rate for t in training])
        self.max_norm = coefficient([t.max_norm for t in training])
        self.weight_decay = coefficient([t.weight_decay for t in training])
        self._passes: dict[int, Pass] = {}
        self._stack = stack

    def of_members(self, x: Tensor) -> Tensor:
        """Of x (seeds, ...) each member's, (G, ...); where they share it no copy is made."""
        if self._alone:
            return x[self._seed_rows]
        if isinstance(self._seed_rows, int):
            return x[self._seed_rows].expand(self.W.shape[0], *x.shape[1:])
        return x.index_select(0, self._seed_rows)

    def run_of_member(self, x: Tensor) -> Sequence[Tensor]:
        """Of x (steps, seeds, ...) what the one member takes at each step."""
        return x[:, self._seed_rows].unbind()

    def buffers(self, batch: int) -> Pass:
        """The step's buffers for minibatches of this size (the last of an epoch may be short)."""
        if batch not in self._passes:
            stack = self._stack
            first = stack._groups[0]
            self._passes[batch] = Pass(
                self.W,
                self.b,
                stack.activation,
                stack.objective.pairs,
                batch,
                stack.copies,
                stack.products,
                unit_rows=stack.constraint.unit_rows,
                # Groups take their steps one after the other, in the same few megabytes of cache.
                scratch=None if self is first else first.buffers(batch),
            )
        return self._passes[batch]


class Stack:
    """Trials that train together.

    Args:
        trials: the members; equal in everything but the keys of `STACKABLE`.
        x: the prepared data, (N, n).
        device: where to train; ``x`` is moved there.
        dtype: float32 to train, float64 for the tests.
        routine: a choice of `sparseae.engine.torch`, for a CPU: of the products in float32, of a
            step in C in both types.
        tf32: train with products in TF32 where the GPU has it; measurements are in float32 always.

    Raises:
        ValueError: if the trials differ in more than a stack can hold.
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
    ) -> None:
        _require_stackable(trials)
        first = trials[0]
        self.trials = tuple(trials)
        self.training = first.training
        self.device = torch.device(device)
        on_cpu, (products, in_c) = self.device.type == "cpu", parts(routine)
        self.routine = products if on_cpu and dtype == torch.float32 else TORCH
        self._together = together = _members_together(self.device, len(trials))
        #: The step in C, for members that step one after the other.
        self.compiled = compiled(dtype) if on_cpu and in_c and together == 1 else None
        self.tf32 = tf32
        self.x = x.to(self.device, dtype)
        self.objective = MODELS[first.model](first.training)
        self.activation = ACTIVATIONS[first.activation]()
        self.constraint = CONSTRAINTS[first.constraint]()
        #: What makes the products of a step.
        self.products = self.routine
        if self.compiled is not None and self.objective.in_c(self.activation):
            self.products = self.compiled
        self.copies = self.objective.copies(first.training)
        self.seeds = sorted({trial.seed for trial in trials})

        size, m, n = len(trials), first.training.hidden_units, self.x.shape[1]
        initial = {s: randomness.initial_weights(s, m, n) for s in self.seeds}
        #: W and b of a member beside each other, so that one operation updates both; and V and vb.
        self.parameters, self.W, self.b = _parameters(size, m, n, self.device, dtype)
        self.momentum, self.V, self.vb = _parameters(size, m, n, self.device, dtype)
        for row, trial in enumerate(trials):
            self.W[row].copy_(initial[trial.seed])
        #: Sum of squared errors of the epoch's steps, to see a loss that was not finite.
        self.error = self.W.new_zeros(size, 1, 1)
        self.diverged = torch.zeros(size, dtype=torch.bool)

        self._groups = [
            _Group(self, slice(start, start + together)) for start in range(0, size, together)
        ]
        for group in self._groups:
            self.constraint.project(group.W, group.max_norm)
        #: What trains where all members step at once.
        self.program = self._batched() if together > 1 or self.device.type == "cuda" else None

    def _batched(self) -> Program:
        """The epochs of the one group that holds all members."""
        t, draws = self.training, self.training.corruptions if self.objective.stochastic else 0
        return Program(self.x, self.seeds, t.batch_size, draws, self.step)

    @property
    def device_name(self) -> str:
        """What the results call the device: ``cpu`` or the card's name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type

    @property
    def batches(self) -> int:
        """Steps an epoch; the last minibatch may be short."""
        return -(-self.x.shape[0] // self.training.batch_size)

    @cached_property
    def data_mean(self) -> Tensor:
        """The mean sample, (n,), float64."""
        return self.x.mean(0, dtype=torch.float64)

    @torch.inference_mode()
    def train_epoch(self, epoch: int) -> None:
        """Train every member that has not diverged for one epoch; ``epoch`` counts from 1."""
        if self.diverged.all():
            return
        self.error.zero_()
        with precision(tf32=self.tf32):
            if self.program is not None:
                self.program.run(epoch)
            else:
                self._train_apart(epoch)
        # The extremes, because isfinite() of all makes a second matrix. NaN is an extreme too.
        extremes = [
            extreme(t, dim=1)
            for t in (self.parameters, self.error.flatten(1))  # W and b lie in one row a member
            for extreme in (torch.amax, torch.amin)
        ]
        self.diverged |= ~torch.stack(extremes).isfinite().all(0).cpu()

    @torch.inference_mode()
    def step(self, x: Tensor, eps: Tensor | None) -> None:
        """Step every member once, on x (seeds, B, n) and eps (seeds, K, B, n) of its seed."""
        for group in self._groups:
            noise = None if eps is None else group.of_members(eps)
            self._step(group, group.of_members(x), noise)

    def _train_apart(self, epoch: int) -> None:
        """Train one member after the other, each through a run of steps."""
        active = [g for g in self._groups if not self.diverged[g.members].all()]
        for x, eps in self._minibatches(epoch):
            # (steps, seeds, batch, inputs): each group does all steps while they are in the cache.
            for group in active:
                steps = group.run_of_member(x)
                noise = repeat(None) if eps is None else group.run_of_member(eps)
                for minibatch, drawn in zip(steps, noise, strict=False):
                    self._step(group, minibatch, drawn)

    def _minibatches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Runs of steps: x (steps, seeds, B, n) and eps (steps, seeds, K, B, n)."""
        samples, n = self.x.shape
        order = torch.stack([randomness.minibatch_order(s, epoch, samples) for s in self.seeds])
        order = order.to(self.device)
        generators = [randomness.generator(s, "noise", epoch, self.device) for s in self.seeds]
        batch = self.training.batch_size
        bytes_a_step = (
            len(self.seeds) * self.training.corruptions * batch * n * self.x.element_size()
        )
        run = max(1, NOISE_BYTES // bytes_a_step)
        full = samples // batch * batch
        for start in range(0, samples, run * batch):
            stop = min(start + run * batch, samples)
            for low, high in ((start, min(stop, full)), (max(start, full), stop)):
                if low >= high:
                    continue
                size = min(batch, high - low)
                rows = order[:, low:high].unflatten(1, (-1, size)).transpose(0, 1)
                x = self.x.index_select(0, rows.flatten()).unflatten(0, rows.shape)
                yield x, self._noise(generators, x) if self.objective.stochastic else None

    def _noise(self, generators: list[torch.Generator], x: Tensor) -> Tensor:
        """eps ~ N(0, I), (steps, seeds, K, B, n); a step at a time, so that no run length shows."""
        steps, seeds, batch, n = x.shape
        # edae draws as many as dae does, and averages them.
        eps = x.new_empty(steps, seeds, self.training.corruptions, batch, n)
        for step in range(steps):
            for seed, stream in enumerate(generators):
                eps[step, seed].normal_(generator=stream)
        return eps

    def _step(self, group: _Group, x: Tensor, eps: Tensor | None) -> None:
        """One step of SGD with momentum on the minibatch x (G, B, n), or (B, n)."""
        p = group.buffers(x.shape[-2])
        db, rest = self.objective.gradient(p, x, eps, group.coefficients)
        update = self._update if self.compiled is None else self._update_in_one_pass
        update(group, p, db if self.training.encoder_bias else None, rest)
        p.add_squares(group.error)

    def _update(self, group: _Group, p: Pass, db: Tensor | None, rest: Tensor | None) -> None:
        p.weight_gradient(group.V, self.training.momentum)
        if rest is not None and rest.dim() < group.V.dim():
            group.V.addcmul_(group.W, rest.unsqueeze(-1))
        elif rest is not None:
            group.V.add_(rest)
        self.constraint.decay(group.V, group.W, group.weight_decay)
        if db is not None:
            torch.add(db, group.vb, alpha=self.training.momentum, out=group.vb)
        group.learning_rate.add_to(group.parameters, group.momentum, scale=-1)
        self.constraint.project(group.W, group.max_norm)

    def _update_in_one_pass(
        self, group: _Group, p: Pass, db: Tensor | None, rest: Tensor | None
    ) -> None:
        """The same by `sparseae.engine.c`, of one member."""
        assert self.compiled is not None
        momentum, norms = self.training.momentum, self.constraint.norms(group.max_norm)
        products = p.routine.products(p.A.mT, p.X, group.V, momentum)
        gradient = group.V if products is None else products
        factors = rest
        if rest is not None and rest.dim() == gradient.dim():
            gradient.add_(rest)
            factors = None
        self.constraint.decay(gradient, group.W, group.weight_decay)
        self.compiled.update(
            group.W, group.V, group.b, group.vb, products=products, factors=factors, db=db,
            momentum=momentum, learning_rate=group.learning_rate.number,
            norms=norms or (0.0, math.inf),
        )  # fmt: skip
        if norms is None:
            self.constraint.project(group.W, group.max_norm)

    @torch.inference_mode()
    def measure(self) -> Measurement:
        """Measure every member on the clean, full training set (eq. 14)."""
        with precision(tf32=False):
            parts = [self._measure_members(members) for members in self._measured_together]
        active, squares, moments, weight_norm, pre_activation = (
            torch.cat(part) for part in zip(*parts, strict=True)
        )
        samples = self.x.shape[0]
        units = Units(
            activation_fraction=active / samples,
            pre_activation_mean=pre_activation,
            bias=self.b.double(),
            weight_norm=weight_norm,
        )
        values = Moments(mean=moments, weight_norm=weight_norm)
        regularization = self.objective.regularization(values, self._coefficients64)
        error = squares / samples
        loss = error if regularization is None else error + regularization
        self.diverged |= ~loss.isfinite().cpu()
        return Measurement(
            diverged=self.diverged.clone(),
            activation_fraction=units.activation_fraction.mean(1).cpu(),
            dead_units=(active == 0).sum(1).cpu(),
            reconstruction_error=error.cpu(),
            regularization=None if regularization is None else regularization.cpu(),
            weight_norm_mean=weight_norm.mean(1).cpu(),
            bias_mean=units.bias.mean(1).cpu(),
            pre_activation_mean=units.pre_activation_mean.mean(1).cpu(),
            units=units,
        )

    @cached_property
    def _coefficients64(self) -> Coefficients:
        return Coefficients.of(self.trials, self.W.new_empty(0, dtype=torch.float64))

    @cached_property
    def _measured_together(self) -> list[slice]:
        """The members that are measured at once: as many as step at once, as far as they fit."""
        size, m, n = self.W.shape
        fit = measured_together(self.objective, self.activation, m, n)
        step = min(self._together, fit)
        return [slice(start, start + step) for start in range(0, size, step)]

    def _measure_members(self, members: slice) -> tuple[Tensor, ...]:
        """Of some members, in float64.

        Active samples (G, m), squared error (G,), the objective's moment (G, m `moments_a_unit`),
        norm(W_j) and the mean of a_j, (G, m) each.
        """
        s, objective = self.activation, self.objective
        if self.diverged[members].all():
            none = torch.zeros_like(self.b[members], dtype=torch.float64)
            return none, none.sum(1), none.repeat(1, objective.moments_a_unit), none, none
        own = _index(members)
        net = Network(self.W[own], self.b[own], self.compiled or self.routine)
        *size, m, n = net.W.shape
        active = net.W.new_zeros(*size, m, dtype=torch.float64)
        squares = net.W.new_zeros(size, dtype=torch.float64)
        moments = torch.cat([active] * objective.moments_a_unit, dim=-1)
        W = net.W.double()
        weight_norm = row_norms(W)
        # The mean of a linear map is the map of the mean.
        pre_activation = W @ self.data_mean + net.b.double()
        del W
        most = MEASURE_ROWS if self.program is None else BATCHED_MEASURE_ROWS
        most = min(most, self.x.shape[0])
        residual = net.W.new_empty(*size, most, n)
        encoded, hidden = net.room(most), net.room(most)
        ones = residual.new_ones(*size, 1, most)
        for x in self.x.split(most):
            rows = x.shape[0]
            each = ones[..., :rows]
            x = x.expand(*size, -1, -1)
            a = net.encode(x, out=encoded[..., :rows, :])
            h = s.value(a, out=hidden[..., :rows, :])
            r = net.residual(h, x, out=residual[..., :rows, :])
            squares += torch.linalg.vector_norm(r, dim=(-2, -1)).double().square()
            if (moment := objective.moment(net, a, h, r, s)) is not None:
                moments += torch.matmul(each, moment).squeeze(-2)
            del moment, a  # the next chunk's take their place
            active += torch.matmul(each, h.gt_(s.threshold)).squeeze(-2)
        measured = (active, squares, moments / self.x.shape[0], weight_norm, pre_activation)
        return tuple(t.unsqueeze(0) for t in measured) if isinstance(own, int) else measured

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


def _index(members: slice) -> int | slice:
    """What takes the members out of a stack: one alone without a dimension for the group."""
    return members.start if members.stop - members.start == 1 else members


def _members_together(device: torch.device, size: int) -> int:
    """How many members a step updates at once."""
    return 1 if device.type == "cpu" else size


def measured_together(objective: Objective, activation: Activation, m: int, n: int) -> int:
    """How many members a measurement holds in `MEASURE_BYTES`."""
    return max(1, MEASURE_BYTES // (4 * measured_numbers(objective, activation, m, n)))


def measured_numbers(
    objective: Objective, activation: Activation, m: int, n: int, rows: int = BATCHED_MEASURE_ROWS
) -> int:
    """Numbers that the measurement of a member holds at once, for a chunk of ``rows`` samples."""
    # a and h are there while h is computed, and whatever computes it.
    matrices = max(objective.measured_matrices(activation), 2 + activation.value_temporaries)
    return rows * (matrices * m + n) + objective.unit_matrices * m * m


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
