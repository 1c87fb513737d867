"""What a model declares: what its encoder sees, and the form of what it adds to J_AE.

`sparseae.engine` computes the forms that it knows in ways of its own; what stands here is the
reference, and what everything else is computed by.

Shapes: a, h, dh (G, R, m) for the R rows that the encoder sees, W (G, m, n), for G members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients
from sparseae.model.constraints import row_norms
from sparseae.model.derivative import derivative, gradients
from sparseae.model.network import Network


@dataclass(frozen=True)
class Clean:
    """The encoder sees each sample x once, as it is.

    Attributes:
        draws: noises eps ~ N(0, I) of a sample that a step draws for something else.
    """

    draws: int = 0
    rows: ClassVar[int] = 1


@dataclass(frozen=True)
class Corrupted:
    """The encoder sees x + sigma eps for ``draws`` independent eps ~ N(0, I), and never x.

    Attributes:
        antithetic: it sees x - sigma eps too, so that what is odd in eps cancels.
    """

    draws: int
    antithetic: bool = False

    @property
    def rows(self) -> int:
        """Rows that the encoder sees of a sample."""
        return self.draws * (2 if self.antithetic else 1)

    def noises(self, eps: Tensor) -> Tensor:
        """Every noise that the encoder sees, (..., rows, B, n), by the drawn eps (..., K, B, n)."""
        return torch.cat([eps, -eps], dim=-3) if self.antithetic else eps


@dataclass(frozen=True)
class Both:
    """The encoder sees x, and ``draws`` times x with a noise, which is the model's own."""

    draws: int

    @property
    def rows(self) -> int:
        """Rows that the encoder sees of a sample, of either kind."""
        return self.draws


#: What the encoder sees of a sample.
EncoderInput = Clean | Corrupted | Both


class Back(NamedTuple):
    """What comes back through the activation."""

    #: dJ/da, (G, R, m).
    da: Tensor
    #: k (G, m), where R adds k_j W_j to dW_j.
    row_factors: Tensor | None = None
    #: Any other part of dW, (G, m, n).
    dense: Tensor | None = None


class Penalty:
    """lambda R, which a model adds to the reconstruction error.

    `value` is all that a subclass must have: the rest follows by autograd, and is faster where it
    is written out.
    """

    def value(self, a: Tensor, h: Tensor, W: Tensor, s: Activation, c: Coefficients) -> Tensor:
        """lambda R on a batch, (G,)."""
        raise NotImplementedError(f"{type(self).__name__}.value")

    def offset(self, h: Tensor, c: Coefficients) -> Tensor | None:
        """lambda dR/dh, (G, m), where it is the same for each row and R depends on h alone."""
        return None

    def back(
        self, dh: Tensor, a: Tensor, h: Tensor, net: Network, s: Activation, c: Coefficients, *,
        out: Tensor | None = None,
    ) -> Back:  # fmt: skip
        """Back through the activation, with what R adds on the way beside `offset`.

        Args:
            dh: the gradient of h, `offset` among it; may be overwritten.
            out: where the caller would like to have da.
        """
        _, (of_a, of_h, of_W) = gradients(lambda a, h, W: self.value(a, h, W, s, c), [a, h, net.W])
        return Back(s.backward(dh + of_h, a, h) + of_a, dense=of_W)

    def moment(self, a: Tensor, h: Tensor, s: Activation) -> Tensor | None:
        """What R averages over the samples, (G, R, m); None where that does not make R."""
        return None

    def of_moments(self, mean: Tensor, norms: Tensor, c: Coefficients) -> Tensor | None:
        """lambda R, (G,), by the mean of `moment` over the samples and norm(W_j), (G, m) each."""
        return None


class NoPenalty(Penalty):
    """R = 0."""

    def value(self, a: Tensor, h: Tensor, W: Tensor, s: Activation, c: Coefficients) -> Tensor:
        return a.new_zeros(a.shape[0])

    def back(
        self, dh: Tensor, a: Tensor, h: Tensor, net: Network, s: Activation, c: Coefficients, *,
        out: Tensor | None = None,
    ) -> Back:  # fmt: skip
        return Back(s.backward(dh, a, h, out=out))


@dataclass(frozen=True)
class OfMean(Penalty):
    """lambda sum_j f(rho_j), rho_j the batch mean of h_j, f increasing (corollary 1).

    Attributes:
        f: f(rho_j), elementwise, of rho (G, m) and the target (G, 1) of eq. 12.
        f_slope: f'(rho_j) of the same; of the target None, where that is 0 for all. By autograd if
            None.
        log_until: rho_j up to which f is -log(1 - rho_j), and from which on it is linear, where the
            target is 0; None for any other f.
    """

    f: Callable[[Tensor, Tensor], Tensor]
    f_slope: Callable[[Tensor, Tensor | None], Tensor] | None = None
    log_until: float | None = None

    def value(self, a: Tensor, h: Tensor, W: Tensor, s: Activation, c: Coefficients) -> Tensor:
        return c.lam.times(self.f(h.mean(1), c.rho.column)).sum(-1)

    def offset(self, h: Tensor, c: Coefficients) -> Tensor:
        return self.offset_of(h.mean(1), h.shape[1], c)

    def offset_of(self, rho: Tensor, rows: int, c: Coefficients) -> Tensor:
        """The same by rho (G, m), a mean over so many rows."""
        if self.f_slope is None:
            slope = derivative(lambda rho: self.f(rho, c.rho.column), rho)
        else:
            slope = self.f_slope(rho, None if c.rho.is_zero else c.rho.column)
        return c.lam.times(slope).div_(rows)

    def back(
        self, dh: Tensor, a: Tensor, h: Tensor, net: Network, s: Activation, c: Coefficients, *,
        out: Tensor | None = None,
    ) -> Back:  # fmt: skip
        return Back(s.backward(dh, a, h, out=out))

    def moment(self, a: Tensor, h: Tensor, s: Activation) -> Tensor:
        return h

    def of_moments(self, mean: Tensor, norms: Tensor, c: Coefficients) -> Tensor:
        return c.lam.times(self.f(mean, c.rho.column)).sum(-1)


@dataclass(frozen=True)
class OfSlope(Penalty):
    """lambda E[sum_j s'(a_j)^q norm(W_j)^p] (corollary 2); (2, 2) is eq. 9, (2, 4) eq. 11.

    dR/da_j = q s'^(q - 1) s'' norm(W_j)^p / rows, and dR/dW_j = p norm(W_j)^(p - 2) E[s'^q] W_j.
    """

    q: int
    p: int

    def value(self, a: Tensor, h: Tensor, W: Tensor, s: Activation, c: Coefficients) -> Tensor:
        mean = s.slope_power(s.slope(a, h), self.q).mean(1)
        return c.lam.times(mean * row_norms(W).pow(self.p)).sum(-1)

    def back(
        self, dh: Tensor, a: Tensor, h: Tensor, net: Network, s: Activation, c: Coefficients, *,
        out: Tensor | None = None,
    ) -> Back:  # fmt: skip
        q, rows, norms = self.q, h.shape[1], net.row_norms()
        slope, added = s.slope(a, h, out=out), None
        if not s.piecewise_linear:
            # Of s'^q the derivative is s' (q s'^(q - 2) s''), so that for q > 1 it joins dh.
            added = s.curvature(a, h, slope=slope)
            if q > 2:
                added = added * slope.pow(q - 2)
            if norms is not None:
                added = added * norms.pow(self.p).unsqueeze(1)
            if q > 1:
                dh = c.lam.plus(dh, added, scale=q / rows, out=dh)
        total = s.slope_power(slope, q).sum(1)
        da = torch.mul(dh, slope, out=out)
        if added is not None and q == 1:
            da = c.lam.plus(da, added, scale=1 / rows, out=out)
        return Back(da, self.row_factors(total, norms, rows, c))

    def row_factors(
        self, total: Tensor, norms: Tensor | None, rows: int, c: Coefficients
    ) -> Tensor | None:
        """k_j, where R adds k_j W_j to dW_j, (G, m).

        Args:
            total: the sum of s'^q over the rows, (G, m).
            norms: norm(W_j), (G, m); None where each is 1.
        """
        if self.p == 0:
            return None
        factors = c.lam.times(total).mul_(self.p / rows)
        if norms is not None and self.p != 2:
            factors.mul_(self.of_norms(norms))
        return factors

    def of_norms(self, norms: Tensor) -> Tensor:
        """norm(W_j)^(p - 2), by which k_j has the direction of W_j and not its length."""
        # Of a row of zeros norm(W_j) has no direction; the row stays as it is.
        return norms.clamp_min(torch.finfo(norms.dtype).tiny).pow_(self.p - 2)

    def moment(self, a: Tensor, h: Tensor, s: Activation) -> Tensor:
        return s.slope_power(s.slope(a, h), self.q)

    def of_moments(self, mean: Tensor, norms: Tensor, c: Coefficients) -> Tensor:
        return c.lam.times(mean * norms.pow(self.p)).sum(-1)
