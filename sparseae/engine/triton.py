"""The step of all members at once on a GPU, as four kernels (`sparseae.engine.kernels`).

Two of the four make the sums of a measurement too.

Products are in ``tf32x3``: three of a GPU's TF32 products, which together have about float32's
accuracy; in TF32 alone where the sweep asks for it. The noise itself is drawn by torch, so that a
trial's streams are those of every other backend.

Without a GPU the kernels run in Triton's interpreter, where ``TRITON_INTERPRET=1`` is set before
Triton is first imported: slowly, as a test.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparseae.engine.measurements import MakeChunkSums
from sparseae.engine.minibatches import Run
from sparseae.engine.step import Backend, Members, Problem, Step
from sparseae.model.activations import ReLU, Sigmoid, Softplus, Tanh
from sparseae.model.coefficients import PerMember
from sparseae.model.forms import Corrupted, NoPenalty, OfMean, OfSlope
from sparseae.model.objective import Model

#: The activations that the kernels know, and their numbers there.
_ACTIVATIONS: dict[type, int] = {ReLU: 0, Softplus: 1, Sigmoid: 2, Tanh: 3}


@dataclass(frozen=True)
class Tiles:
    """Sizes of the kernels' tiles; powers of two, at least 16.

    Attributes:
        units, depth: of encode and back: units of a program, inputs of a turn of its loop.
        inputs, decode_depth: of decode: inputs of a program, units of a turn.
        rows, wide, update_depth: of update: rows of W of a program, inputs and samples of a turn.
            Rows of no more inputs stay on chip until they are scaled.
        stages: turns of encode, decode and back that are on their way at once.
    """

    units: int = 64
    depth: int = 32
    inputs: int = 32
    decode_depth: int = 64
    rows: int = 32
    wide: int = 64
    update_depth: int = 32
    stages: int = 3


#: What is tried on a card; not one of them has been measured. Compiled for an H100 each fits its
#: shared memory and registers (tests/engine/test_kernels.py): tiles twice as large spill.
VARIANTS = {
    "a": Tiles(),
    "b": Tiles(units=32, depth=64, inputs=16, rows=16, wide=256, update_depth=16),
    "c": Tiles(depth=64, inputs=64, rows=64, wide=128, update_depth=16, stages=2),
    "d": Tiles(units=128, decode_depth=32, wide=256, update_depth=16),
}

#: Warps of every program.
_WARPS = 8


class TritonBackend(Backend):
    """Fused kernels for the known forms; ``variant`` is a key of `VARIANTS`."""

    name = "triton"

    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"it is not for {device.type}"
        return None

    def refuses(self, problem: Problem) -> str | None:
        model, s, penalty = problem.model, problem.activation, problem.model.penalty
        if not model.declared:
            return f"{model.name} is of no form that it knows"
        if type(s) not in _ACTIVATIONS:
            return f"it does not know {s.name}"
        if type(penalty) not in (NoPenalty, OfMean, OfSlope):
            return f"{model.name}'s penalty is of no form that it knows"
        if isinstance(penalty, OfSlope) and min(penalty.q - 1, penalty.p) < 0:
            return "it knows powers of whole numbers from 1 (q) and 0 (p) on"
        return None

    def build(self, problem: Problem, groups: Sequence[Members], variant: str) -> list[Step]:
        tiles = VARIANTS[variant]
        return [TritonStep(problem, group, tiles) for group in groups]

    def measuring(self, problem: Problem, variant: str) -> MakeChunkSums | None:
        """The sums of a measurement by the same kernels, never in TF32 alone.

        None where the model's moment is its own. What `refuses` says holds here too.
        """
        if type(problem.model).moment is not Model.moment:
            return None
        return partial(TritonSums, problem, VARIANTS[variant])


class _Buffers:
    """h and da (G, R, m), rows `_apart`, and dy (G, R, n)."""

    def __init__(self, W: Tensor, rows: int) -> None:
        G, m, n = W.shape
        self.h, self.da = W.new_empty(2, G, rows, _apart(m))
        self.dy = W.new_empty(G, rows, n)


class TritonStep(Step):
    """Steps of a group."""

    def __init__(self, problem: Problem, members: Members, tiles: Tiles) -> None:
        from sparseae.engine import kernels

        self._kernels, self._problem, self._members = kernels, problem, members
        self._tiles, W = tiles, members.W
        G, m, n = W.shape
        penalty = problem.model.penalty
        seen = problem.model.encoder_input
        self._corrupted = seen if isinstance(seen, Corrupted) else None
        self._mean = penalty if isinstance(penalty, OfMean) else None
        self._slope = penalty if isinstance(penalty, OfSlope) else None
        self._rho, self._factors = W.new_empty(2, G, m)
        self._buffers: dict[int, _Buffers] = {}
        c, rule = members.coefficients, problem.constraint
        self._norms = rule.norms(c)
        low, high = self._norms or (0.0, float("inf"))
        self._numbers: dict[str, Tensor] = {
            "lam": _column(c.lam, W), "sigma": _column(c.sigma, W),
            "rate": _column(c.learning_rate, W), "decay": _column(rule.decay(c) or 0.0, W),
            "low": _column(low, W), "high": _column(high, W),
        }  # fmt: skip
        self._bound = self._norms is not None and self._norms != (0.0, float("inf"))
        self._shared = _shared(W, tiles, tf32=problem.tf32)
        self._wide = min(tiles.wide, max(16, _power_of_two(n)))

    def run(self, run: Run) -> None:
        seen, eps = self._corrupted, run.eps
        for step, rows in enumerate(run.rows):
            noises = None if seen is None or eps is None else seen.noises(eps[step])
            self._step(run.data, rows, noises)

    def _step(self, x: Tensor, order: Tensor, eps: Tensor | None) -> None:
        problem, members, tiles = self._problem, self._members, self._tiles
        kernels, number, shared = self._kernels, self._numbers, self._shared
        W, V, b, vb = members.W, members.V, members.b, members.vb
        (G, m, n), B = W.shape, order.shape[1]
        noisy = isinstance(eps, Tensor)
        K = eps.shape[1] if isinstance(eps, Tensor) else 1
        rows = K * B
        if rows not in self._buffers:
            self._buffers[rows] = _Buffers(W, rows)
        own = self._buffers[rows]
        order = order.contiguous()
        noise = eps.contiguous() if isinstance(eps, Tensor) else x
        member = W.stride(0)
        high = _rows_of_a_tile(rows)
        known = {"ACTIVATION": _ACTIVATIONS[type(problem.activation)], **shared}
        mean, slope = self._mean, self._slope
        q, p = (slope.q, slope.p) if slope is not None else (2, 0)
        sizes = (member, _apart(m), B, K, m, n)

        kernels.encode[(_parts(m, tiles.units), G)](
            x, order, noise, members.seed_rows, number["sigma"], W, b, own.h, self._rho, self._rho,
            *sizes, NOISY=noisy, MEAN=mean is not None, POWER=0, COUNT=False, THRESHOLD=0.0,
            ROWS=high, UNITS=tiles.units, DEPTH=tiles.depth, **known,
        )  # fmt: skip
        kernels.decode[(_parts(n, tiles.inputs), G)](
            x, order, members.seed_rows, W, own.h, own.dy, members.probe, *sizes,
            ROWS=high, INPUTS=tiles.inputs, DEPTH=tiles.decode_depth, **shared,
        )  # fmt: skip
        offset = self._rho
        if mean is not None:
            offset = mean.offset_of(self._rho, rows, members.coefficients)
        kernels.back[(_parts(m, tiles.units), G)](
            W, b, vb, own.h, own.dy, own.da, offset, self._factors, number["lam"], number["rate"],
            *sizes, problem.training.momentum, MEAN=mean is not None, SLOPE=slope is not None,
            Q=q, P=p, UNIT=problem.constraint.unit_rows, BIAS=problem.training.encoder_bias,
            ROWS=high, UNITS=tiles.units, DEPTH=tiles.depth, **known,
        )  # fmt: skip
        kernels.update[(_parts(m, tiles.rows), G)](
            x, order, noise, members.seed_rows, number["sigma"], W, V, own.h, own.dy, own.da,
            self._factors, number["rate"], number["decay"], number["low"], number["high"], *sizes,
            problem.training.momentum, NOISY=noisy, SLOPE=slope is not None and p > 0,
            BOUND=self._bound, ROWS=tiles.update_depth, UNITS=tiles.rows, INPUTS=self._wide,
            **shared | {"num_stages": 1},
        )  # fmt: skip
        if self._norms is None:
            problem.constraint.project(W, members.coefficients)


class TritonSums:
    """The sums of a measurement over a chunk of samples (`ChunkSums`), of members by their weights.

    Args:
        W, b: weights (G, m, n) and biases (G, m).
        most: samples of the largest chunk.
    """

    def __init__(self, problem: Problem, tiles: Tiles, W: Tensor, b: Tensor, most: int) -> None:
        from sparseae.engine import kernels

        self._kernels, self._tiles, self._W, self._b = kernels, tiles, W, b
        (G, m, n), penalty = W.shape, problem.model.penalty
        self._h, self._dy = W.new_empty(G, most, _apart(m)), W.new_empty(G, most, n)
        self._mean, self._active = W.new_empty(2, G, m)
        # Every member sees the samples in the order in which they lie, without noise.
        self._order = torch.arange(most, device=W.device)
        self._seeds = torch.zeros(G, dtype=torch.int64, device=W.device)
        self._sigma = W.new_zeros(G)
        self._shared = _shared(W, tiles, tf32=False)
        self._with_mean = isinstance(penalty, OfMean | OfSlope)
        self._known = {
            "ACTIVATION": _ACTIVATIONS[type(problem.activation)],
            "THRESHOLD": problem.activation.threshold,
            "POWER": penalty.q if isinstance(penalty, OfSlope) else 0,
        }

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        kernels, tiles, W, shared = self._kernels, self._tiles, self._W, self._shared
        (G, m, n), rows = W.shape, x.shape[0]
        sizes = (W.stride(0), _apart(m), rows, 1, m, n)
        high = _rows_of_a_tile(rows)
        squares = W.new_zeros(G)
        kernels.encode[(_parts(m, tiles.units), G)](
            x, self._order, x, self._seeds, self._sigma, W, self._b, self._h, self._mean,
            self._active, *sizes, NOISY=False, MEAN=self._with_mean, COUNT=True,
            ROWS=high, UNITS=tiles.units, DEPTH=tiles.depth, **self._known, **shared,
        )  # fmt: skip
        kernels.decode[(_parts(n, tiles.inputs), G)](
            x, self._order, self._seeds, W, self._h, self._dy, squares, *sizes,
            ROWS=high, INPUTS=tiles.inputs, DEPTH=tiles.decode_depth, **shared,
        )  # fmt: skip
        # decode has the squares of dy = 2 / rows (y - x).
        moments = rows * self._mean if self._with_mean else None
        return self._active, squares * (rows / 2) ** 2, moments


def _shared(W: Tensor, tiles: Tiles, *, tf32: bool) -> dict[str, Any]:
    """What every kernel is told."""
    precision = "tf32" if tf32 else "tf32x3"
    return {
        "PRECISION": precision if W.dtype == torch.float32 else "ieee",
        "num_warps": _WARPS,
        "num_stages": tiles.stages,
    }


def _apart(units: int) -> int:
    """How far rows of hidden units lie from one another."""
    return _parts(units, 16) * 16


def _column(value: PerMember | float, like: Tensor) -> Tensor:
    """A number for each member, (G,)."""
    if isinstance(value, PerMember):
        return value.column[:, 0].contiguous()
    return like.new_full((like.shape[0],), value)


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def _rows_of_a_tile(rows: int) -> int:
    """Of encode, decode and back, for so many rows."""
    return min(64, max(16, _power_of_two(rows)))


def _power_of_two(number: int) -> int:
    """The least that is no smaller."""
    return 1 << (number - 1).bit_length()
