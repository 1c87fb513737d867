"""Models that corrupt the input (eq. 6, section 3.1.1)."""

from __future__ import annotations

from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients
from sparseae.model.forms import Clean, Corrupted
from sparseae.model.network import Network
from sparseae.model.objective import Gradient, Model, squared_error
from sparseae.model.trial import Training


class DAE(Model):
    """The de-noising auto-encoder: encode x + sigma eps, reconstruct x.

    The loss is the mean over ``corruptions`` independent eps a sample.
    """

    name = "dae"
    source = "eq. 6"

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.encoder_input = Corrupted(self.training.corruptions)


class EDAE(Model):
    """The first-order Taylor term of the dae alone, with explicit corruption (section 3.1.1).

    l(x, f(x)) + delta^T grad l(x, f(x~)) at x~ = x, where delta = x~ - x = sigma eps. With
    J = W^T diag(s'(a)) W the term is 2 r^T J delta. It is linear in eps, so that the mean over
    ``corruptions`` draws costs one.
    """

    name = "edae"
    source = "section 3.1.1"
    odd_in_noise = True

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.encoder_input = Clean(draws=self.training.corruptions)

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
        self, net: Network, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Gradient:
        assert eps is not None
        batch = x.shape[1]
        delta = c.sigma.times(eps.mean(1))
        a = net.encode(x)
        h = s.value(a)
        u = net.back(delta)
        v = s.backward(u, a, h)
        # The objective is r.r + 2 r.z with z = v W, so that dz = 2 r and dy = 2 r + 2 z.
        dz = net.residual(h, x, scale=2 / batch)
        dy = net.decode(v).mul_(2 / batch).add_(dz)
        dv = net.back(dz)
        du = s.backward(dv, a, h)
        da = s.backward(net.back(dy), a, h)
        if not s.piecewise_linear:
            da = da.addcmul(dv * u, s.curvature(a, h))
        return Gradient(((da, x), (h, dy), (du, delta), (v, dz)), da.sum(1), dy)
