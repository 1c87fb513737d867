"""A training step of one member on a CPU as loops in C (`step.c`).

A library's product of these sizes takes 9 of its 20 to 60 us before it computes, or runs at half
the processor's rate, and turns the hidden units over for the weight gradient. Between the products
torch goes through W and its momentum up to four times, through the hidden units up to seven times.
In C the hidden units lie turned over from the start, the products run at the processor's rate, and
there is one pass through the hidden units and one through the weights.

The machine's C compiler makes the loops once, in a second, into the user's cache. Where
there is none the step is made of torch's operations, which round differently: a sweep records which
it had (`sparseae.engine.choice`). The bits do not depend on the compiler or the processor.

Shapes of one member, as in `sparseae.engine.products`. All tensors are of one type, on the CPU, and
contiguous, but hidden units, (rows, m), which are views of (m, rows): see `turned`.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseae.engine.minibatches import Run
from sparseae.engine.products import Routine
from sparseae.engine.step import Backend, Members, Problem, Step
from sparseae.engine.torch import Update
from sparseae.errors import first_line
from sparseae.model.activations import Gate, Polynomial
from sparseae.model.coefficients import PerMember
from sparseae.model.forms import Corrupted, NoPenalty, OfMean, OfSlope
from sparseae.model.objective import Gradient

_SOURCE = Path(__file__).with_name("step.c")

_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-w",
          "-mfma", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")  # fmt: skip

#: What torch says of the processor, in the compiler's words. On others nobody has measured that
#: this is faster than torch.
_VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"),
    "AVX2": ("-mavx2",),
}

#: In C: the type, the integer of its size, and how ctypes passes it.
_TYPES = {
    torch.float32: ("float", "int", ctypes.c_float),
    torch.float64: ("double", "long long", ctypes.c_double),
}

#: Seconds that the compiler may take.
_PATIENCE = 60.0


#: What rows are padded to in the C.
_LANES = 16


def turned(like: Tensor, rows: int, m: int) -> Tensor:
    """Room for hidden units, (rows, m), that lie in memory as (m, rows)."""
    # The products write whole registers, also behind the last number.
    return like.new_empty(m * rows + _LANES)[: m * rows].view(m, rows).t()


class Compiled(Routine):
    """The functions of `step.c` for one type of number; those of `Routine` among them."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        *_, number = _TYPES[dtype]

        def function(called: str, *arguments: Any) -> Callable[..., None]:
            found = library[called]
            found.argtypes, found.restype = arguments, None
            return found

        pointer, count, flag = [ctypes.c_void_p], [ctypes.c_long], [ctypes.c_int]
        self._encode = function("encode", *5 * pointer, *4 * count)
        self._residual = function("residual", *5 * pointer, *4 * count, number)
        self._gradient = function("gradient", *4 * pointer, *3 * count, number)
        self._update = function("update", *4 * pointer, *2 * count, *3 * pointer, *4 * [number])
        self._backward = function(
            "backward", *5 * pointer, *2 * count, *flag, *4 * [number], *pointer
        )

    def encode(self, x: Tensor, W: Tensor, b: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x W^T + b, (rows, m), turned over; in ``out`` where given."""
        (rows, n), m, x = x.shape, W.shape[0], x.contiguous()
        out = turned(W, rows, m) if out is None else out
        room = x.new_empty(n * -(-rows // _LANES) * _LANES)
        self._encode(
            x.data_ptr(), W.data_ptr(), _address(b), out.data_ptr(), room.data_ptr(), rows, m, n,
            out.stride(1),
        )  # fmt: skip
        return out

    def decode(self, h: Tensor, W: Tensor, out: Tensor) -> Tensor:
        """h W into ``out``, (rows, n)."""
        return self._decoded(h, W, None, 1.0, out)

    def residual(self, h: Tensor, W: Tensor, x: Tensor, scale: float, out: Tensor) -> Tensor:
        """scale (h W - x) into ``out``, (rows, n)."""
        return self._decoded(h, W, x.contiguous(), scale, out)

    def _decoded(self, h: Tensor, W: Tensor, x: Tensor | None, scale: float, out: Tensor) -> Tensor:
        (rows, m), n = h.shape, W.shape[1]
        if h.stride(0) != 1:
            h = h.t().contiguous().t()
        room = self._room(W, m + rows)
        self._residual(
            h.data_ptr(), W.data_ptr(), _address(x), out.data_ptr(), _address(room), rows, m, n,
            h.stride(1), scale,
        )  # fmt: skip
        return out

    def gradient(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor:
        """V = momentum V + A X, in place; A (m, rows), X (rows, n)."""
        (m, rows), n = A.shape, V.shape[1]
        room = self._room(V, m + rows)
        self._gradient(
            A.data_ptr(), X.data_ptr(), V.data_ptr(), _address(room), rows, m, n, momentum
        )
        return V

    def accumulate(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> None:
        """The same: `gradient` leaves nothing to be added."""
        self.gradient(A, X, V, momentum)

    def hidden(self, like: Tensor, rows: int, m: int) -> Tensor:
        """Room for hidden units, (rows, m), as `encode` leaves them."""
        return turned(like, rows, m)

    @staticmethod
    def _room(W: Tensor, lines: int) -> Tensor | None:
        """For the columns that fill no register."""
        return W.new_empty(lines * _LANES) if W.shape[1] % _LANES else None

    def update(
        self, W: Tensor, V: Tensor, b: Tensor, vb: Tensor, *, products: Tensor | None,
        factors: Tensor | None, db: Tensor | None, momentum: float, learning_rate: float,
        norms: tuple[float, float],
    ) -> None:  # fmt: skip
        """One step of SGD with momentum, in place; each norm(W_j) ends within ``norms``.

        Args:
            W, V: weights and momentum, (m, n).
            b, vb: biases and momentum, (m,).
            products: what is added to momentum * V, (m, n); None where V holds the sum already.
            factors: k (m,), of a gradient k_j W_j that is added too.
            db: gradient of b, (m,); None leaves b as it is.
            momentum, learning_rate: of the step.
            norms: the least and the greatest length of a row; one of zeros stays.
        """
        m, n = W.shape
        self._update(
            W.data_ptr(), V.data_ptr(), _address(products), _address(factors), m, n,
            b.data_ptr(), vb.data_ptr(), _address(db), momentum, learning_rate, *norms,
        )  # fmt: skip

    def backward(
        self,
        dh: Tensor,
        h: Tensor,
        slope: Polynomial | Gate,
        out: Tensor,
        bend: float | Tensor = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """da = (dh + bend_j ds'/dh s') s'; the sums over the rows of da and of s'^2, (m,) each.

        Args:
            dh, h: gradient of the hidden values, and these, (rows, m), turned over.
            slope: s' as a function of h.
            out: (m, 2 rows), gets da^T and behind it h^T.
            bend: one number, or (m,).
        """
        rows, m = h.shape
        db, total = h.new_empty(2, m)
        several = isinstance(bend, Tensor)
        polynomial = None if isinstance(slope, Gate) else slope
        numbers = (0.0, 0.0, 0.0) if polynomial is None else astuple(polynomial)
        self._backward(
            dh.data_ptr(), h.data_ptr(), out.data_ptr(), db.data_ptr(), total.data_ptr(), rows, m,
            polynomial is None, *numbers, 0.0 if several else bend,
            bend.data_ptr() if several else None,
        )  # fmt: skip
        return db, total


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@lru_cache
def compiled(dtype: torch.dtype) -> Compiled | None:
    """The step for tensors of this type; None where it cannot be compiled or computes wrong."""
    library = _library(dtype)
    if library is None:
        return None
    found = Compiled(library, dtype)
    return found if _right(found, dtype) else None


@lru_cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled source, from the cache or made now."""
    compiler = _compiler()
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability())
    if compiler is None or vectors is None or dtype not in _TYPES:
        return None
    real, integer, _ = _TYPES[dtype]
    source = f"#define REAL {real}\n#define INTEGER {integer}\n{_SOURCE.read_text()}"
    command = [*compiler, *_FLAGS, *vectors, "-x", "c", "-"]
    # Another machine may share the cache: what runs here alone has a name of its own.
    made_of = [source, shlex.join(command), platform.machine(), *platform.libc_ver()]
    name = f"step-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
    try:
        return _loaded(_cache() / name, command, source)
    except (OSError, RuntimeError, subprocess.SubprocessError):
        pass  # the cache may be full, read-only or mounted without leave to execute
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _loaded(Path(folder) / name, command, source)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        logging.getLogger(__name__).warning(
            "%s could not be compiled, and torch does its work: %s", _SOURCE.name, first_line(error)
        )
        return None


def _loaded(file: Path, command: list[str], source: str) -> ctypes.CDLL:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_suffix(f".{os.getpid()}")
        try:
            made = subprocess.run(
                [*command, "-o", str(own)], input=source, text=True, capture_output=True,
                timeout=_PATIENCE, check=False,
            )  # fmt: skip
            if made.returncode:
                raise RuntimeError(f"{command[0]}: {made.stderr.strip() or made.returncode}")
            own.replace(file)  # whole or not at all, whoever else does the same
        finally:
            own.unlink(missing_ok=True)
    return ctypes.CDLL(str(file))


def _compiler() -> list[str] | None:
    """The C compiler's command: the environment's CC, or the first that is found."""
    try:
        chosen = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # a quotation mark without its other
        return None
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _cache() -> Path:
    """Where pooch puts the data sets, said without pooch: the numerics need torch alone."""
    if own := os.environ.get("XDG_CACHE_HOME"):
        return Path(own) / "sparseae"
    if not Path.home().is_dir():
        raise FileNotFoundError(f"{Path.home()}: there is no such home, and none is made")
    return Path.home() / ".cache" / "sparseae"


@torch.inference_mode()
def _right(found: Compiled, dtype: torch.dtype) -> bool:
    """Whether it computes what torch does, up to rounding."""
    stream = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return 0.5 * torch.randn(*size, generator=stream, dtype=torch.float64)

    m, n, rows = 19, 37, 11
    x, W, b, V, vb, k, bend = (
        noise(*size) for size in ((rows, n), (m, n), (m,), (m, n), (m,), (m,), (m,))
    )
    X, dh = noise(2 * rows, n), noise(m, rows).t()

    def typed(t: Tensor) -> Tensor:
        return t.to(dtype, copy=True)

    def step(c: Compiled | None) -> list[Tensor]:
        """What a step computes, by it or by torch in double precision."""
        if c is None:
            h = x @ W.t() + b
            r = 0.5 * (h @ W - x)
            slope = 0.5 + h - h * h
            da = (dh + bend * (1 - 2 * h) * slope) * slope
            A = torch.cat([da, h]).t()
            after = 0.9 * V + A @ X + k.unsqueeze(1) * W
            db = da.sum(0) + 0.9 * vb
            moved = W - 0.01 * after
            unit = moved / moved.norm(dim=1, keepdim=True)
            return [h, r, A, slope.square().sum(0), unit, after, b - 0.01 * db, db]
        own = [typed(t) for t in (W, V, b, vb)]
        A, r = W.new_empty(m, 2 * rows, dtype=dtype), torch.empty_like(x, dtype=dtype)
        h = c.encode(typed(x), own[0], own[2])
        c.residual(h, own[0], typed(x), 0.5, r)
        db, total = c.backward(typed(dh), h, Polynomial(0.5, 1.0, -1.0), A, typed(bend))
        c.gradient(A, typed(X), own[1], 0.9)
        c.update(*own, products=None, factors=typed(k), db=db, momentum=0.9,
                 learning_rate=0.01, norms=(1.0, 1.0))  # fmt: skip
        return [h, r, A, total, *own]

    return all(
        (one.double() - exact).abs().max() <= 1000 * torch.finfo(dtype).eps * exact.abs().max()
        for one, exact in zip(step(found), step(None), strict=True)
    )


class CBackend(Backend):
    """Steps in C, of members that step one after the other on a CPU."""

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
        if s.slope_in_h is None:
            return f"the slope of {s.name} is no polynomial of h"
        if type(penalty) not in (NoPenalty, OfMean, OfSlope):
            return f"{model.name}'s penalty is of no form that it knows"
        if isinstance(penalty, OfSlope) and penalty.q != 2 and not s.piecewise_linear:
            return f"it knows the square of a slope, not the power {penalty.q}"
        return None

    def build(self, problem: Problem, groups: Sequence[Members], variant: str) -> list[Step]:
        found = compiled(problem.dtype)
        assert found is not None
        shared: dict[int, _Buffers] = {}
        return [CStep(problem, group, found, shared) for group in groups]


def updating(problem: Problem, found: Compiled, products: Routine, members: Members) -> Update:
    """SGD with momentum in C, after products of any routine, of a member alone."""
    constraint, c = problem.constraint, members.coefficients
    momentum, with_bias = problem.training.momentum, problem.training.encoder_bias
    W, V, b, vb = members.W[0], members.V[0], members.b[0], members.vb[0]
    decay, norms = constraint.decay(c), constraint.norms(c)
    low, high = (0.0, math.inf) if norms is None else norms
    bounds, learning_rate = (_number(low), _number(high)), c.learning_rate.number

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
            factors=None if g.row_factors is None else g.row_factors.squeeze(0),
            db=g.db if with_bias else None, momentum=momentum, learning_rate=learning_rate,
            norms=bounds,
        )  # fmt: skip
        if norms is None:
            constraint.project(members.W, c)

    return update


def _number(value: PerMember | float) -> float:
    return value.number if isinstance(value, PerMember) else value


class _Buffers:
    """The matrices of a step: A = [da; h]^T (m, 2 R), X = [x; dy] (2 R, n), a and dh (R, m)."""

    def __init__(self, W: Tensor, rows: int) -> None:
        m, n = W.shape
        self.A, self.X = W.new_zeros(m, 2 * rows), W.new_zeros(2 * rows, n)
        self.a, self.dh = turned(W, rows, m), turned(W, rows, m)
        self.x, self.dy = self.X.split(rows)
        #: dy as a row and as a column.
        self.row = self.dy.view(1, -1)
        self.column = self.row.t()


class CStep(Step):
    """Steps of a member alone."""

    def __init__(
        self, problem: Problem, members: Members, found: Compiled, buffers: dict[int, _Buffers]
    ) -> None:
        self._problem, self._c, self._buffers = problem, found, buffers
        self._update = updating(problem, found, found, members)
        self._seed, self._numbers = members.seeds[0], members.coefficients
        self._W, self._b, self._probe = members.W[0], members.b[0], members.probe[0]
        self._net = members.network(problem.constraint.unit_rows)
        penalty = problem.model.penalty
        self._corrupted = isinstance(problem.model.encoder_input, Corrupted)
        self._mean = penalty if isinstance(penalty, OfMean) else None
        self._slope = penalty if isinstance(penalty, OfSlope) else None

    def run(self, run: Run) -> None:
        noise = repeat(None)
        if run.eps is not None and self._corrupted:
            noise = run.eps[:, self._seed].unbind()
        for x, eps in zip(run.x[:, self._seed].unbind(), noise, strict=False):
            self._step(x, eps)

    def _step(self, x: Tensor, eps: Tensor | None) -> None:
        """One step on x (B, n) with noise eps (K, B, n)."""
        c, s, numbers, W = self._c, self._problem.activation, self._numbers, self._W
        slope = s.slope_in_h
        assert slope is not None
        if eps is not None:
            x = x.unsqueeze(0).expand_as(eps).flatten(0, 1)
        rows = x.shape[0]
        if rows not in self._buffers:
            self._buffers[rows] = _Buffers(W, rows)
        buffers = self._buffers[rows]
        if eps is None:
            buffers.x.copy_(x)
        else:
            numbers.sigma.plus(x, eps.flatten(0, 1), out=buffers.x)
        a = c.encode(buffers.x, W, self._b, buffers.a)
        h = s.value(a, out=a)
        if h is not a:
            h = a.copy_(h)
        c.residual(h, W, x, 2 / rows, buffers.dy)
        offset = factors = None
        if self._mean is not None:
            offset = self._mean.offset_of(h.mean(0).unsqueeze(0), rows, numbers).squeeze(0)
        dh = c.encode(buffers.dy, W, offset, buffers.dh)
        if self._slope is not None:
            norms = self._net.row_norms()
            added: float | Tensor = numbers.lam.number * self._slope.q / rows
            if norms is not None:
                added = norms[0].pow(self._slope.p).mul_(added)
            db, total = c.backward(dh, h, slope, buffers.A, added)
            factors = self._slope.row_factors(total.unsqueeze(0), norms, rows, numbers)
        else:
            db, _ = c.backward(dh, h, slope, buffers.A)
        self._update(buffers.A, buffers.X, Gradient((), db, buffers.dy, factors))
        self._probe.addmm_(buffers.row, buffers.column)
