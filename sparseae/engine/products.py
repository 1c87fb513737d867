"""The matrix products of a step by torch, each by a routine of its own.

torch brings two GEMMs: MKL (or another BLAS) behind `torch.mm`, and oneDNN behind its linear
layer. Which is faster depends on the processor, on the shape and on which operand is transposed, by
a factor of up to two; they round differently (`sparseae.engine.choice`).

Shapes (one member): x (rows, n), W (m, n), b (m,), h (rows, m), A (m, rows), X (rows, n), V (m, n).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.model.network import Network

#: What a choice names, in its order.
PRODUCTS = ("encode", "decode", "gradient")


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

    def accumulate(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor | None:
        """Make A X where another pass goes through V anyway.

        Returns:
            A X, which that pass is to add to momentum V; None where `gradient` has done all.
        """
        self.gradient(A, X, V, momentum)
        return None

    def hidden(self, like: Tensor, rows: int, m: int) -> Tensor:
        """An empty tensor for hidden units, (rows, m), as `encode` leaves them."""
        return like.new_empty(rows, m)


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


class Batched(Routine):
    """All members of a group at once: x (G, rows, n), W (G, m, n), b (G, m) and so on."""

    def encode(self, x: Tensor, W: Tensor, b: Tensor | None, out: Tensor | None = None) -> Tensor:
        if b is None:
            return torch.bmm(x, W.mT, out=out)
        return torch.baddbmm(b.unsqueeze(1), x, W.mT, out=out)

    def decode(self, h: Tensor, W: Tensor, out: Tensor) -> Tensor:
        return torch.bmm(h, W, out=out)

    def residual(self, h: Tensor, W: Tensor, x: Tensor, scale: float, out: Tensor) -> Tensor:
        return torch.baddbmm(x, h, W, beta=-scale, alpha=scale, out=out)

    def gradient(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor:
        return V.baddbmm_(A, X, beta=momentum)


#: What torch alone does: the reference, and what double precision uses.
TORCH = Torch.name


class Mixed(Routine):
    """Each product by a routine of its own, in the order of `PRODUCTS`."""

    def __init__(self, encode: Routine, decode: Routine, gradient: Routine) -> None:
        self.encode = encode.encode
        self.decode, self.residual = decode.decode, decode.residual
        self.gradient, self.accumulate = gradient.gradient, gradient.accumulate


class OneDNN(Routine):
    """oneDNN through the operator that torch.compile calls for a linear layer.

    It is private and has no ``out``; `sparseae.engine.choice` checks that it is there and right.
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
        return torch.add(self.accumulate(A, X, V, momentum), V, alpha=momentum, out=V)

    def accumulate(self, A: Tensor, X: Tensor, V: Tensor, momentum: float) -> Tensor:
        return self.encode(A, X.t(), None)


def routine_of(choice: str) -> Routine:
    """What computes the products by this choice, one name or three with slashes.

    Raises:
        KeyError: if it names a routine that is unknown.
        ValueError: if it names neither one nor three.
    """
    encode, decode, gradient = names_of(choice)
    if encode == decode == gradient:
        return ROUTINES[encode]
    return Mixed(ROUTINES[encode], ROUTINES[decode], ROUTINES[gradient])


def names_of(choice: str) -> list[str]:
    """The routine of each of `PRODUCTS`, known or not.

    Raises:
        ValueError: if the choice names neither one routine nor one for each product.
    """
    names = choice.split("/")
    if len(names) not in (1, len(PRODUCTS)):
        each = ", ".join(PRODUCTS)
        raise ValueError(f"{choice!r} is neither one routine nor one each for {each}")
    return names if len(names) > 1 else names * len(PRODUCTS)


def joined(names: Sequence[str]) -> str:
    """The choice of one routine a product, as short as it can be said."""
    return names[0] if len(set(names)) == 1 else "/".join(names)


class Alone(Network):
    """One member's network, W (1, m, n) and b (1, m), by a routine."""

    def __init__(self, W: Tensor, b: Tensor, products: Routine, *, unit_rows: bool = False) -> None:
        super().__init__(W, b, unit_rows=unit_rows)
        self._W, self._b, self._products = W[0], b[0], products

    def encode(self, x: Tensor) -> Tensor:
        return self._products.encode(x.squeeze(0), self._W, self._b).unsqueeze(0)

    def back(self, dy: Tensor, offset: Tensor | None = None) -> Tensor:
        bias = None if offset is None else offset.squeeze(0)
        return self._products.encode(dy.squeeze(0), self._W, bias).unsqueeze(0)

    def decode(self, h: Tensor) -> Tensor:
        out = h.new_empty(h.shape[1], self._W.shape[1])
        return self._products.decode(h.squeeze(0), self._W, out).unsqueeze(0)

    def residual(self, h: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
        out = torch.empty_like(x)
        self._products.residual(h.squeeze(0), self._W, x.squeeze(0), scale, out.squeeze(0))
        return out

    def product(self, A: Tensor, B: Tensor) -> Tensor:
        # Of one, bmm takes longer and rounds otherwise.
        return torch.mm(A.squeeze(0), B.squeeze(0)).unsqueeze(0)
