"""Constraints on the weights (section 2.1.1, after theorem 1; section 3).

Shapes: W is (G, m, n), one row W_j a hidden unit, for the G members of a group.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparseae.model.coefficients import Coefficients, PerMember


class Constraint:
    """What holds the weights in check. A subclass with a ``name`` registers itself.

    It says between what lengths the rows of W are kept (`norms`), or how W is brought back
    otherwise (`project`), and what part of W decays (`decay`).
    """

    name: ClassVar[str]
    #: After `project` every norm(W_j) is 1, and need not be computed.
    unit_rows: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            CONSTRAINTS[cls.name] = cls

    def norms(self, c: Coefficients) -> tuple[PerMember | float, PerMember | float] | None:
        """The least and the greatest norm(W_j), where all that `project` does is to scale rows."""
        return None

    def project(self, W: Tensor, c: Coefficients) -> None:
        """Bring W back, in place, at the start and after each update."""
        if (norms := self.norms(c)) is not None:
            low, high = (k.column if isinstance(k, PerMember) else k for k in norms)
            length = row_norms(W).clamp_min_(torch.finfo(W.dtype).tiny)
            within = length.clamp(min=low).clamp(max=high)  # type: ignore[call-overload]
            W.mul_((within / length).unsqueeze(-1))

    def decay(self, c: Coefficients) -> PerMember | None:
        """k, where k/2 norm(W)^2 is part of the objective; no bias is decayed."""
        return None


#: Every constraint by its name.
CONSTRAINTS: dict[str, type[Constraint]] = {}


def row_norms(W: Tensor) -> Tensor:
    """norm(W_j) for each row: (..., m, n) -> (..., m)."""
    return torch.linalg.vector_norm(W, dim=-1)


class Unconstrained(Constraint):
    """The weights are free."""

    name = "none"

    def norms(self, c: Coefficients) -> tuple[float, float]:
        return 0.0, float("inf")

    def project(self, W: Tensor, c: Coefficients) -> None:
        pass


class UnitNorm(Constraint):
    """norm(W_j) = 1: each row is rescaled to length 1."""

    name = "unit_norm"
    unit_rows = True

    def norms(self, c: Coefficients) -> tuple[float, float]:
        return 1.0, 1.0

    def project(self, W: Tensor, c: Coefficients) -> None:
        # A row of zeros has no direction; it stays a row of zeros. Dividing takes longer.
        W.mul_(row_norms(W).clamp_min_(torch.finfo(W.dtype).tiny).reciprocal_().unsqueeze(-1))


class MaxNorm(Constraint):
    """norm(W_j) <= c: a longer row is rescaled to length c."""

    name = "max_norm"

    def norms(self, c: Coefficients) -> tuple[float, PerMember]:
        return 0.0, c.max_norm

    def project(self, W: Tensor, c: Coefficients) -> None:
        norms = row_norms(W).clamp_min_(torch.finfo(W.dtype).tiny)
        W.mul_((c.max_norm.column / norms).clamp_max_(1.0).unsqueeze(-1))


class WeightDecay(Unconstrained):
    """c/2 norm(W)^2 is added to the objective; no bias is decayed."""

    name = "weight_decay"

    def decay(self, c: Coefficients) -> PerMember:
        return c.weight_decay
