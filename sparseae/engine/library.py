"""`products.c` and `step.c` as a library that the C compiler makes, and what it is called with.

The compiler runs once, in a second, into the user's cache. The bits do not depend on it or on the
processor.

Shapes of one member, as in `sparseae.engine.products`. All tensors are of one type, on the CPU, and
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
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseae.engine.products import Routine
from sparseae.errors import first_line
from sparseae.model.activations import Gate, Polynomial

#: One source, in this order.
_SOURCES = tuple(Path(__file__).with_name(name) for name in ("products.c", "step.c"))

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


@lru_cache
def _layout(dtype: torch.dtype) -> type[ctypes.Structure]:
    """`struct step` of step.c."""
    *_, number = _TYPES[dtype]
    kinds = {
        ctypes.c_long: "rows copies m n",
        ctypes.c_void_p: "W V b vb A X a h dh db total factors room clean probe slopes curvatures",
        number: "sigma scale momentum rate decay lowest highest c0 c1 c2 bend lam share pole",
        ctypes.c_int: "gate with_bias activation",
    }
    fields = [(name, kind) for kind, names in kinds.items() for name in names.split()]
    return type("Layout", (ctypes.Structure,), {"_fields_": fields})


class Compiled(Routine):
    """The functions of `step.c` for one type of number; those of `Routine` among them."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        *_, number = _TYPES[dtype]
        self.layout = _layout(dtype)

        def function(called: str, *arguments: Any) -> Callable[..., None]:
            found = library[called]
            found.argtypes, found.restype = arguments, None
            return found

        pointer, count = [ctypes.c_void_p], [ctypes.c_long]
        self._encode = function("encode", *5 * pointer, *4 * count)
        self._residual = function("residual", *5 * pointer, *4 * count, number)
        self._gradient = function("gradient", *4 * pointer, *3 * count, number)
        self._update = function("update", *4 * pointer, *2 * count, *3 * pointer, *4 * [number])
        #: The two halves of a step: a `layout`, then addresses as step.c names them.
        self.forward = function("forward", *3 * pointer)
        self.back = function("back", *5 * pointer)
        #: Whole steps: a `layout`, x, noise, how many and how far apart.
        self.run = function("run", *3 * pointer, *3 * count)

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
    written = "".join(file.read_text() for file in _SOURCES)
    source = f"#define REAL {real}\n#define INTEGER {integer}\n{written}"
    command = [*compiler, *_FLAGS, *vectors, "-x", "c", "-"]
    # Another machine may share the cache: what runs here alone has a name of its own.
    made_of = [source, shlex.join(command), platform.machine(), *platform.libc_ver()]
    name = f"step-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
    try:
        return _of_cache(name, command, source)
    except (OSError, RuntimeError, subprocess.SubprocessError):
        pass  # the cache may be full, read-only, foreign or mounted without leave to execute
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _loaded(Path(folder) / name, command, source)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        logging.getLogger(__name__).warning(
            "%s could not be compiled, and torch does its work: %s",
            _SOURCES[-1].name,
            first_line(error),
        )
        return None


def _loaded(file: Path, command: list[str], source: str) -> ctypes.CDLL:
    if not file.exists():
        own = file.with_suffix(f".{os.getpid()}")
        try:
            made = subprocess.run(
                [*command, "-o", str(own)], input=source, text=True, capture_output=True,
                timeout=_PATIENCE, check=False,
            )  # fmt: skip
            if made.returncode:
                raise RuntimeError(f"{command[0]}: {made.stderr.strip() or made.returncode}")
            own.chmod(0o700)
            own.replace(file)  # whole or not at all, whoever else does the same
        finally:
            own.unlink(missing_ok=True)
    return ctypes.CDLL(str(file))


def _of_cache(name: str, command: list[str], source: str) -> ctypes.CDLL:
    """The library in the user's cache.

    Raises:
        PermissionError: where somebody else could have put it there, or could put another one.
    """
    (cache := _cache()).mkdir(parents=True, exist_ok=True)
    folder = cache.resolve()
    for place in (*folder.parents, folder):
        _require_own(place)
    if (folder / name).exists():
        _require_own(folder / name)
    return _loaded(folder / name, command, source)


def _require_own(place: Path) -> None:
    """Raise PermissionError where anybody but this user and root can change a file or folder.

    The user's primary group is taken for the user's own, as it is by default. In a folder with the
    sticky bit (/tmp) nobody can change what is another's.
    """
    found = place.lstat()
    shared = found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid())
    )
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or (shared and not sticky):
        raise PermissionError(f"{place}: others could have written there")


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
    own = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(own):  # a relative one is none, says the XDG specification
        return Path(own) / "sparseae"
    if not Path.home().is_dir():
        raise FileNotFoundError(f"{Path.home()}: there is no such home, and none is made")
    return Path.home() / ".cache" / "sparseae"


class Buffers:
    """The matrices of a step of so many rows; members that step in turn share them.

    Attributes:
        a, dh: (R, m), turned over.
        A: [da; h]^T, (m, 2 R).
        X: [x; dy], (2 R, n).
        h, slope, curvature: (R, m), turned over; None where they follow from what becomes of ``a``.
    """

    def __init__(self, W: Tensor, rows: int, *, smooth: bool, several: bool) -> None:
        m, n = W.shape
        self.A, self.X = W.new_empty(m, 2 * rows), W.new_empty(2 * rows, n)
        self.a, self.dh = turned(W, rows, m), turned(W, rows, m)
        self.h, self.slope, self.curvature = (
            turned(W, rows, m) if smooth else None for _ in range(3)
        )
        self.units = W.new_empty(3, m)
        padded = -(-rows // _LANES) * _LANES
        self.room = W.new_empty(n * padded + (m + 2 * rows) * _LANES)
        self.clean = W.new_empty(rows, n) if several else None


class Steps:
    """Steps of one member, whole or in two halves, with all that stays the same between them.

    Args:
        member: W, V (m, n), b, vb (m,) and the probe, one number.
        buffers: of so many rows.
        copies: how many rows a sample has, one behind the other's all.
        slope: s' as a function of h; None where the buffers get it.
        numbers: the rest of ``struct step``: sigma, scale, momentum, rate, decay, lowest, highest,
            bend, lam, share, with_bias; and for `run` activation (a value of `ACTIVATIONS`) and
            pole.
    """

    def __init__(
        self,
        found: Compiled,
        member: Sequence[Tensor],
        buffers: Buffers,
        copies: int = 1,
        slope: Polynomial | Gate | None = None,
        **numbers: float,
    ) -> None:
        (rows, m), n = buffers.a.shape, buffers.X.shape[1]
        c = astuple(slope) if isinstance(slope, Polynomial) else (0.0, 0.0, 0.0)
        h = buffers.a if buffers.h is None else buffers.h
        db, total, factors = buffers.units
        W, V, b, vb, probe = member
        places = {
            "W": W, "V": V, "b": b, "vb": vb, "probe": probe, "A": buffers.A, "X": buffers.X,
            "a": buffers.a, "h": h, "dh": buffers.dh, "db": db, "total": total, "factors": factors,
            "room": buffers.room, "clean": buffers.clean, "slopes": buffers.slope,
        }  # fmt: skip
        self._kept = (member, buffers)  # the struct holds addresses alone
        self._layout = found.layout(
            rows=rows, copies=copies, m=m, n=n, gate=isinstance(slope, Gate),
            c0=c[0], c1=c[1], c2=c[2],
            **{name: _address(tensor) for name, tensor in places.items()}, **numbers,
        )  # fmt: skip
        self._at = ctypes.addressof(self._layout)
        self._forward, self._back, self._run = found.forward, found.back, found.run

    def forward(self, x: int, eps: int | None = None) -> None:
        """``buffers.a`` of samples (R / copies, n) and their noise (R, n), by their addresses.

        After it stands the activation, and then `back`.
        """
        self._forward(self._at, x, eps)

    def back(
        self, x: int, offset: Tensor | None = None, bends: Tensor | None = None,
        scales: Tensor | None = None, curvature: Tensor | None = None,
    ) -> None:  # fmt: skip
        """The rest, once h is there (and the slopes are, where they are asked for).

        Args:
            x: the samples, (R / copies, n), by their address.
            offset: what is added to dh_j, (m,).
            bends: of s''_j in dh_j, (m,), instead of the number ``bend``.
            scales: of the gradient's lambda share total_j W_j, (m,).
            curvature: s'' as h lies; None where it has no part or follows from h.
        """
        self._layout.curvatures = _address(curvature)
        self._back(self._at, x, _address(offset), _address(bends), _address(scales))

    def run(self, x: Tensor, eps: Tensor | None = None) -> None:
        """Whole steps on x (T, R / copies, n) with noise (T, R, n), a step's in one piece each."""
        self._run(
            self._at, x.data_ptr(), _address(eps), x.shape[0], x.stride(0),
            0 if eps is None else eps.stride(0),
        )  # fmt: skip


@torch.inference_mode()
def _right(found: Compiled, dtype: torch.dtype) -> bool:
    """Whether it computes what torch does, up to rounding."""
    stream = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return 0.5 * torch.randn(*size, generator=stream, dtype=torch.float64)

    m, n, rows = 53, 37, 11  # units of more than one block
    x, eps, W, V = noise(rows, n), noise(2 * rows, n), noise(m, n), noise(m, n)
    W[::2] *= 0.01  # rows that a step lengthens
    b, vb, k, bend, probe = noise(m), noise(m), noise(m), noise(m), noise(1)

    clean = torch.cat([x, x])
    noisy = clean + 0.7 * eps
    h = noisy @ W.t() + b
    dy = 0.5 * (h @ W - clean)
    slope = 0.5 + h - h * h
    curvature = (1 - 2 * h) * slope
    da = (dy @ W.t() + bend * curvature) * slope
    A, X = torch.cat([da, h]).t(), torch.cat([noisy, dy])
    factors = 0.1 + 0.3 * 0.2 * k * slope.square().sum(0)
    after = 0.9 * V + A @ X + factors.unsqueeze(1) * W
    db = da.sum(0) + 0.9 * vb
    moved = W - 0.01 * after
    unit = moved / moved.norm(dim=1, keepdim=True)
    exact = [X, h, A, unit, after, b - 0.01 * db, db, probe + dy.square().sum()]

    def step(known: Polynomial | None) -> list[Tensor]:
        """The same by it, of a slope that follows from h or is given."""
        own = [t.to(dtype, copy=True) for t in (W, V, b, vb, probe)]
        samples, noises, bends, scales = (t.to(dtype) for t in (x, eps, bend, k))
        buffers = Buffers(own[0], 2 * rows, smooth=known is None, several=True)
        steps = Steps(
            found, own, buffers, 2, known, sigma=0.7, scale=0.5, momentum=0.9, rate=0.01, decay=0.1,
            lowest=1.0, highest=1.0, bend=0.0, lam=0.3, share=0.2, with_bias=True,
        )  # fmt: skip
        steps.forward(samples.data_ptr(), noises.data_ptr())
        for room, value in ((buffers.h, buffers.a), (buffers.slope, slope)):
            if room is not None:
                room.copy_(value)
        bent = None if buffers.curvature is None else buffers.curvature.copy_(curvature)
        steps.back(samples.data_ptr(), None, bends, scales, bent)
        return [buffers.X, buffers.a, buffers.A, *own]

    def run(activation: int, value: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
        """Three steps as one call, or by this activation's value in halves."""
        own = [t.to(dtype, copy=True) for t in (W, V, b, vb, probe)]
        samples, noises = (torch.stack([t, -t, 0.5 * t]).to(dtype) for t in (x, eps))
        buffers = Buffers(own[0], 2 * rows, smooth=False, several=True)
        steps = Steps(
            found, own, buffers, 2, Polynomial(0.0, 1.0, -1.0), sigma=0.7, scale=0.5, momentum=0.9,
            rate=0.01, decay=0.0, lowest=1.0, highest=1.0, bend=0.0, lam=0.3, share=0.0,
            with_bias=True, activation=activation, pole=0.5,
        )  # fmt: skip
        if value is None:
            steps.run(samples, noises)
            return own
        for sample, noise in zip(samples, noises, strict=True):
            steps.forward(sample.data_ptr(), noise.data_ptr())
            mean = buffers.a.copy_(value(buffers.a)).mean(0)
            steps.back(sample.data_ptr(), 0.3 / (2 * rows) / (1 - mean.clamp(max=0.5)))
        return own

    pairs = [
        pair
        for known in (Polynomial(0.5, 1.0, -1.0), None)
        for pair in zip(step(known), exact, strict=True)
    ]
    for activation, value in enumerate((torch.relu, torch.sigmoid, torch.tanh), start=1):
        pairs += zip(run(activation, None), run(activation, value), strict=True)
    near = 1000 * torch.finfo(dtype).eps
    return all((one - other).abs().max() <= near * other.abs().max() for one, other in pairs)
