"""Which way computes a step on this machine: measured once, recorded by a sweep, kept on resume.

A choice is the name of a routine of the products, or three with slashes: ``torch/onednn/torch``
encodes by torch.mm, decodes by oneDNN and makes the weight gradient by torch.mm. With ``+run``
behind it a run of steps is made by `sparseae.engine.c`, its products included, as far as that goes;
with ``+c`` its activation is torch's, as in sweeps that began so. Behind a semicolon stands what a
GPU does: ``;triton-a`` steps by `sparseae.engine.triton` with its tiles ``a``, as far as that goes;
without it a GPU steps by torch. Ways round differently, so that a sweep measures once, records what
it chose, and keeps to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from sparseae.engine import c
from sparseae.engine.library import Compiled, compiled
from sparseae.engine.measurements import MakeChunkSums
from sparseae.engine.products import ROUTINES, TORCH, Routine, Torch, names_of, routine_of
from sparseae.engine.step import BACKENDS, Members, Problem, Step
from sparseae.engine.torch import TorchBackend
from sparseae.engine.triton import VARIANTS, TritonBackend

#: Another way than torch's plain one must be faster by this much. Less is not worth it: by chance
#: the same sweep would choose another the next time, and end in other last digits.
GAIN = 1.1

#: Behind the products' routines: with the step in C; and with runs of steps in C.
IN_C, WHOLE = "+c", f"+{c.WHOLE}"

#: Between what a CPU does and what a GPU does.
ON_CARD = ";"

#: Largest error, as a share of the largest entry: float32 stays ten times below, TF32 and bfloat16
#: exceed it ten times.
_ERROR = 1e-5


@dataclass(frozen=True)
class Shape:
    """What the speed of a step's products depends on; beyond some size it no longer changes."""

    rows: int
    inputs: int
    units: int

    @classmethod
    def of(cls, rows: int, inputs: int, units: int) -> Shape:
        """The shape of steps with so many encoder inputs a minibatch."""
        return cls(min(rows, 256), min(inputs, 1024), min(units, 1024))

    def __str__(self) -> str:
        return f"{self.rows}x{self.inputs}x{self.units}"


def parts(choice: str) -> tuple[str, str]:
    """The routines of a choice's products, and `IN_C` or `WHOLE` if it has that, or ""."""
    on_cpu = choice.partition(ON_CARD)[0]
    in_c = next((way for way in (IN_C, WHOLE) if on_cpu.endswith(way)), "")
    return on_cpu.removesuffix(in_c), in_c


@lru_cache
@torch.inference_mode()
def usable(choice: str, shape: Shape) -> bool:
    """Whether a choice is known, there, and computes in full single precision (see `_ERROR`)."""
    choice, in_c = parts(choice)
    if in_c and compiled(torch.float32) is None:
        return False
    try:
        names = set(names_of(choice))
    except ValueError:
        return False
    if not names <= ROUTINES.keys():
        return False
    if names == {Torch.name}:
        return True
    operands = operands_of(shape)
    exact = products_of(ROUTINES[TORCH], {key: tensor.double() for key, tensor in operands.items()})
    try:
        for product, calls in products_of(routine_of(choice), operands).items():
            for call, truth in zip(calls, exact[product], strict=True):
                right = truth()
                if (call().double() - right).abs().max() > _ERROR * right.abs().max():
                    return False
    except (AttributeError, RuntimeError):  # the operator is not there, or not for this
        return False
    return True


def substitute(choice: str, shape: Shape) -> str:
    """What comes nearest to a choice that is not usable: its products, or torch.mm."""
    products, _ = parts(choice)
    return products if usable(products, shape) else TORCH


def decided(seconds: Mapping[str, float], plain: str = TORCH) -> str:
    """The fastest of some ways, by the seconds of each, where it is worth leaving the plain one."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * GAIN < seconds[plain] else plain


def operands_of(shape: Shape) -> dict[str, Tensor]:
    """Operands of this shape."""
    rows, inputs, units = shape.rows, shape.inputs, shape.units
    shapes = {
        "x": (rows, inputs), "W": (units, inputs), "b": (units,), "h": (rows, units),
        "A": (units, 2 * rows), "X": (2 * rows, inputs), "V": (units, inputs),
    }  # fmt: skip
    stream = torch.Generator().manual_seed(0)
    return {key: torch.randn(size, generator=stream) for key, size in shapes.items()}


def products_of(r: Routine, t: dict[str, Tensor]) -> dict[str, list[Callable[[], Tensor]]]:
    """What a step calls, by product."""
    out, V, h = torch.empty_like(t["x"]), t["V"].clone(), t["h"]
    A = t["A"].t().contiguous().t()  # as the objectives leave it
    return {
        "encode": [
            lambda: r.encode(t["x"], t["W"], t["b"]),
            lambda: r.encode(t["x"], t["W"], None),
        ],
        "decode": [lambda: r.residual(h, t["W"], t["x"], 2.0, out)],
        "gradient": [lambda: r.gradient(A, t["X"], V, 0.5)],
    }


def steps_of(problem: Problem, groups: Sequence[Members], choice: str) -> list[Step]:
    """The step of each group by this choice, as far as it goes: what it refuses is torch's."""
    if (fused := _fused(problem, choice)) is not None:
        backend, variant = fused
        return backend.build(problem, groups, variant)
    products, in_c = _of(problem, choice)
    torch_backend = BACKENDS[TORCH]
    assert isinstance(torch_backend, TorchBackend)
    if in_c is None:
        return torch_backend.build(problem, groups, products)
    if BACKENDS["c"].refuses(problem) is None:
        return BACKENDS["c"].build(problem, groups, parts(choice)[1].removeprefix("+"))
    update = partial(c.updating, problem, in_c, routine_of(products))
    return torch_backend.build(problem, groups, products, update)


def measuring_products(problem: Problem, choice: str) -> Routine | None:
    """What measures the members of a stack by this choice; None: batched products."""
    if problem.together > 1:
        return None
    products, in_c = _of(problem, choice)
    return in_c or routine_of(products)


def measuring_sums(problem: Problem, choice: str) -> MakeChunkSums | None:
    """What sums up a chunk of a measurement by this choice; None: `measuring_products` does."""
    if (fused := _fused(problem, choice)) is None:
        return None
    backend, variant = fused
    return backend.measuring(problem, variant)


def _fused(problem: Problem, choice: str) -> tuple[TritonBackend, str] | None:
    """The fused kernels and their variant, if they are chosen, there, and take the problem."""
    variant = choice.partition(ON_CARD)[2].removeprefix(f"{TritonBackend.name}-")
    if variant not in VARIANTS or (problem.together == 1 and problem.device.type == "cpu"):
        return None
    backend = BACKENDS[TritonBackend.name]
    assert isinstance(backend, TritonBackend)
    if backend.missing(problem.device, problem.dtype) or backend.refuses(problem):
        return None
    return backend, variant


def torch_products(problem: Problem, choice: str) -> str:
    """The routines of torch for the products of a member alone."""
    return _of(problem, choice)[0]


def _of(problem: Problem, choice: str) -> tuple[str, Compiled | None]:
    """The products of a choice, and the step in C if it is chosen and there."""
    products, in_c = parts(choice)
    if problem.device.type != "cpu" or problem.together > 1:
        return TORCH, None
    if problem.dtype != torch.float32:
        products = TORCH
    return products, compiled(problem.dtype) if in_c else None
