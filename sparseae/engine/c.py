"""A training step of one member on a CPU as loops in C (`step.c`, made by `library.py`).

A library's product of these sizes takes 9 of its 20 to 60 us before it computes, or runs at half
the processor's rate, and turns the hidden units over for the weight gradient. Between the products
torch goes through W and its momentum up to four times, through the hidden units up to seven times.
In C the hidden units lie turned over from the start, the products run at the processor's rate, and
there is one pass through the hidden units and one through the weights, a block of units after the
other, so that W and V come from memory once for all that follows decoding. Many steps are one call
where the loops know the activation too; otherwise a step is two, before and after the activation,
which is torch's.

Where there is no compiler the step is made of torch's operations, which round differently: a sweep
records which it had (`sparseae.engine.choice`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparseae.engine.library import Buffers, Compiled, Steps, compiled
from sparseae.engine.minibatches import Run
from sparseae.engine.products import Routine
from sparseae.engine.step import Backend, Members, Problem, Step
from sparseae.engine.torch import Update
from sparseae.model.activations import Gate, ReLU, Sigmoid, Tanh
from sparseae.model.coefficients import Coefficients, PerMember
from sparseae.model.forms import Corrupted, NoPenalty, OfMean, OfSlope
from sparseae.model.objective import Gradient

#: A variant: a run of steps is one call where it can be. Its sigmoid and tanh round otherwise than
#: torch's, its mean of h too.
WHOLE = "run"

#: The activations of whole runs, as step.c numbers them.
_ACTIVATIONS: dict[type, int] = {ReLU: 1, Sigmoid: 2, Tanh: 3}


class CBackend(Backend):
    """Steps in C, of members that step one after the other on a CPU.

    ``variant`` is `WHOLE`, or anything else.
    """

    name = "c"

    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"it is not for {device.type}"
        return None if compiled(dtype) else "no C compiler, or no AVX2"

    def refuses(self, problem: Problem) -> str | None:
        model, s = problem.model, problem.activation
        penalty = model.penalty
        if problem.together > 1:
            return "it steps one member at a time"
        if not model.declared:
            return f"{model.name} is of no form that it knows"
        if type(penalty) not in (NoPenalty, OfMean, OfSlope):
            return f"{model.name}'s penalty is of no form that it knows"
        if isinstance(penalty, OfSlope) and penalty.q != 2 and not isinstance(s.slope_in_h, Gate):
            return f"it knows the square of a slope, not the power {penalty.q}"
        return None

    def build(self, problem: Problem, groups: Sequence[Members], variant: str) -> list[Step]:
        found = compiled(problem.dtype)
        assert found is not None
        shared: dict[int, Buffers] = {}
        return [CStep(problem, group, found, shared, variant == WHOLE) for group in groups]


def updating(problem: Problem, found: Compiled, products: Routine, members: Members) -> Update:
    """SGD with momentum in C, after products of any routine, of a member alone."""
    constraint, c = problem.constraint, members.coefficients
    momentum, with_bias = problem.training.momentum, problem.training.encoder_bias
    W, V, b, vb = members.W[0], members.V[0], members.b[0], members.vb[0]
    decay, norms = constraint.decay(c), constraint.norms(c)
    bounds, learning_rate = bounds_of(problem, c), c.learning_rate.number

    def update(A: Tensor | None, X: Tensor | None, g: Gradient) -> None:
        made = None
        if A is None or X is None:
            V.mul_(momentum)
        else:
            made = products.accumulate(A, X, V, momentum)
        gradient = V if made is None else made
        if g.dense is not None:
            gradient.add_(g.dense[0])
        if decay is not None:
            decay.plus(gradient, W, out=gradient)
        found.update(
            W, V, b, vb, products=made,
            factors=g.row_factors,
            db=g.db if with_bias else None, momentum=momentum, learning_rate=learning_rate,
            norms=bounds,
        )  # fmt: skip
        if norms is None:
            constraint.project(members.W, c)

    return update


def bounds_of(problem: Problem, c: Coefficients) -> tuple[float, float]:
    """The least and the greatest length of a row, as the constraint says it."""
    low, high = problem.constraint.norms(c) or (0.0, math.inf)
    return _number(low), _number(high)


def _number(value: PerMember | float) -> float:
    return value.number if isinstance(value, PerMember) else value


def _in(room: Tensor, result: Tensor) -> Tensor:
    """The result in its room: an activation may have left it elsewhere, or in another type."""
    return room if result is room else room.copy_(result)


def _addresses(of: Tensor) -> list[int]:
    """Where each step's part lies, of (T, ...)."""
    start, apart = of.data_ptr(), of.stride(0) * of.itemsize
    return [start + step * apart for step in range(of.shape[0])]


class CStep(Step):
    """Steps of a member alone."""

    def __init__(
        self,
        problem: Problem,
        members: Members,
        found: Compiled,
        buffers: dict[int, Buffers],
        whole: bool,
    ) -> None:
        self._problem, self._members, self._c, self._buffers = problem, members, found, buffers
        self._steps: dict[int, Steps] = {}
        self._seed, self._numbers = members.seeds[0], members.coefficients
        self._net = members.network(problem.constraint.unit_rows)
        #: The constraint is none of lengths, which `update` sees to.
        self._projects = problem.constraint.norms(self._numbers) is None
        penalty = problem.model.penalty
        seen = problem.model.encoder_input
        self._corrupted = seen if isinstance(seen, Corrupted) else None
        self._mean = penalty if isinstance(penalty, OfMean) else None
        self._slope = penalty if isinstance(penalty, OfSlope) else None
        self._whole = whole and self._known()

    def _known(self) -> bool:
        """Whether the loops know all that comes between one step and the next."""
        problem, mean, slope = self._problem, self._mean, self._slope
        if type(problem.activation) not in _ACTIVATIONS or self._projects:
            return False
        if mean is not None:
            return mean.log_until is not None and self._numbers.rho.is_zero
        return slope is None or problem.constraint.unit_rows

    def run(self, run: Run) -> None:
        x, eps = run.x[:, self._seed], None
        if run.eps is not None and self._corrupted:
            eps = self._corrupted.noises(run.eps[:, self._seed])
        rows = x.shape[1] * (1 if eps is None else eps.shape[1])
        if rows not in self._steps:
            self._steps[rows] = self._steps_of(rows, rows // x.shape[1])
        steps, buffers = self._steps[rows], self._buffers[rows]
        if self._whole:
            steps.run(x, eps)
            return
        noises = [None] * x.shape[0] if eps is None else _addresses(eps)
        for at, noise in zip(_addresses(x), noises, strict=True):
            steps.forward(at, noise)
            self._rest(at, steps, buffers)

    def _steps_of(self, rows: int, copies: int) -> Steps:
        problem, members, c = self._problem, self._members, self._numbers
        s, constraint, training = problem.activation, problem.constraint, problem.training
        if rows not in self._buffers:
            self._buffers[rows] = Buffers(
                members.W[0], rows, smooth=s.slope_in_h is None, several=copies > 1
            )
        bend = share = 0.0
        if self._slope is not None:
            bend = c.lam.number * self._slope.q / rows
            share = self._slope.p / rows
        decay, (lowest, highest) = constraint.decay(c), bounds_of(problem, c)
        member = [t[0] for t in (members.W, members.V, members.b, members.vb, members.probe)]
        return Steps(
            self._c, member, self._buffers[rows], copies, s.slope_in_h, sigma=c.sigma.number,
            scale=2 / rows, momentum=training.momentum, rate=c.learning_rate.number,
            decay=0.0 if decay is None else decay.number, lowest=lowest, highest=highest, bend=bend,
            share=share, with_bias=training.encoder_bias, lam=c.lam.number,
            activation=_ACTIVATIONS.get(type(s), 0),
            pole=(self._mean and self._mean.log_until) or 0.0,
        )  # fmt: skip

    def _rest(self, x: int, steps: Steps, buffers: Buffers) -> None:
        """A step, once ``buffers.a`` is there."""
        s, a, curvature = self._problem.activation, buffers.a, None
        if buffers.h is None:
            h = _in(a, s.value(a, out=a))
        else:
            assert buffers.slope is not None
            assert buffers.curvature is not None
            h = _in(buffers.h, s.value(a, out=buffers.h))
            slope = _in(buffers.slope, s.slope(a, h, out=buffers.slope))
            if self._slope is not None and not s.piecewise_linear:
                curvature = buffers.curvature
                curvature = _in(curvature, s.curvature(a, h, slope=slope, out=curvature))
        offset = bends = scales = None
        if self._mean is not None:
            offset = self._mean.offset_of(h.mean(0).unsqueeze(0), h.shape[0], self._numbers)
        elif self._slope is not None and (norms := self._net.row_norms()) is not None:
            q, p = self._slope.q, self._slope.p
            bends = norms.pow(p).mul_(self._numbers.lam.number * q / h.shape[0])
            scales = None if p in (0, 2) else self._slope.of_norms(norms)
        steps.back(x, offset, bends, scales, curvature)
        if self._projects:
            self._problem.constraint.project(self._members.W, self._numbers)
