"""Which way computes a step on this machine: measured once, recorded by a sweep, kept on resume.

A choice is the name of a routine of the products, or three with slashes: ``torch/onednn/torch``
encodes by torch.mm, decodes by oneDNN and makes the weight gradient by torch.mm. With ``+c`` behind
it a step is made by `sparseae.engine.c`, its products included, as far as that goes. Behind a
semicolon stands what a GPU does: ``;triton-a`` steps by `sparseae.engine.triton` with its tiles
``a``, as far as that goes; without it a GPU steps by torch. Ways round differently, so that a sweep
measures once, records what it chose, and keeps to it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from sparseae.engine import c
from sparseae.engine.library import Compiled, compiled, turned
from sparseae.engine.products import (
    PRODUCTS,
    ROUTINES,
    TORCH,
    Routine,
    Torch,
    joined,
    names_of,
    routine_of,
)
from sparseae.engine.step import BACKENDS, Members, Problem, Step
from sparseae.engine.torch import TorchBackend
from sparseae.engine.triton import VARIANTS, TritonBackend
from sparseae.errors import RequestError, nearest

#: Forces a choice: ``torch``, ``onednn`` or three of them with slashes, and ``+c`` or not.
VARIABLE = "SPARSEAE_GEMM"

#: Another routine than torch.mm must be faster by this much. Less is not worth it: by chance the
#: same sweep would choose another the next time, and end in other last digits.
GAIN = 1.1

#: Behind the products' routines: with the step in C.
IN_C = "+c"

#: Between what a CPU does and what a GPU does.
ON_CARD = ";"

#: Seconds of measuring a shape.
_SECONDS = 0.05

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


def parts(choice: str) -> tuple[str, bool]:
    """The routines of a choice's products, and whether the step is in C as far as that goes."""
    on_cpu = choice.partition(ON_CARD)[0]
    return on_cpu.removesuffix(IN_C), on_cpu.endswith(IN_C)


def choose(shape: Shape, threads: int) -> str:
    """The fastest correct choice for steps of this shape in float32.

    Measured once a process, in 0.1 to 0.5 s; `VARIABLE` overrides it.

    Raises:
        RequestError: if `VARIABLE` names a routine that is unknown or not usable here.
    """
    forced = os.environ.get(VARIABLE)
    if not forced:
        return _fastest(shape, threads)
    try:
        names = names_of(parts(forced)[0])
    except ValueError as error:
        raise RequestError(f"{VARIABLE}: {error}") from None
    for name in names:
        if name not in ROUTINES:
            raise RequestError(f"{VARIABLE}: unknown routine {name!r}; {nearest(name, ROUTINES)}")
    if not usable(forced, shape):
        raise RequestError(f"{VARIABLE}: {forced} is missing or wrong on this machine")
    return forced


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
    exact = _step(ROUTINES[TORCH], {key: tensor.double() for key, tensor in operands.items()})
    try:
        for product, calls in _step(routine_of(choice), operands).items():
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


@lru_cache
@torch.inference_mode()
def _fastest(shape: Shape, threads: int) -> str:
    operands = operands_of(shape)
    steps = {name: _step(ROUTINES[name], operands) for name in ROUTINES if usable(name, shape)}
    # On one thread, however many the others have.
    if (in_c := compiled(torch.float32)) is not None:
        steps[IN_C] = _step(in_c, operands)
    least = {product: dict.fromkeys(steps, math.inf) for product in PRODUCTS}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rounds, stop = 0, time.perf_counter() + _SECONDS
        while rounds < 3 or time.perf_counter() < stop:
            # In turn, so that what else the machine does hits all alike; the least counts.
            for product in PRODUCTS:
                for name, step in steps.items():
                    start = time.perf_counter()
                    for call in step[product]:
                        call()
                    taken = time.perf_counter() - start
                    least[product][name] = min(least[product][name], taken)
            rounds += 1
    finally:
        torch.set_num_threads(before)
    return decided(least)


def decided(least: Mapping[str, Mapping[str, float]]) -> str:
    """The choice by the least seconds of each routine, and of the step in C, for each product."""
    products = [
        {name: taken for name, taken in least[product].items() if name != IN_C}
        for product in PRODUCTS
    ]
    names = [_worthwhile(seconds) for seconds in products]
    others = sum(seconds[name] for seconds, name in zip(products, names, strict=True))
    own = sum(least[product].get(IN_C, math.inf) for product in PRODUCTS)
    # Beside its products it spares torch's passes.
    return joined(names) + (IN_C if own < GAIN * others else "")


def _worthwhile(seconds: Mapping[str, float]) -> str:
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * GAIN < seconds[Torch.name] else Torch.name


def operands_of(shape: Shape) -> dict[str, Tensor]:
    """Operands of this shape."""
    rows, inputs, units = shape.rows, shape.inputs, shape.units
    shapes = {
        "x": (rows, inputs), "W": (units, inputs), "b": (units,), "h": (rows, units),
        "A": (units, 2 * rows), "X": (2 * rows, inputs), "V": (units, inputs),
    }  # fmt: skip
    stream = torch.Generator().manual_seed(0)
    return {key: torch.randn(size, generator=stream) for key, size in shapes.items()}


def _step(r: Routine | Compiled, t: dict[str, Tensor]) -> dict[str, list[Callable[[], Tensor]]]:
    """What a step calls, by product."""
    out, V, h, A = torch.empty_like(t["x"]), t["V"].clone(), t["h"], t["A"]
    if isinstance(r, Compiled):
        h = turned(h, *h.shape).copy_(h)
    else:  # as the objectives leave it
        A = A.t().contiguous().t()
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
    variant = choice.partition(ON_CARD)[2].removeprefix(f"{TritonBackend.name}-")
    if variant in VARIANTS and (problem.together > 1 or problem.device.type != "cpu"):
        fused = BACKENDS[TritonBackend.name]
        if not (fused.missing(problem.device, problem.dtype) or fused.refuses(problem)):
            return fused.build(problem, groups, variant)
    products, in_c = _of(problem, choice)
    torch_backend = BACKENDS[TORCH]
    assert isinstance(torch_backend, TorchBackend)
    if in_c is None:
        return torch_backend.build(problem, groups, products)
    if BACKENDS["c"].refuses(problem) is None:
        return BACKENDS["c"].build(problem, groups, choice)
    update = partial(c.updating, problem, in_c, routine_of(products))
    return torch_backend.build(problem, groups, products, update)


def measuring_products(problem: Problem, choice: str) -> Routine | None:
    """What measures the members of a stack by this choice; None: batched products."""
    if problem.together > 1:
        return None
    products, in_c = _of(problem, choice)
    return in_c or routine_of(products)


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
