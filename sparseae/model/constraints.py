"""Constraints on the weights (section 2.1.1, after theorem 1; section 3).

Shapes: W is (G, m, n), one row W_j a hidden unit, for the G members of a group.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparseae.model.coefficients import PerMember


class Constraint:
    """What holds the weights in check. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    #: After `project` every norm(W_j) is 1, and need not be computed.
    unit_rows: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        CONSTRAINTS[cls.name] = cls

    def project(self, W: Tensor, max_norm: PerMember) -> None:
        """Bring W back, in place, at the start and after each update."""

    def norms(self, max_norm: PerMember) -> tuple[float, float] | None:
        """The least and the greatest norm(W_j), where to scale the rows is all that `project` does.

        It spares `project` a member that trains alone on a CPU (`sparseae.engine.c`).
        """
        return None

    def decay(self, dW: Tensor, W: Tensor, weight_decay: PerMember) -> None:
        """Add the gradient of a penalty on W to ``dW``, in place."""


#: Every constraint by its name.
CONSTRAINTS: dict[str, type[Constraint]] = {}


def row_norms(W: Tensor) -> Tensor:
    """norm(W_j) for each row: (..., m, n) -> (..., m)."""
    return torch.linalg.vector_norm(W, dim=-1)


class Unconstrained(Constraint):
    """The weights are free."""

    name = "none"


class UnitNorm(Constraint):
    """norm(W_j) = 1: each row is rescaled to length 1."""

    name = "unit_norm"
    unit_rows = True

    def project(self, W: Tensor, max_norm: PerMember) -> None:
        # A row of zeros has no direction; it stays a row of zeros. Dividing takes longer.
        W.mul_(row_norms(W).clamp_min_(torch.finfo(W.dtype).tiny).reciprocal_().unsqueeze(-1))

    def norms(self, max_norm: PerMember) -> tuple[float, float]:
        return 1.0, 1.0


class MaxNorm(Constraint):
    """norm(W_j) <= c: a longer row is rescaled to length c."""

    name = "max_norm"

    def project(self, W: Tensor, max_norm: PerMember) -> None:
        norms = row_norms(W).clamp_min_(torch.finfo(W.dtype).tiny)
        W.mul_((max_norm.column / norms).clamp_max_(1.0).unsqueeze(-1))

    def norms(self, max_norm: PerMember) -> tuple[float, float]:
        return 0.0, max_norm.number


class WeightDecay(Constraint):
    """c/2 norm(W)^2 is added to the objective; no bias is decayed."""

    name = "weight_decay"

    def decay(self, dW: Tensor, W: Tensor, weight_decay: PerMember) -> None:
        weight_decay.add_to(dW, W)
