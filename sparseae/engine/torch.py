"""The step by torch's operations: every model, activation and constraint, on every device.

A model of known forms (`sparseae.model.forms`) steps in buffers that are used again; any other by
`Model.gradient`. A step of members at once takes batched products; one of a member alone the
routine that was chosen (`sparseae.engine.choice`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sparseae.engine.minibatches import Run
from sparseae.engine.products import Alone, Batched, Routine, routine_of
from sparseae.engine.step import Backend, Members, Problem, Step
from sparseae.model.network import Network
from sparseae.model.objective import Gradient

#: Applies a gradient to the members that it was made for: its products A (G, m, R) and X (G, R, n),
#: or matrices for a member alone, if there are any, and the rest.
Update = Callable[[Tensor | None, Tensor | None, Gradient], None]

#: Makes the update of some members.
MakeUpdate = Callable[[Members], Update]


class TorchBackend(Backend):
    """torch: what everything can be computed by."""

    name = "torch"

    def missing(self, device: torch.device, dtype: torch.dtype) -> None:
        return None

    def refuses(self, problem: Problem) -> None:
        return None

    def build(
        self,
        problem: Problem,
        groups: Sequence[Members],
        variant: str,
        update: MakeUpdate | None = None,
    ) -> list[Step]:
        """``variant`` names the products of members alone; ``update`` is by torch if None."""
        products = routine_of(variant) if problem.together == 1 else Batched()
        shared: dict[tuple[int, int], _Buffers] = {}
        make = update or partial(updating, problem, products)
        return [TorchStep(problem, group, products, make(group), shared) for group in groups]


def updating(problem: Problem, products: Routine, members: Members) -> Update:
    """SGD with momentum, by torch."""
    constraint, c = problem.constraint, members.coefficients
    momentum, with_bias = problem.training.momentum, problem.training.encoder_bias
    W, V, vb = members.W, members.V, members.vb
    V_of_products = V[0] if problem.together == 1 else V
    parameters, momenta = members.parameters.unsqueeze(1), members.momentum.unsqueeze(1)
    decay = constraint.decay(c)

    def update(A: Tensor | None, X: Tensor | None, g: Gradient) -> None:
        if A is None or X is None:
            V.mul_(momentum)
        else:
            products.gradient(A, X, V_of_products, momentum)
        if g.row_factors is not None:
            V.addcmul_(W, g.row_factors.unsqueeze(-1))
        if g.dense is not None:
            V.add_(g.dense)
        if decay is not None:
            decay.plus(V, W, out=V)
        if with_bias:
            torch.add(g.db, vb, alpha=momentum, out=vb)
        c.learning_rate.plus(parameters, momenta, scale=-1, out=parameters)
        constraint.project(W, c)

    return update


class _Buffers:
    """The matrices of a step: A = [da; h] (G, 2 R, m), X = [x; dy] (G, 2 R, n), a and dh (G, R, m).

    ``views`` has a, dh, h, x and dy as the products take them: as matrices for a member alone.
    """

    def __init__(self, W: Tensor, rows: int, alone: bool) -> None:
        G, m, n = W.shape
        self.A, self.X = W.new_zeros(G, 2 * rows, m), W.new_zeros(G, 2 * rows, n)
        self.a, self.dh = W.new_zeros(2, G, rows, m)
        self.da, self.h = self.A.split(rows, dim=1)
        self.x, self.dy = self.X.split(rows, dim=1)
        whole = (self.a, self.dh, self.h, self.x, self.dy)
        self.views = tuple(t[0] for t in whole) if alone else whole
        #: What the products of the weight gradient take.
        self.turned = self.A[0].t() if alone else self.A.mT
        self.below = self.X[0] if alone else self.X


class TorchStep(Step):
    """Steps of a group by torch."""

    def __init__(
        self,
        problem: Problem,
        members: Members,
        products: Routine,
        update: Update,
        buffers: dict[tuple[int, int], _Buffers],
    ) -> None:
        self._problem, self._members, self._products = problem, members, products
        self._update, self._buffers = update, buffers
        self._alone = problem.together == 1
        W, b = members.W, members.b
        self._W, self._b = (W[0], b[0]) if self._alone else (W, b)
        self._probe = members.probe[0] if self._alone else members.probe
        unit_rows = problem.constraint.unit_rows
        self._net = (
            Alone(W, b, products, unit_rows=unit_rows)
            if self._alone
            else Network(W, b, unit_rows=unit_rows)
        )
        self._gradient = self._in_buffers if problem.model.declared else self._by_model

    def run(self, run: Run) -> None:
        members = self._members
        if members.one_seed:
            # Without a copy for each member.
            seed, size = members.seeds[0], members.W.shape[0]
            x = run.x[:, seed].unsqueeze(1).expand(-1, size, -1, -1).unbind()
            eps = None
            if run.eps is not None:
                eps = run.eps[:, seed].unsqueeze(1).expand(-1, size, -1, -1, -1).unbind()
        else:
            x = [members.of_members(step) for step in run.x]
            eps = None if run.eps is None else [members.of_members(step) for step in run.eps]
        for step, minibatch in enumerate(x):
            self.step(minibatch, None if eps is None else eps[step])

    def step(self, x: Tensor, eps: Tensor | None) -> None:
        """One step on x (G, B, n) with noise eps (G, K, B, n)."""
        A, X, gradient = self._gradient(x, eps)
        self._update(A, X, gradient)
        residual = gradient.residual
        if self._alone:
            row = residual.view(1, -1)
            self._probe.addmm_(row, row.t())
        else:  # a GPU has few threads for a product with one row and one column
            norm = torch.linalg.vector_norm(residual, dim=(1, 2), keepdim=True)
            self._probe.addcmul_(norm, norm)

    def _in_buffers(self, x: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor, Gradient]:
        """`Model.gradient` of a model of known forms."""
        problem, c = self._problem, self._members.coefficients
        model, s, products = problem.model, problem.activation, self._products
        penalty = model.penalty
        rows = x.shape[1] * model.encoder_input.rows
        size = self._members.W.shape[0], rows  # the last group may be smaller than the others
        if size not in self._buffers:
            self._buffers[size] = _Buffers(self._members.W, rows, self._alone)
        b = self._buffers[size]
        a, dh, h, x_in, dy = b.views
        seen, target = model.rows_of(x, eps, c, out=b.x)
        if seen is not b.x:
            b.x.copy_(seen)
        found = products.encode(x_in, self._W, self._b, a)
        a = b.a if found is a else self._cube(found)
        _into(b.h, s.value(a, out=b.h))
        aim = target.squeeze(0) if self._alone else target
        products.residual(h, self._W, aim, 2 / rows, dy)
        offset = penalty.offset(b.h, c)
        if offset is not None and self._alone:
            offset = offset.squeeze(0)
        found = products.encode(dy, self._W, offset, dh)
        dh = b.dh if found is dh else self._cube(found)
        da, row_factors, dense = penalty.back(dh, a, b.h, self._net, s, c, out=b.da)
        _into(b.da, da)
        gradient = Gradient((), b.da.sum(1), b.dy, row_factors, dense)
        return b.turned, b.below, gradient

    def _cube(self, t: Tensor) -> Tensor:
        return t.unsqueeze(0) if self._alone else t

    def _by_model(
        self, x: Tensor, eps: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Gradient]:
        problem = self._problem
        gradient = problem.model.gradient(
            self._net, x, eps, problem.activation, self._members.coefficients
        )
        if not gradient.pairs:
            return None, None, gradient
        A, X = zip(*gradient.pairs, strict=True)
        # Below each other, so that a single GEMM adds them all.
        A, X = torch.cat(A, dim=1).mT, torch.cat(X, dim=1)
        return (A.squeeze(0), X.squeeze(0), gradient) if self._alone else (A, X, gradient)


def _into(out: Tensor, result: Tensor) -> None:
    """See to it that a result lies where it was asked for."""
    if result is not out:
        out.copy_(result)
