"""Models that corrupt the input (eq. 6, section 3.1.1)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients
from sparseae.model.forms import Both, Clean, Corrupted
from sparseae.model.network import Network
from sparseae.model.objective import Gradient, Model, squared_error
from sparseae.model.penalties import AE
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


class DAEPairs(Model):
    """dae with antithetic pairs: encode x + sigma eps and x - sigma eps (section 3.1.1).

    The mean over a pair has no term that is odd in eps. So this is eq. 6 without the first-order
    term of section 3.1.1, to the last bit and for any number of ``corruptions``, here of pairs.
    """

    name = "dae_pairs"
    source = "eq. 6, section 3.1.1"

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.encoder_input = Corrupted(self.training.corruptions, antithetic=True)


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


class _Apart(Model):
    """dae_pairs of which the gradient of W, or that of b, is the plain auto-encoder's.

    With J_dae of eq. 6 over pairs, J_AE of eq. 1 and sg(.), which no gradient passes, the objective
    is  J_dae(W, sg b) + J_AE(sg W, b) - J_AE(sg W, sg b)  or the same with W and b exchanged. Its
    value is J_dae's.
    """

    noise_in_weights: ClassVar[bool]

    def __init__(self, training: Training | None = None) -> None:
        super().__init__(training)
        self.encoder_input = Both(self.training.corruptions)
        self._noisy, self._plain = DAEPairs(training), AE(training)

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        noisy, plain = (W, b.detach()), (W.detach(), b)
        if not self.noise_in_weights:
            noisy, plain = plain, noisy
        ae = self._plain
        return (
            self._noisy.value(*noisy, x, eps, s, c)
            + ae.value(*plain, x, None, s, c)
            - ae.value(W.detach(), b.detach(), x, None, s, c)
        )

    def gradient(
        self, net: Network, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Gradient:
        noisy = self._noisy.gradient(net, x, eps, s, c)
        plain = self._plain.gradient(net, x, None, s, c)
        weights, bias = (noisy, plain) if self.noise_in_weights else (plain, noisy)
        return weights._replace(db=bias.db)


class DAEBias(_Apart):
    """dae whose noise reaches the bias alone: W has the plain auto-encoder's gradient.

    The gradient of b is that of dae_pairs: what the noise adds to it has no first-order term, and
    for relu is the kink's (footnote 1), K_j of docs/theory.md. So this is that term alone.
    """

    name = "dae_bias"
    source = "section 3.1.1, footnote 1"
    noise_in_weights = False


class DAEWeights(_Apart):
    """dae whose noise reaches the weights alone: b has the plain auto-encoder's gradient.

    The gradient of W is that of dae_pairs. So this is dae without the first-order term and, for
    relu, with the kink (footnote 1) taken out of the bias gradient: the weights' directions alone.
    """

    name = "dae_weights"
    source = "section 3.1.1, footnote 1"
    noise_in_weights = True
