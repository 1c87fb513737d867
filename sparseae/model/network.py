"""The products of an auto-encoder with tied weights, for the members of a group."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseae.model.constraints import row_norms


class Network:
    """W (G, m, n) and b (G, m) as batched products; the engine has others.

    Every result is a tensor of its own.
    """

    def __init__(self, W: Tensor, b: Tensor, *, unit_rows: bool = False) -> None:
        self.W, self.b = W, b
        self._unit_rows = unit_rows

    def encode(self, x: Tensor) -> Tensor:
        """x W^T + b, (G, R, n) -> (G, R, m)."""
        return self.back(x, self.b)

    def back(self, dy: Tensor, offset: Tensor | None = None) -> Tensor:
        """dy W^T, (G, R, n) -> (G, R, m): back through the decoder; plus ``offset`` (G, m)."""
        if offset is None:
            return torch.bmm(dy, self.W.mT)
        return torch.baddbmm(offset.unsqueeze(1), dy, self.W.mT)

    def decode(self, h: Tensor) -> Tensor:
        """h W, (G, R, m) -> (G, R, n)."""
        return torch.bmm(h, self.W)

    def residual(self, h: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
        """scale (h W - x), (G, R, n)."""
        return torch.baddbmm(x, h, self.W, beta=-scale, alpha=scale)

    def product(self, A: Tensor, B: Tensor) -> Tensor:
        """A B, (G, ., .)."""
        return torch.bmm(A, B)

    def row_norms(self) -> Tensor | None:
        """norm(W_j), (G, m); None where each is known to be 1."""
        return None if self._unit_rows else row_norms(self.W)
