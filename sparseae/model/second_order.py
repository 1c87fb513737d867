"""Models with second-order terms (eq. 7, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseae.engine.randomness import generator
from sparseae.model.activations import Activation
from sparseae.model.constraints import row_norms
from sparseae.model.objective import (
    Coefficients,
    Moments,
    Network,
    Objective,
    Pass,
    squared_error,
)
from sparseae.model.trial import Training


class CAEH(Objective):
    """CAE+H (Rifai et al., 2011a): cae, plus gamma E_eps norm(J(x) - J(x + eps))_F^2.

    eps ~ N(0, gamma_sigma^2 I), ``corruptions`` draws a sample. The Jacobian of the encoder is
    diag(s'(a)) W, so that the norm is sum_j (s'(a_j) - s'(a~_j))^2 norm(W_j)^2. gamma does not
    grow with sigma2.
    """

    name = "cae_h"
    source = "section 2.2"
    stochastic = True
    pairs = 3
    moments_a_unit = 2
    flops_per_weight_and_sample = 14
    step_temporaries = 6

    @classmethod
    def copies(cls, training: Training) -> int:
        return training.corruptions

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        assert eps is not None
        t = self.training
        a = x @ W.mT + b.unsqueeze(1)
        h = s.value(a)
        slope = s.slope(a, h)
        gaps = []
        for e in eps.unbind(1):
            shifted = (x + t.gamma_sigma * e) @ W.mT + b.unsqueeze(1)
            gaps.append((slope - s.slope(shifted, s.value(shifted))).square().mean(1))
        penalty = c.lam.times(slope.square().mean(1)) + t.gamma * torch.stack(gaps).mean(0)
        return squared_error(h @ W, x) + (penalty * row_norms(W).square()).sum(-1)

    def gradient(
        self, p: Pass, x: Tensor, eps: Tensor | None, c: Coefficients
    ) -> tuple[Tensor, Tensor | None]:
        assert eps is not None
        da, h, da_shifted = p.A_blocks
        x_in, dy, shifted = p.X_blocks
        s, gamma = p.activation, self.training.gamma
        clean = x.unsqueeze(-3).expand_as(eps).flatten(-3, -2)
        x_in.copy_(clean)
        torch.add(clean, eps.flatten(-3, -2), alpha=self.training.gamma_sigma, out=shifted)
        a, a_shifted = p.encode(x_in, out=p.a), p.encode(shifted)
        s.value(a, out=h)
        h_shifted = s.value(a_shifted)
        p.residual(h, clean, out=dy, scale=2 / p.rows)
        s.backward(p.backward(dy, out=p.dh), a, h, out=da)
        slope = s.slope(a, h)
        gap = slope - s.slope(a_shifted, h_shifted)
        factors = c.lam.times(slope.square().mean(-2)) + gamma * gap.square().mean(-2)
        if not s.piecewise_linear:
            norms = p.row_norms()
            scale = 2 / p.rows * (1 if norms is None else norms.square_().unsqueeze(-2))
            gap.mul_(gamma)
            da.add_((c.lam.times(slope) + gap).mul_(s.curvature(a, h, slope)).mul_(scale))
            torch.mul(gap.mul_(s.curvature(a_shifted, h_shifted)), -scale, out=da_shifted)
        return da.sum(-2) + da_shifted.sum(-2), factors.mul_(2)

    def moment(self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation) -> Tensor:
        """s'^2 and gamma (s'(a) - s'(a~))^2 beside each other, (G, B, 2 m)."""
        t = self.training
        slope = s.slope(a, h)
        # The same draws for every chunk of samples and every member: no stack shows.
        eps = r.new_empty(r.shape[-2:]).normal_(generator=generator(0, "measure", device=r.device))
        shifted = a + t.gamma_sigma * net.backward(eps.expand_as(r))
        gap = slope - s.slope(shifted, s.value(shifted))
        return torch.cat([slope.square(), t.gamma * gap.square()], dim=-1)

    def measured_matrices(self, s: Activation) -> int:
        return 9

    def regularization(self, moments: Moments, c: Coefficients) -> Tensor:
        slope, gap = moments.mean.chunk(2, dim=-1)
        return ((c.lam.times(slope) + gap) * moments.weight_norm.square()).sum(-1)


class DAE2(Objective):
    """The second-order expansion of dae (theorem 3): eq. 7 without its remainder.

    With J = W^T diag(s'(a)) W, the Jacobian of x -> y, and r = y - x, eq. 7's terms are
    sigma2 E[norm(J)_F^2 + sum_j s''(a_j) norm(W_j)^2 W_j^T r]: the first two sums of the equation
    are norm(J)_F^2. relu's s'' is taken as zero here, so that this is dae without its kink
    (footnote 1) and without the first-order term (section 3.1.1).
    """

    name = "dae2"
    source = "eq. 7"
    pairs = 3
    flops_per_weight_and_sample = 20
    step_temporaries = 4
    unit_matrices = 2

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        a = x @ W.mT + b.unsqueeze(1)
        h = s.value(a)
        r = h @ W - x
        squared_products = (W @ W.mT).square()
        slope = s.slope(a, h)
        bend = s.curvature(a, h) * W.square().sum(-1).unsqueeze(1)
        jacobian = (slope * (slope @ squared_products)).sum(-1)
        residual = (bend * (r @ W.mT)).sum(-1)
        penalty = c.lam.times((jacobian + residual).mean(-1, keepdim=True))
        return r.square().sum(-1).mean(-1) + penalty.squeeze(-1)

    def gradient(
        self, p: Pass, x: Tensor, eps: Tensor | None, c: Coefficients
    ) -> tuple[Tensor, Tensor | None]:
        da, h, v = p.A_blocks
        x_in, dy, dz = p.X_blocks
        s, W = p.activation, p.W
        x_in.copy_(x)
        a = p.encode(x_in, out=p.a)
        s.value(a, out=h)
        # norm(J)_F^2 = s'^T Q s' with Q_jk = (W_j^T W_k)^2.
        products = W @ W.mT
        slope = s.slope(a, h)
        dW = (slope.mT @ slope).mul_(products) @ W
        dW = c.lam.times(dW).mul_(4 / p.batch)
        p.residual(h, x, out=dy, scale=2 / p.batch)
        if s.piecewise_linear:
            s.backward(p.backward(dy, out=p.dh), a, h, out=da)
            return da.sum(-2), dW
        # The residual's term is r^T z with z = v W: dz = sigma2 r, dy = 2 r + sigma2 z.
        lengths = W.square().sum(-1)
        curvature = s.curvature(a, h)
        torch.mul(curvature, lengths.unsqueeze(-2), out=v)
        dz.copy_(c.lam.times(dy)).mul_(0.5)
        dy.add_(c.lam.times(v @ W), alpha=1 / p.batch)
        dv = p.backward(dz)
        s.backward(p.backward(dy, out=p.dh), a, h, out=da)
        da.addcmul_(c.lam.times(slope @ products.square_()), curvature, value=2 / p.batch)
        da.addcmul_(dv * lengths.unsqueeze(-2), s.third_derivative(a, h))
        dW.addcmul_(W, (dv * curvature).sum(-2).unsqueeze(-1), value=2)
        return da.sum(-2), dW

    def moment(self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation) -> Tensor:
        W, slope = net.W, s.slope(a, h)
        bend = s.curvature(a, h).mul_(W.square().sum(-1).unsqueeze(-2))
        jacobian = slope * (slope @ (W @ W.mT).square_())
        return jacobian.addcmul_(bend, net.backward(r))

    def measured_matrices(self, s: Activation) -> int:
        return 5

    def regularization(self, moments: Moments, c: Coefficients) -> Tensor:
        return c.lam.times(moments.mean).sum(-1)
