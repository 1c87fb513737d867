"""The matrix products of a step on a CPU, each by the routine that is fastest on this machine.

torch brings two GEMMs: MKL (or another BLAS) behind `torch.mm`, and oneDNN behind its linear
layer. Which is faster depends on the processor, on the shape and on which operand is transposed, by
a factor of up to two. They round differently, so that a sweep measures once, records what it chose,
and keeps to it.

A choice is the name of a routine, or three with slashes: ``torch/onednn/torch`` encodes by
torch.mm, decodes by oneDNN and makes the weight gradient by torch.mm. With ``+c`` behind it a step
is made by `sparseae.engine.c`, its products included, as far as that goes.

Shapes (one member): x (rows, n), W (m, n), b (m,), h (rows, m), A (m, rows), X (rows, n), V (m, n).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.engine.c import Compiled, compiled, turned
from sparseae.errors import RequestError, nearest

#: Forces a choice: ``torch``, ``onednn`` or three of them with slashes, and ``+c`` or not.
VARIABLE = "SPARSEAE_GEMM"

#: Another routine than torch.mm must be faster by this much. Less is not worth it: by chance the
#: same sweep would choose another the next time, and end in other last digits.
_GAIN = 1.1

#: Behind the products' routines: with the step in C.
IN_C = "+c"

#: Seconds of measuring a shape.
_SECONDS = 0.05

#: What a choice names, in its order.
PRODUCTS = ("encode", "decode", "gradient")

#: Largest error, as a share of the largest entry: float32 stays ten times below, TF32 and bfloat16
#: exceed it ten times.
_ERROR = 1e-5


class Routine:
    """One implementation of the three products. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            ROUTINES[cls.name] = cls()

    def encode(self, x: Tensor, W: Tensor, b: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x W^T + b, (rows, m); in ``out`` if the routine can write there."""
        raise NotImplementedError

    def decode(self, h: Tensor, W: Tensor, out: Tensor) -> Tensor:
        """h W into ``out``, (rows, n)."""
        raise NotImplementedError

    def residual(self, h: Tensor, W: Tensor, x: Tensor, scale: float, out: Tensor) -> Tensor:
        """scale (h W - x) into ``out``, (rows, n)."""
        raise NotImplementedError

    def gradient(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor:
        """V = momentum V + A X, in place."""
        raise NotImplementedError

    def products(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor | None:
        """A X, for another pass to add to momentum V; None where `gradient` has done all."""
        self.gradient(A, X, V, momentum)


#: Every routine by its name.
ROUTINES: dict[str, Routine] = {}


class Torch(Routine):
    """torch.mm and its relatives: there everywhere, with scaling and adding inside the GEMM."""

    name = "torch"

    def encode(self, x: Tensor, W: Tensor, b: Tensor | None, out: Tensor | None = None) -> Tensor:
        if b is None:
            return torch.mm(x, W.t(), out=out)
        return torch.addmm(b, x, W.t(), out=out)

    def decode(self, h: Tensor, W: Tensor, out: Tensor) -> Tensor:
        return torch.mm(h, W, out=out)

    def residual(self, h: Tensor, W: Tensor, x: Tensor, scale: float, out: Tensor) -> Tensor:
        return torch.addmm(x, h, W, beta=-scale, alpha=scale, out=out)

    def gradient(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor:
        return V.addmm_(A, X, beta=momentum)


#: What torch alone does: the reference, and what double precision and batches of members use.
TORCH = Torch.name


class Mixed(Routine):
    """Each product by a routine of its own, in the order of `PRODUCTS`."""

    def __init__(self, encode: Routine, decode: Routine, gradient: Routine) -> None:
        self.encode = encode.encode
        self.decode, self.residual = decode.decode, decode.residual
        self.gradient, self.products = gradient.gradient, gradient.products


class OneDNN(Routine):
    """oneDNN through the operator that torch.compile calls for a linear layer.

    It is private and has no ``out``; `usable` checks that it is there and right.
    """

    name = "onednn"

    def encode(self, x: Tensor, W: Tensor, b: Tensor | None, out: Tensor | None = None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, W, b, "none", [], "")

    def decode(self, h: Tensor, W: Tensor, out: Tensor) -> Tensor:
        return out.copy_(self.encode(h, W.t(), None))

    def residual(self, h: Tensor, W: Tensor, x: Tensor, scale: float, out: Tensor) -> Tensor:
        r = torch.ops.mkldnn._linear_pointwise.binary(h, x, W.t(), None, "sub")
        return torch.mul(r, scale, out=out)

    def gradient(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor:
        return torch.add(self.products(A, X, V, momentum), V, alpha=momentum, out=V)

    def products(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor:
        return self.encode(A, X.t(), None)


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
    return choice.removesuffix(IN_C), choice.endswith(IN_C)


def routine(choice: str) -> Routine:
    """What computes the products by this choice, given without `IN_C`.

    Raises:
        KeyError: if it names a routine that is unknown.
        ValueError: if it names neither one nor three.
    """
    encode, decode, gradient = _names(choice)
    if encode == decode == gradient:
        return ROUTINES[encode]
    return Mixed(ROUTINES[encode], ROUTINES[decode], ROUTINES[gradient])


def _names(choice: str) -> list[str]:
    """The routine of each of `PRODUCTS`, known or not.

    Raises:
        ValueError: if the choice names neither one routine nor one for each product.
    """
    names = choice.split("/")
    if len(names) not in (1, len(PRODUCTS)):
        each = ", ".join(PRODUCTS)
        raise ValueError(f"{choice!r} is neither one routine nor one each for {each}")
    return names if len(names) > 1 else names * len(PRODUCTS)


def _joined(names: Sequence[str]) -> str:
    """The choice of one routine a product, as short as it can be said."""
    return names[0] if len(set(names)) == 1 else "/".join(names)


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
        names = _names(parts(forced)[0])
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
        names = set(_names(choice))
    except ValueError:
        return False
    if not names <= ROUTINES.keys():
        return False
    if names == {Torch.name}:
        return True
    operands = _noise(shape)
    exact = _step(ROUTINES[TORCH], {key: tensor.double() for key, tensor in operands.items()})
    try:
        for product, calls in _step(routine(choice), operands).items():
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
    operands = _noise(shape)
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
    return _joined(names) + (IN_C if own < _GAIN * others else "")


def _worthwhile(seconds: Mapping[str, float]) -> str:
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * _GAIN < seconds[Torch.name] else Torch.name


def _noise(shape: Shape) -> dict[str, Tensor]:
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
