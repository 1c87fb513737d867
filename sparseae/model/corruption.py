"""Models that corrupt the input (eq. 6, section 3.1.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.objective import Coefficients, Objective, Pass, inherits, squared_error
from sparseae.model.trial import Training


class DAE(Objective):
    """The de-noising auto-encoder: encode x + sigma eps, reconstruct x.

    The loss is the mean over ``corruptions`` independent eps a sample.
    """

    name = "dae"
    source = "eq. 6"
    stochastic = True

    def in_c(self, s: Activation) -> bool:
        return s.slope_of_h is not None and inherits(self, DAE, "gradient")

    @classmethod
    def copies(cls, training: Training) -> int:
        return training.corruptions

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        assert eps is not None
        losses = [
            squared_error(s.value((x + c.sigma.times(e)) @ W.mT + b.unsqueeze(1)) @ W, x)
            for e in eps.unbind(1)
        ]
        return torch.stack(losses).mean(0)

    def gradient(
        self, p: Pass, x: Tensor, eps: Tensor | None, c: Coefficients
    ) -> tuple[Tensor, Tensor | None]:
        assert eps is not None
        (da, h), (corrupted, dy) = p.A_blocks, p.X_blocks
        clean = x.unsqueeze(-3).expand_as(eps).flatten(-3, -2)
        c.sigma.add_to(clean, eps.flatten(-3, -2), out=corrupted)
        a = p.encode(corrupted, out=p.a)
        h = p.activate(a, out=h)
        p.residual(h, clean, out=dy, scale=2 / p.rows)
        return p.through_activation(p.backward(dy, out=p.dh), a, h, da), None


class EDAE(Objective):
    """The first-order Taylor term of the dae alone, with explicit corruption (section 3.1.1).

    l(x, f(x)) + delta^T grad l(x, f(x~)) at x~ = x, where delta = x~ - x = sigma eps. With
    J = W^T diag(s'(a)) W the term is 2 r^T J delta. It is linear in eps, so that the mean over
    ``corruptions`` draws costs one.
    """

    name = "edae"
    source = "section 3.1.1"
    stochastic = True
    pairs = 4
    flops_per_weight_and_sample = 20
    step_temporaries = 4

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        assert eps is not None
        delta = c.sigma.times(eps.mean(1))
        a = x @ W.mT + b.unsqueeze(1)
        h = s.value(a)
        y = h @ W
        J_delta = (s.slope(a, h) * (delta @ W.mT)) @ W
        return squared_error(y, x) + 2 * ((y - x) * J_delta).sum(-1).mean(-1)

    def gradient(
        self, p: Pass, x: Tensor, eps: Tensor | None, c: Coefficients
    ) -> tuple[Tensor, Tensor | None]:
        assert eps is not None
        da, h, du, v = p.A_blocks
        x_in, dy, delta, dz = p.X_blocks
        s = p.activation
        x_in.copy_(x)
        delta.copy_(c.sigma.times(eps.mean(-3)))
        a = p.encode(x_in, out=p.a)
        s.value(a, out=h)
        u = p.backward(delta)
        s.backward(u, a, h, out=v)
        # The objective is r.r + 2 r.z with z = v W, so that dz = 2 r and dy = 2 r + 2 z.
        p.residual(h, x, out=dz, scale=2 / p.batch)
        p.decode(v, out=dy).mul_(2 / p.batch).add_(dz)
        dv = p.backward(dz)
        s.backward(dv, a, h, out=du)
        s.backward(p.backward(dy, out=p.dh), a, h, out=da)
        if not s.piecewise_linear:
            da.addcmul_(dv.mul_(u), s.curvature(a, h))
        return da.sum(-2), None
