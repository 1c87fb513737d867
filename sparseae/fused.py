"""Passes of a training step on a CPU, each as one loop in C (`fused.c`).

torch goes through W and its momentum up to four times a step, through the hidden units up to seven
times, and oneDNN once more to turn them over for the weight gradient; this goes once. Where oneDNN
computes the products at twice MKL's rate, that is a tenth to a quarter of a step.

The machine's C compiler makes the loops once, in less than a second, into the user's cache. Where
there is none the step is made of torch's operations, which round differently: a sweep records which
it had (`sparseae.gemm`). The bits do not depend on the compiler or the processor.
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

import torch
from torch import Tensor

from sparseae.errors import first_line

_SOURCE = Path(__file__).with_suffix(".c")

_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-w",
          "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")  # fmt: skip

#: What torch says of the processor, in the compiler's words. On others nobody has measured that
#: the passes are faster than torch.
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


class Passes:
    """The compiled passes for one type of number.

    All tensors are contiguous, of this type, on the CPU. Shapes as in `sparseae.objectives`, of one
    member.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        name, _, number = _TYPES[dtype]
        pointer, count, flag = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        self._update = library[f"update_{name}"]
        self._update.argtypes = [pointer] * 4 + [count] * 2 + [pointer] * 3 + [number] * 4
        self._backward = library[f"backward_{name}"]
        self._backward.argtypes = [pointer] * 5 + [count] * 2 + [flag] + [number] * 4 + [pointer]
        self._update.restype = self._backward.restype = None

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
            dh, h: gradient of the hidden values, and these, (rows, m).
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
def passes(dtype: torch.dtype) -> Passes | None:
    """The passes for tensors of this type; None where they cannot be compiled or compute wrong."""
    library = _library()
    if library is None or dtype not in _TYPES:
        return None
    found = Passes(library, dtype)
    return found if _right(found, dtype) else None


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The compiled source, from the cache or made now."""
    compiler = _compiler()
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability())
    if compiler is None or vectors is None:
        return None
    source = "\n".join(
        f"#define REAL {real}\n#define INTEGER {integer}\n{_SOURCE.read_text()}\n"
        f"#undef REAL\n#undef INTEGER\n"
        for real, integer, _ in _TYPES.values()
    )
    command = [*compiler, *_FLAGS, *vectors, "-x", "c", "-"]
    # Another machine may share the cache: what runs here alone has a name of its own.
    made_of = [source, shlex.join(command), platform.machine(), *platform.libc_ver()]
    name = f"fused-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
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
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparseae"


@torch.inference_mode()
def _right(found: Passes, dtype: torch.dtype) -> bool:
    """Whether they compute what torch does, up to rounding."""
    stream = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=stream, dtype=torch.float64)

    m, n, rows = 19, 37, 11
    W, V, G, b, vb, db, k = (noise(*s) for s in [(m, n)] * 3 + [(m,)] * 4)
    dh, h, bend = noise(rows, m), noise(rows, m), noise(m)

    def close(call: Callable[[], tuple[Tensor, ...]], exact: tuple[Tensor, ...]) -> bool:
        error = 100 * torch.finfo(dtype).eps
        return all(
            torch.allclose(one.double(), other, rtol=error, atol=error)
            for one, other in zip(call(), exact, strict=True)
        )

    def updated() -> tuple[Tensor, ...]:
        own = [t.to(dtype) for t in (W, V, b, vb)]
        found.update(*own, products=G.to(dtype), factors=k.to(dtype), db=db.to(dtype),
                     momentum=0.9, learning_rate=0.01, norms=(1.0, 1.0))  # fmt: skip
        return tuple(own)

    def back() -> tuple[Tensor, ...]:
        out = torch.empty(m, 2 * rows, dtype=dtype)
        slope = (0.5, 1.0, -1.0)
        sums = found.backward(dh.to(dtype), h.to(dtype), slope, out, bend.to(dtype))
        return out, *sums

    after = G + 0.9 * V + k.unsqueeze(1) * W
    moved, bias_after = W - 0.01 * after, db + 0.9 * vb
    unit = moved / moved.norm(dim=1, keepdim=True)
    slope = 0.5 + h - h * h
    da = (dh + bend * (1 - 2 * h) * slope) * slope
    return close(updated, (unit, after, b - 0.01 * bias_after, bias_after)) and close(
        back, (torch.cat([da, h]).t(), da.sum(0), (slope * slope).sum(0))
    )
