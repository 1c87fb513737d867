"""Models with second-order terms (eq. 7, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients
from sparseae.model.constraints import row_norms
from sparseae.model.forms import Both
from sparseae.model.network import Network
from sparseae.model.objective import Gradient, Model, squared_error
from sparseae.model.trial import Training


class CAEH(Model):
    """CAE+H (Rifai et al., 2011a): cae, plus gamma E_eps norm(J(x) - J(x + eps))_F^2.

    eps ~ N(0, gamma_sigma^2 I), ``corruptions`` draws a sample. The Jacobian of the encoder is
    diag(s'(a)) W, so that the norm is sum_j (s'(a_j) - s'(a~_j))^2 norm(W_j)^2. gamma does not
    grow with sigma2.
    """

    name = "cae_h"
    source = "section 2.2"

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.encoder_input = Both(self.training.corruptions)

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
        self, net: Network, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Gradient:
        assert eps is not None
        gamma = self.training.gamma
        clean = x.unsqueeze(1).expand_as(eps).flatten(1, 2)
        shifted = torch.add(clean, eps.flatten(1, 2), alpha=self.training.gamma_sigma)
        a, a_shifted = net.encode(clean), net.encode(shifted)
        h, h_shifted = s.value(a), s.value(a_shifted)
        rows = h.shape[1]
        dy = net.residual(h, clean, scale=2 / rows)
        da = s.backward(net.back(dy), a, h)
        slope = s.slope(a, h)
        gap = slope - s.slope(a_shifted, h_shifted)
        factors = c.lam.times(slope.square().mean(1)) + gamma * gap.square().mean(1)
        pairs, db = [(da, clean), (h, dy)], 0.0
        if not s.piecewise_linear:
            norms = net.row_norms()
            scale = 2 / rows * (1 if norms is None else norms.square().unsqueeze(1))
            gap = gap * gamma
            da.add_((c.lam.times(slope) + gap).mul_(s.curvature(a, h, slope=slope)).mul_(scale))
            da_shifted = gap * s.curvature(a_shifted, h_shifted) * -scale
            pairs.append((da_shifted, shifted))
            db = da_shifted.sum(1)
        return Gradient(tuple(pairs), da.sum(1) + db, dy, row_factors=factors * 2)

    def moment(
        self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation, eps: Tensor | None
    ) -> Tensor:
        """s'^2 and gamma (s'(a) - s'(a~))^2 beside each other, (G, R, 2 m)."""
        assert eps is not None
        t = self.training
        slope = s.slope(a, h)
        shifted = a + t.gamma_sigma * net.back(eps)
        gap = slope - s.slope(shifted, s.value(shifted))
        return torch.cat([slope.square(), t.gamma * gap.square()], dim=-1)

    def regularization(self, mean: Tensor, norms: Tensor, c: Coefficients) -> Tensor:
        slope, gap = mean.chunk(2, dim=-1)
        return ((c.lam.times(slope) + gap) * norms.square()).sum(-1)


class DAE2(Model):
    """The second-order expansion of dae (theorem 3): eq. 7 without its remainder.

    With J = W^T diag(s'(a)) W, the Jacobian of x -> y, and r = y - x, eq. 7's terms are
    sigma2 E[norm(J)_F^2 + sum_j s''(a_j) norm(W_j)^2 W_j^T r]: the first two sums of the equation
    are norm(J)_F^2. relu's s'' is taken as zero here, so that this is dae without its kink
    (footnote 1) and without the first-order term (section 3.1.1).
    """

    name = "dae2"
    source = "eq. 7"

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
        self, net: Network, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Gradient:
        batch, W = x.shape[1], net.W
        a = net.encode(x)
        h = s.value(a)
        # norm(J)_F^2 = s'^T Q s' with Q_jk = (W_j^T W_k)^2.
        products = net.product(W, W.mT)
        slope = s.slope(a, h)
        dW = net.product(net.product(slope.mT, slope).mul_(products), W)
        dW = c.lam.times(dW).mul_(4 / batch)
        dy = net.residual(h, x, scale=2 / batch)
        if s.piecewise_linear:
            da = s.backward(net.back(dy), a, h)
            return Gradient(((da, x), (h, dy)), da.sum(1), dy, dense=dW)
        # The residual's term is r^T z with z = v W: dz = sigma2 r, dy = 2 r + sigma2 z.
        lengths = W.square().sum(-1)
        curvature = s.curvature(a, h)
        v = curvature * lengths.unsqueeze(1)
        dz = c.lam.times(dy).mul_(0.5)
        dy = dy.add_(c.lam.times(net.product(v, W)), alpha=1 / batch)
        dv = net.back(dz)
        da = s.backward(net.back(dy), a, h)
        da = da.addcmul(
            c.lam.times(net.product(slope, products.square_())), curvature, value=2 / batch
        )
        da.addcmul_(dv * lengths.unsqueeze(1), s.third_derivative(a, h))
        dW.addcmul_(W, (dv * curvature).sum(1).unsqueeze(-1), value=2)
        return Gradient(((da, x), (h, dy), (v, dz)), da.sum(1), dy, dense=dW)

    def moment(
        self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation, eps: Tensor | None
    ) -> Tensor:
        W, slope = net.W, s.slope(a, h)
        bend = s.curvature(a, h) * W.square().sum(-1).unsqueeze(1)
        jacobian = slope * net.product(slope, net.product(W, W.mT).square_())
        return jacobian.addcmul_(bend, net.back(r))

    def regularization(self, mean: Tensor, norms: Tensor, c: Coefficients) -> Tensor:
        return c.lam.times(mean).sum(-1)
