"""Derivatives by autograd, for what an author has not written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(f: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """f(*inputs), and the derivatives of its sum in each of them; 0 where it does not depend on it.

    Also within inference mode. Where an input is part of a graph, so is what is returned.
    """
    with torch.inference_mode(False), torch.enable_grad():
        in_graph = any(t.requires_grad for t in inputs)
        # A clone, because an inference tensor cannot be a leaf.
        leaves = [t if t.requires_grad else t.clone().requires_grad_() for t in inputs]
        value = f(*leaves)
        if not value.requires_grad:
            return value, [torch.zeros_like(t) for t in leaves]
        found = torch.autograd.grad(
            value.sum(), leaves, create_graph=in_graph, allow_unused=True, materialize_grads=True
        )
    return value if in_graph else value.detach(), list(found)


def derivative(f: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """df(a)/da of an f that acts on each entry by itself, of a's shape."""
    return gradients(f, [a])[1][0]
