"""Models that add a penalty to the auto-encoder (eqs. 1, 9, 11 to 13, corollaries 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.model.forms import OfMean, OfSlope
from sparseae.model.objective import Model
from sparseae.model.trial import Training


class AE(Model):
    """The plain auto-encoder."""

    name = "ae"
    source = "eq. 1"


class SAE(Model):
    """The sparse auto-encoder: eq. 13, and eq. 12 with a target rho > 0.

    Eq. 13: -lambda sum_j log(1 - rho_j). rho_j reaches 1 and more with relu and softplus, where the
    equations have no value: beyond 0.99 f goes on linearly with matching value and slope. With a
    target it does so below a tenth of the target too, because KL has no value at rho_j = 0.
    """

    name = "sae"
    source = "eqs. 12, 13"

    HIGHEST = 0.99

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.penalty = OfMean(SAE.f, SAE.f_slope, log_until=SAE.HIGHEST)

    @staticmethod
    def f(rho: Tensor, target: Tensor) -> Tensor:
        """KL of the target and rho_j; with a target of 0 it is -log(1 - rho_j)."""
        near = SAE._within(rho, target)
        # Where the target is 0 its term is 0, and log(rho_j) must not be taken.
        kl = torch.xlogy(1 - target, (1 - target) / (1 - near)) + torch.where(
            target > 0, torch.xlogy(target, target / torch.where(target > 0, near, 1.0)), 0.0
        )
        return kl + SAE.f_slope(near, target) * (rho - near)

    @staticmethod
    def f_slope(rho: Tensor, target: Tensor | None) -> Tensor:
        """f'(rho_j)."""
        if target is None:
            return torch.rsub(rho.clamp(max=SAE.HIGHEST), 1).reciprocal_()  # of -log(1 - rho)
        near = SAE._within(rho, target)
        pull = torch.where(target > 0, target / torch.where(target > 0, near, 1.0), 0.0)
        return (1 - target) / (1 - near) - pull

    @staticmethod
    def _within(rho: Tensor, target: Tensor) -> Tensor:
        lowest = torch.where(target > 0, target / 10, -torch.inf)
        return torch.maximum(rho.clamp(max=SAE.HIGHEST), lowest)


class Corollary1(Model):
    """The family of corollary 1, lambda sum_j f(rho_j): the key ``f`` names the function.

    ``log`` is -log(1 - rho), sae without a target; ``linear`` is rho, which for h >= 0 is the l1
    penalty of eq. 2; ``square`` is rho |rho|; ``tanh`` is bounded.
    """

    name = "corollary1"
    source = "corollary 1"

    #: f and f' of each of `sparseae.model.trial.FUNCTIONS`.
    FUNCTIONS: ClassVar[
        dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]
    ] = {
        "linear": (lambda rho: rho, torch.ones_like),
        "log": (
            lambda rho: SAE.f(rho, torch.zeros_like(rho)),
            lambda rho: SAE.f_slope(rho, None),
        ),
        "square": (lambda rho: rho * rho.abs(), lambda rho: 2 * rho.abs()),
        "tanh": (torch.tanh, lambda rho: 1 - rho.tanh().square()),
    }

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        f, f_slope = self.FUNCTIONS[self.training.f]
        self.penalty = OfMean(lambda rho, target: f(rho), lambda rho, target: f_slope(rho))


class Corollary2(Model):
    """The family of corollary 2, lambda E[sum_j s'(a_j)^q norm(W_j)^p], with the keys q and p."""

    name = "corollary2"
    source = "corollary 2"

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.penalty = OfSlope(self.training.q, self.training.p)


class CAE(Model):
    """The contractive auto-encoder: lambda E[norm(J(x))_F^2] (eq. 8), as remark 1 writes it.

    Eq. 9: lambda E[sum_j s'(a_j)^2 norm(W_j)^2].
    """

    name = "cae"
    source = "eq. 9"
    penalty = OfSlope(q=2, p=2)


class MDAE(Model):
    """The marginalized de-noising auto-encoder (eq. 10), as remark 2 writes it.

    Eq. 11: lambda E[sum_j s'(a_j)^2 norm(W_j)^4].
    """

    name = "mdae"
    source = "eq. 11"
    penalty = OfSlope(q=2, p=4)
