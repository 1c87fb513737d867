"""A training step of one member on a CPU as loops in C (`step.c`).

A library's product of these sizes takes 9 of its 20 to 60 us before it computes, or runs at half
the processor's rate, and turns the hidden units over for the weight gradient. Between the products
torch goes through W and its momentum up to four times, through the hidden units up to seven times.
In C the hidden units lie turned over from the start, the products run at the processor's rate, and
there is one pass through the hidden units and one through the weights.

The machine's C compiler makes the loops once, in a second, into the user's cache. Where
there is none the step is made of torch's operations, which round differently: a sweep records which
it had (`sparseae.engine.torch`). The bits do not depend on the compiler or the processor.

Shapes as in `sparseae.model.objective`, of one member. All tensors are of one type, on the CPU, and
contiguous, but hidden units, (rows, m), which are views of (m, rows): see `turned`.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseae.errors import first_line

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


#: s' as a function of h: the coefficients of 1, h and h^2; or `GATE`, 1 where h is not 0, else 0.
Slope = tuple[float, float, float] | str
GATE = "gate"


#: What rows are padded to in the C.
_LANES = 16


def turned(like: Tensor, rows: int, m: int) -> Tensor:
    """Room for hidden units, (rows, m), that lie in memory as (m, rows)."""
    # The products write whole registers, also behind the last number.
    return like.new_empty(m * rows + _LANES)[: m * rows].view(m, rows).t()


class Compiled:
    """The step for one type of number; its products: `sparseae.engine.torch.Routine`."""

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

    def products(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> None:
        """The same: `gradient` leaves nothing to be added."""
        self.gradient(A, X, V, momentum)

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
        self, dh: Tensor, h: Tensor, slope: Slope, out: Tensor, bend: float | Tensor = 0.0
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
        gate = slope == GATE
        self._backward(
            dh.data_ptr(), h.data_ptr(), out.data_ptr(), db.data_ptr(), total.data_ptr(), rows, m,
            gate, *((0.0, 0.0, 0.0) if gate else slope), 0.0 if several else bend,
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
    if chosen := shlex.split(os.environ.get("CC", "")):
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
        db, total = c.backward(typed(dh), h, (0.5, 1.0, -1.0), A, typed(bend))
        c.gradient(A, typed(X), own[1], 0.9)
        c.update(*own, products=None, factors=typed(k), db=db, momentum=0.9,
                 learning_rate=0.01, norms=(1.0, 1.0))  # fmt: skip
        return [h, r, A, total, *own]

    return all(
        (one.double() - exact).abs().max() <= 1000 * torch.finfo(dtype).eps * exact.abs().max()
        for one, exact in zip(step(found), step(None), strict=True)
    )
