"""Models that add a penalty to the auto-encoder (eqs. 1, 9, 11 to 13, corollaries 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.constraints import row_norms
from sparseae.model.objective import (
    Coefficients,
    Moments,
    Network,
    Objective,
    Pass,
    inherits,
    squared_error,
)
from sparseae.model.trial import Training


class AE(Objective):
    """The plain auto-encoder, and the frame for models that add a penalty to it."""

    name = "ae"
    source = "eq. 1"

    def in_c(self, s: Activation) -> bool:
        # Not a model that overrides what has been made for C.
        return s.slope_of_h is not None and inherits(
            self, AE, "gradient", "pre_activation_gradient"
        )

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        a = x @ W.mT + b.unsqueeze(1)
        h = s.value(a)
        return squared_error(h @ W, x) + self.penalty(a, h, W, s, c)

    def gradient(
        self, p: Pass, x: Tensor, eps: Tensor | None, c: Coefficients
    ) -> tuple[Tensor, Tensor | None]:
        (da, h), (x_in, dy) = p.A_blocks, p.X_blocks
        x_in.copy_(x)
        a = p.encode(x_in, out=p.a)
        h = p.activate(a, out=h)
        p.residual(h, x, out=dy, scale=2 / p.batch)
        dh = p.backward(dy, self.hidden_gradient(h, p, c), out=p.dh)
        return self.pre_activation_gradient(dh, a, h, p, c, out=da)

    def penalty(self, a: Tensor, h: Tensor, W: Tensor, s: Activation, c: Coefficients) -> Tensor:
        """lambda R on the batch, (G,)."""
        return a.new_zeros(a.shape[0])

    def hidden_gradient(self, h: Tensor, p: Pass, c: Coefficients) -> Tensor | None:
        """lambda dR/dh, (G, m), for an R whose gradient in h is the same for each sample."""
        return None

    def pre_activation_gradient(
        self, dh: Tensor, a: Tensor, h: Tensor, p: Pass, c: Coefficients, out: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Write da = s'(a) dh + lambda dR/da into ``out``.

        Return the sum of da over the rows, and k where R adds k_j W_j to dW_j. What is in dh and a
        is no longer needed.
        """
        return p.through_activation(dh, a, h, out), None


class MeanActivationPenalty(AE):
    """lambda sum_j f(rho_j), rho_j the batch mean of h_j, f increasing (corollary 1)."""

    def f(self, rho: Tensor, target: Tensor) -> Tensor:
        """f(rho_j), elementwise; ``target`` (G, 1)."""
        raise NotImplementedError

    def f_slope(self, rho: Tensor, target: Tensor | None) -> Tensor:
        """f'(rho_j); without ``target`` it is 0."""
        raise NotImplementedError

    def penalty(self, a: Tensor, h: Tensor, W: Tensor, s: Activation, c: Coefficients) -> Tensor:
        return c.lam.times(self.f(h.mean(1), c.rho.column)).sum(-1)

    def hidden_gradient(self, h: Tensor, p: Pass, c: Coefficients) -> Tensor:
        target = None if c.rho.is_zero else c.rho.column
        return c.lam.times(self.f_slope(h.mean(-2), target)).div_(p.batch)

    def moment(self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation) -> Tensor:
        return h

    def regularization(self, moments: Moments, c: Coefficients) -> Tensor:
        return c.lam.times(self.f(moments.mean, c.rho.column)).sum(-1)


class SAE(MeanActivationPenalty):
    """The sparse auto-encoder: eq. 13, and eq. 12 with a target rho > 0.

    rho_j reaches 1 and more with relu and softplus, where the equations have no value: beyond 0.99
    f goes on linearly with matching value and slope. With a target it does so below a tenth of the
    target too, because KL has no value at rho_j = 0.
    """

    name = "sae"
    source = "eqs. 12, 13"

    HIGHEST = 0.99

    def f(self, rho: Tensor, target: Tensor) -> Tensor:
        near = self._within(rho, target)
        # Where the target is 0 its term is 0, and log(rho_j) must not be taken.
        kl = torch.xlogy(1 - target, (1 - target) / (1 - near)) + torch.where(
            target > 0, torch.xlogy(target, target / torch.where(target > 0, near, 1.0)), 0.0
        )
        return kl + self.f_slope(near, target) * (rho - near)

    def f_slope(self, rho: Tensor, target: Tensor | None) -> Tensor:
        if target is None:
            return torch.rsub(rho.clamp(max=self.HIGHEST), 1).reciprocal_()  # of -log(1 - rho)
        near = self._within(rho, target)
        pull = torch.where(target > 0, target / torch.where(target > 0, near, 1.0), 0.0)
        return (1 - target) / (1 - near) - pull

    def _within(self, rho: Tensor, target: Tensor) -> Tensor:
        lowest = torch.where(target > 0, target / 10, -torch.inf)
        return torch.maximum(rho.clamp(max=self.HIGHEST), lowest)


class Corollary1(MeanActivationPenalty):
    """The family of corollary 1: the key ``f`` names the function.

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
            lambda rho: SAE().f(rho, torch.zeros_like(rho)),
            lambda rho: SAE().f_slope(rho, None),
        ),
        "square": (lambda rho: rho * rho.abs(), lambda rho: 2 * rho.abs()),
        "tanh": (torch.tanh, lambda rho: 1 - rho.tanh().square()),
    }

    def f(self, rho: Tensor, target: Tensor) -> Tensor:
        return self.FUNCTIONS[self.training.f][0](rho)

    def f_slope(self, rho: Tensor, target: Tensor | None) -> Tensor:
        return self.FUNCTIONS[self.training.f][1](rho)


class SlopePenalty(AE):
    """lambda E[sum_j s'(a_j)^q norm(W_j)^p] (corollary 2)."""

    q: int
    p: int

    def in_c(self, s: Activation) -> bool:
        return (
            s.slope_of_h is not None
            and (self.q == 2 or s.piecewise_linear)
            and inherits(self, SlopePenalty, "gradient", "pre_activation_gradient", "_power")
        )

    def penalty(self, a: Tensor, h: Tensor, W: Tensor, s: Activation, c: Coefficients) -> Tensor:
        slopes = self._power(s.slope(a, h), s).mean(1)
        return c.lam.times(slopes * row_norms(W).pow(self.p)).sum(-1)

    def pre_activation_gradient(
        self, dh: Tensor, a: Tensor, h: Tensor, p: Pass, c: Coefficients, out: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        norms = p.row_norms()
        if p.compiled is not None:
            bend = c.lam.number * self.q / p.batch
            db, total = p.in_one_pass(
                dh, h, bend if norms is None else norms.pow(self.p).mul_(bend)
            )
        else:
            db, total = self._by_steps(dh, a, h, p, c, norms, out)
        if self.p == 0:
            return db, None
        factors = c.lam.times(total).mul_(self.p / p.batch)
        if norms is not None and self.p != 2:
            # Of a row of zeros norm(W_j) has no direction; the row stays as it is.
            factors.mul_(norms.clamp_min_(torch.finfo(norms.dtype).tiny).pow_(self.p - 2))
        return db, factors

    def _by_steps(
        self, dh: Tensor, a: Tensor, h: Tensor, p: Pass, c: Coefficients, norms: Tensor | None,
        out: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Write da into ``out``; return the sums over the rows of da and of s'^q, (G, m) each."""
        s = p.activation
        slope = s.slope(a, h, out=out)
        bend = None
        if not s.piecewise_linear:
            # Of s'^q the derivative is s' (q s'^(q - 2) s''), so that for q > 1 it joins dh.
            bend = s.curvature(a, h, slope, out=a)
            if self.q > 2:
                bend.mul_(slope.pow(self.q - 2))
            if norms is not None:
                bend.mul_(norms.pow(self.p).unsqueeze(-2))
            if self.q > 1:
                c.lam.add_to(dh, bend, scale=self.q / p.batch)
        total = self._power(slope, s, out=bend if self.q > 1 else None).sum(-2)
        torch.mul(dh, slope, out=out)
        if bend is not None and self.q == 1:
            c.lam.add_to(out, bend, scale=1 / p.batch)
        return out.sum(-2), total

    def _power(self, slope: Tensor, s: Activation, out: Tensor | None = None) -> Tensor:
        """s'^q, in ``out`` where given; the slopes of a piecewise linear s are 0 and 1."""
        return slope if s.piecewise_linear else torch.pow(slope, self.q, out=out)

    def moment(self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation) -> Tensor:
        slope = s.slope(a, h, out=a)
        return self._power(slope, s, out=slope)

    def regularization(self, moments: Moments, c: Coefficients) -> Tensor:
        return c.lam.times(moments.mean * moments.weight_norm.pow(self.p)).sum(-1)


class Corollary2(SlopePenalty):
    """The family of corollary 2, with the keys ``q`` and ``p``."""

    name = "corollary2"
    source = "corollary 2"

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.q, self.p = self.training.q, self.training.p


class CAE(SlopePenalty):
    """The contractive auto-encoder: lambda E[norm(J(x))_F^2] (eq. 8), as remark 1 writes it."""

    name = "cae"
    source = "eq. 9"
    q, p = 2, 2


class MDAE(SlopePenalty):
    """The marginalized de-noising auto-encoder (eq. 10), as remark 2 writes it."""

    name = "mdae"
    source = "eq. 11"
    q, p = 2, 4
