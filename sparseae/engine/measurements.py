"""What is measured of the members of a stack after each epoch (eq. 14)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sparseae.engine.allocations import Allocations
from sparseae.engine.products import Alone, Batched, Routine
from sparseae.engine.randomness import generator
from sparseae.engine.step import Problem
from sparseae.model.coefficients import Coefficients
from sparseae.model.constraints import row_norms
from sparseae.model.forms import Both
from sparseae.model.network import Network

#: Samples a chunk of the measurement: large enough for the GEMM, small enough for a CPU's cache, or
#: to keep a GPU busy. The same for stacks of every size, because cae_h draws for a chunk.
ROWS, BATCHED_ROWS = 250, 500

#: A measurement of members at once takes as many as this many bytes hold.
BYTES = 256 << 20


#: Sums over a chunk of samples x (R, n): how many units are active (G, m), the squared error (G,),
#: and `Model.moment` if there is one, (G, .). They may be written over by the next chunk's.
ChunkSums = Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]

#: Makes them for members, W (G, m, n) and b (G, m), and chunks of at most so many rows.
MakeChunkSums = Callable[[Tensor, Tensor, int], ChunkSums]


@dataclass(frozen=True)
class Measurement:
    """What was measured of each member on the clean training set (eq. 14), (S,) each, float64.

    Of a diverged member the numbers mean nothing.
    """

    diverged: Tensor  # bool
    activation_fraction: Tensor
    dead_units: Tensor  # int64
    reconstruction_error: Tensor
    regularization: Tensor | None
    weight_norm_mean: Tensor
    bias_mean: Tensor
    pre_activation_mean: Tensor
    units: Units

    def rows(self) -> list[dict[str, Any]]:
        """Each member's columns of the results: its status, and where it is ok the numbers."""
        names = [f.name for f in fields(self) if f.name not in ("diverged", "units")]
        columns = {
            name: values.tolist() for name in names if (values := getattr(self, name)) is not None
        }
        units = self.units.bias.shape[1]
        rows: list[dict[str, Any]] = []
        for member, diverged in enumerate(self.diverged.tolist()):
            if diverged:
                rows.append({"status": "diverged"})
                continue
            row = {name: column[member] for name, column in columns.items()}
            row["dead_fraction"] = row["dead_units"] / units
            row["loss"] = row["reconstruction_error"] + row.get("regularization", 0.0)
            rows.append({"status": "ok", **row})
        return rows


@dataclass(frozen=True)
class Units:
    """The same a unit, (S, m) each, float64."""

    activation_fraction: Tensor
    pre_activation_mean: Tensor
    bias: Tensor
    weight_norm: Tensor


class Measurer:
    """Measures the members of a stack, whatever epoch it stands at.

    Args:
        problem: what the members have in common.
        coefficients: the members' numbers, in float64.
        x: the data, (N, n).
        W, b: the members' weights, (S, m, n) and (S, m), as they will be.
        products: what computes a member's products; None: those of several members at once.
        together: so many are measured at once.
        rows: samples of a chunk; by default `ROWS` for members alone, otherwise `BATCHED_ROWS`.
        chunk_sums: another way to the sums over a chunk than the products and torch.
    """

    def __init__(
        self,
        problem: Problem,
        coefficients: Coefficients,
        x: Tensor,
        W: Tensor,
        b: Tensor,
        products: Routine | None,
        together: int,
        rows: int | None = None,
        chunk_sums: MakeChunkSums | None = None,
    ) -> None:
        self._problem, self._coefficients = problem, coefficients
        self._x, self._W, self._b = x, W, b
        self._alone = products is not None
        self._products = products or Batched()
        self._rows = rows or (ROWS if self._alone else BATCHED_ROWS)
        self._other_sums = chunk_sums
        self._noise: dict[int, Tensor] = {}
        size = W.shape[0]
        self.groups = [
            slice(start, min(start + together, size)) for start in range(0, size, together)
        ]

    @cached_property
    def data_mean(self) -> Tensor:
        """The mean sample, (n,), float64."""
        if self._x.device.type == "cpu":
            return self._x.mean(0, dtype=torch.float64)
        # A GPU would turn all of x into float64 at once, and more: five times its memory.
        sums = [chunk.sum(0, dtype=torch.float64) for chunk in self._x.split(self._rows)]
        return torch.stack(sums).sum(0) / self._x.shape[0]

    def measure(self, diverged: Tensor) -> Measurement:
        """Measure every member; ``diverged`` (S,), on the CPU, gets those of no finite loss."""
        parts = [self._measured(members, diverged) for members in self.groups]
        active, squares, weight_norm, pre_activation = (
            torch.cat(part) for part in zip(*(part[:4] for part in parts), strict=True)
        )
        samples, model = self._x.shape[0], self._problem.model
        units = Units(
            activation_fraction=active / samples,
            pre_activation_mean=pre_activation,
            bias=self._b.double(),
            weight_norm=weight_norm,
        )
        error = squares / samples
        regularization, loss = None, error
        if (moments := _joined([part[4] for part in parts], self.groups)) is not None:
            regularization = model.regularization(
                moments / samples, weight_norm, self._coefficients
            )
            assert regularization is not None
            loss = error + regularization
        diverged |= ~loss.isfinite().cpu()
        return Measurement(
            diverged=diverged.clone(),
            activation_fraction=units.activation_fraction.mean(1).cpu(),
            dead_units=(active == 0).sum(1).cpu(),
            reconstruction_error=error.cpu(),
            regularization=None if regularization is None else regularization.cpu(),
            weight_norm_mean=weight_norm.mean(1).cpu(),
            bias_mean=units.bias.mean(1).cpu(),
            pre_activation_mean=units.pre_activation_mean.mean(1).cpu(),
            units=units,
        )

    def _measured(
        self, members: slice, diverged: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Of some members, in float64: active samples (G, m), squared error (G,), norm(W_j) and
        the mean of a_j, (G, m) each, and the sum of `Model.moment` over the samples, if it has one.
        """
        if diverged[members].all():
            none = torch.zeros_like(self._b[members], dtype=torch.float64)
            return none, none.sum(1), none, none, None
        W, b = self._W[members], self._b[members]
        return self.sums(W, b)

    def sums(self, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """The same by their weights, (G, m, n) and (G, m)."""
        (G, m, _), most = W.shape, min(self._rows, self._x.shape[0])
        active = W.new_zeros(G, m, dtype=torch.float64)
        squares = W.new_zeros(G, dtype=torch.float64)
        moments = None
        doubled = W.double()
        weight_norm = row_norms(doubled)
        # The mean of a linear map is the map of the mean.
        pre_activation = (self._view(doubled) @ self.data_mean).view(G, m) + b.double()
        del doubled
        chunk_sums = (self._other_sums or self._by_products)(W, b, most)
        for x in self._x.split(most):
            active_here, squares_here, moments_here = chunk_sums(x)
            active += active_here
            squares += squares_here
            if moments_here is not None:
                moments = moments_here.double() if moments is None else moments.add_(moments_here)
        return active, squares, weight_norm, pre_activation, moments

    def _view(self, t: Tensor) -> Tensor:
        """Members' tensor as the products take it: of one member alone a matrix."""
        return t[0] if self._alone else t

    def _by_products(self, W: Tensor, b: Tensor, most: int) -> ChunkSums:
        """The sums over a chunk by the products, and the rest by torch."""
        problem, products, view = self._problem, self._products, self._view
        model, s = problem.model, problem.activation
        G, m, n = W.shape
        net = Alone(W, b, products) if self._alone else Network(W, b)
        residual = view(W.new_empty(G, most, n))
        encoded, hidden = (
            products.hidden(W, most, m) if self._alone else W.new_empty(G, most, m)
            for _ in range(2)
        )
        ones = view(W.new_ones(G, 1, most))

        def cube(t: Tensor) -> Tensor:
            """As the model takes it."""
            return t.unsqueeze(0) if self._alone else t

        def sums(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            rows = x.shape[0]

            def total(t: Tensor) -> Tensor:
                """The sum over the rows of what the products take, as (G, .)."""
                return torch.matmul(ones[..., :rows], t).view(G, -1)

            chunk = view(x.expand(G, -1, -1))
            a = products.encode(chunk, view(W), view(b), encoded[..., :rows, :])
            room = hidden[..., :rows, :]
            h = s.value(a, out=room)
            r = products.residual(h, view(W), chunk, 1.0, residual[..., :rows, :])
            squares = torch.linalg.vector_norm(r, dim=(-2, -1)).double().square()
            moment = model.moment(net, cube(a), cube(h), cube(r), s, self._noise_of(G, rows))
            moments = None if moment is None else total(view(moment))
            del moment, a  # the count takes their place
            return total(torch.gt(h, s.threshold, out=room)), squares, moments

        return sums

    def _noise_of(self, groups: int, rows: int) -> Tensor | None:
        """The noise of a chunk, (G, R, n): the same for every chunk and every member."""
        if not isinstance(self._problem.model.encoder_input, Both):
            return None
        if rows not in self._noise:
            eps = self._x.new_empty(rows, self._x.shape[1])
            if not eps.is_meta:
                eps.normal_(generator=generator(0, "measure", device=eps.device))
            self._noise[rows] = eps
        return self._noise[rows].expand(groups, -1, -1)


def _joined(moments: Sequence[Tensor | None], groups: Sequence[slice]) -> Tensor | None:
    """The moments of all members, (S, .), those of diverged ones NaN; None where there are none."""
    known = [t for t in moments if t is not None]
    if not known:
        return None
    return torch.cat([
        known[0].new_full((group.stop - group.start, known[0].shape[1]), torch.nan)
        if t is None else t
        for t, group in zip(moments, groups, strict=True)
    ])  # fmt: skip


def measured_together(problem: Problem, units: int, room: int = BYTES) -> int:
    """How many members a measurement of members at once takes in so many bytes."""
    W = torch.empty(1, units, problem.inputs, device="meta", dtype=problem.dtype)
    data, b = W.new_empty(BATCHED_ROWS, problem.inputs), W[:, :, 0].clone()
    coefficients = Coefficients(W, [1.0])
    measurer = Measurer(problem, coefficients, data, W, b, None, 1)
    with torch.inference_mode(), Allocations() as one:
        measurer.sums(W, b)
    return max(1, room // one.peak)
