"""The theory, measured on the members of a stack (section 2.1; docs/theory.md has the columns).

Everything is measured on the same rows for every member: one sample in 50, evenly spaced, at least
250 (all where there are fewer). There the minibatch is those rows at once, so that a mean over the
batch, as rho_j, is one over them. The noise of a model that corrupts is a function of (seed, epoch)
alone. So a member's numbers depend neither on its stack nor on an interruption.

Shapes: W (m, n), b (m,), x (T, n); results are float64, a value a unit (m,) or a member.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparseae.engine.randomness import generator
from sparseae.engine.stack import Stack
from sparseae.model.coefficients import Coefficients
from sparseae.model.constraints import row_norms
from sparseae.model.forms import Both, Corrupted, NoPenalty
from sparseae.model.objective import Model
from sparseae.model.penalties import AE
from sparseae.model.second_order import DAE2

#: One training sample in so many is measured, and at least so many are.
_EVERY, _FEWEST = 50, 250


@dataclass(frozen=True)
class UnitTheory:
    """What is measured a unit, (m,) each; of a stack (S, m). NaN: a model has no such thing."""

    #: dJ_AE/db_j.
    ae_bias_gradient: Tensor
    #: lambda dR/db_j: of the model's whole objective, less dJ_AE/db_j. Over eps its mean of +-eps.
    bias_gradient: Tensor
    #: Lemma 1: 2 sigma_r sqrt(n) norm(W_j).
    lemma1_bound: Tensor
    #: E[a_j] over the whole training set.
    pre_activation: Tensor
    #: Var[a_j] / norm(W_j)^2, which is 1 in theorem 1.
    variance_ratio: Tensor
    #: Theorem 2: a lower bound on Pr(h_j <= delta_min) (Cantelli's), and the measured share.
    theorem2_bound: Tensor
    inactive_share: Tensor
    #: What is odd in eps, as the first-order term: one draw of its mean over a minibatch.
    first_order: Tensor
    #: dae: the second-order terms of eq. 7 (model dae2); 0 for relu, which has no smooth ones.
    second_order: Tensor
    #: dae with relu: `kink_gradient`.
    kink: Tensor


@dataclass(frozen=True)
class Theory:
    """What was measured of the members of a stack: ``units`` (S, m) each, and ``sigma_r`` (S,)."""

    units: UnitTheory
    sigma_r: Tensor

    def columns(self, before: Theory | None) -> dict[str, list[float | None]]:
        """The columns of ``epochs/`` (`sparseae.results.schema.THEORY_FIELDS`), a value a member.

        Args:
            before: what was measured an epoch before, for the change of E[a_j] since.
        """
        u = self.units
        values = {
            "sigma_r": self.sigma_r,
            "ae_bias_gradient": u.ae_bias_gradient.mean(1),
            "ae_bias_gradient_rms": _rms(u.ae_bias_gradient),
            "lemma1_bound": u.lemma1_bound.mean(1),
            "lemma1_share": _share(u.ae_bias_gradient.abs() <= u.lemma1_bound),
            "bias_gradient": u.bias_gradient.mean(1),
            "bias_gradient_rms": _rms(u.bias_gradient),
            "bias_gradient_positive": _share(u.bias_gradient > 0),
            "bias_gradient_negative": _share(u.bias_gradient < 0),
            "condition_share": _share(_condition(u)),
            "descent_share": _share(_descent(u)),
            "variance_ratio": u.variance_ratio.nanmean(1),
            "theorem2_bound": u.theorem2_bound.mean(1),
            "theorem2_share": _share(
                u.inactive_share >= u.theorem2_bound, of=u.theorem2_bound.isfinite()
            ),
            "first_order_rms": _rms(u.first_order),
            "second_order_gradient": u.second_order.mean(1),
            "kink_gradient": u.kink.mean(1),
        }
        if before is not None:
            change = u.pre_activation - before.units.pre_activation
            values |= {
                "pre_activation_change": change.mean(1),
                "fell_share": _share(change < 0),
                "condition_fell": _share(change < 0, of=_condition(before.units)),
                "descent_fell": _share(change < 0, of=_descent(before.units)),
            }
        return {
            name: [v if math.isfinite(v) else None for v in value.tolist()]
            for name, value in values.items()
        }


def _condition(u: UnitTheory) -> Tensor:
    """Theorem 1's condition."""
    return u.bias_gradient > u.lemma1_bound


def _descent(u: UnitTheory) -> Tensor:
    """What it is sufficient for (eq. 5): that the whole bias gradient is positive."""
    return u.ae_bias_gradient + u.bias_gradient > 0


def _rms(values: Tensor) -> Tensor:
    return values.square().mean(1).sqrt()


def _share(true: Tensor, of: Tensor | None = None) -> Tensor:
    """The share of units, or of those in ``of``; NaN where those are none."""
    if of is None:
        return true.double().mean(1)
    return (true & of).sum(1) / of.sum(1).double()


class Probe:
    """Measures the theory on a stack, whatever epoch it stands at."""

    def __init__(self, stack: Stack) -> None:
        samples = stack.x.shape[0]
        count = min(samples, max(_FEWEST, samples // _EVERY))
        self._stack = stack
        self._x = stack.x[torch.arange(count, device=stack.device) * samples // count]

    @torch.inference_mode()
    def measure(self, epoch: int) -> Theory:
        """Every member at the end of ``epoch``; of a diverged one all is NaN."""
        members = [self._member(i, epoch) for i in range(len(self._stack.trials))]
        units = {
            f.name: torch.stack([getattr(unit, f.name) for unit, _ in members])
            for f in fields(UnitTheory)
        }
        return Theory(UnitTheory(**units), torch.stack([sigma_r for _, sigma_r in members]))

    def _member(self, i: int, epoch: int) -> tuple[UnitTheory, Tensor]:
        stack, x = self._stack, self._x
        problem, trial = stack.problem, stack.trials[i]
        model, s, training = problem.model, problem.activation, trial.training
        W, b = stack.W[i], stack.b[i]
        unknown = torch.full_like(b, torch.nan, dtype=torch.float64)
        if stack.diverged[i]:
            values = {f.name: unknown for f in fields(UnitTheory)}
            return UnitTheory(**values), unknown[0]
        c, net = Coefficients.of([trial], W), stack.network(i)

        def gradient(model: Model, eps: Tensor | None = None) -> Tensor:
            noise = None if eps is None else eps.unsqueeze(0)
            return model.gradient(net, x.unsqueeze(0), noise, s, c).db[0].double()

        ae = gradient(AE())
        first_order, second_order, kink = unknown, unknown, unknown
        seen = model.encoder_input
        if seen.draws:
            noise = generator(trial.seed, "theory", epoch, stack.device)
            eps = torch.empty_like(x).normal_(generator=noise).unsqueeze(0)
            above, below = gradient(model, eps), gradient(model, -eps)
            added = (above + below) / 2 - ae
            if not isinstance(seen, Both):  # the noise is that of theorem 3, scaled by sigma
                draws = training.batch_size * training.corruptions
                first_order = (above - below) / 2 * (x.shape[0] / draws) ** 0.5
            if model.odd_in_noise:
                added.zero_()  # what is left is rounding
            if isinstance(seen, Corrupted) and seen.antithetic:
                first_order.zero_()  # as well
            if isinstance(seen, Corrupted) and isinstance(model.penalty, NoPenalty):
                smooth = not s.piecewise_linear
                second_order = gradient(DAE2()) - ae if smooth else torch.zeros_like(ae)
                if s.kinked:
                    kink = kink_gradient(W, b, x, trial.sigma2, eps[0])
        else:
            added = gradient(model) - ae

        a = torch.addmm(b, x, W.mT)
        h = s.value(a)
        norms = row_norms(W.double())
        sigma_r = (h @ W - x).double().square().mean().sqrt()
        mean = W.double() @ stack.data_mean + b.double()
        return UnitTheory(
            ae_bias_gradient=ae,
            bias_gradient=added,
            lemma1_bound=2 * sigma_r * x.shape[1] ** 0.5 * norms,
            pre_activation=mean,
            variance_ratio=a.double().var(0, correction=0) / norms.square(),
            theorem2_bound=unknown
            if s.pre_threshold is None
            else cantelli(s.pre_threshold - mean, norms),
            inactive_share=(h <= s.threshold).double().mean(0),
            first_order=first_order,
            second_order=second_order,
            kink=kink,
        ), sigma_r


def cantelli(distance: Tensor, deviation: Tensor) -> Tensor:
    """Lower bound on Pr(a <= E[a] + distance), of any a with this standard deviation.

    Theorem 2 with Var[a_j] = norm(W_j)^2 (theorem 1): it rises as E[a_j] falls below the threshold,
    and says nothing, 0, where E[a_j] is above it.
    """
    squares = distance.clamp(min=0).square()
    return torch.nan_to_num(squares / (squares + deviation.square()))


def kink_gradient(
    W: Tensor,
    b: Tensor,
    x: Tensor,
    sigma2: float,
    eps: Tensor | None = None,
    bandwidth: float | None = None,
) -> Tensor:
    """The bias gradient that the dae gets from relu's kink, (m,) (footnote 1).

    A sample's bias gradient, g_j(x~) = 2 1(a_j > 0) W_j^T r with r = y - x, is linear in the input
    x~ between the kinks. So what averaging over the noise adds to it comes from the kinks alone, of
    every order: by the heat equation, with x~ = x + sqrt(t) eps,

        E g_j(x + sigma eps) - E g_j(x) = 1/2 int_0^sigma2 E[Laplacian of g_j at x~] dt
        1/2 Laplacian of g_j = 2 delta(a_j) sum_k 1(a_k > 0) G_jk^2
                             + 1(a_j > 0) sum_k G_jk norm(W_k)^2 delta(a_k)
                             + norm(W_j)^2 delta'(a_j) W_j^T r,        G = W W^T.

    It is the bias gradient of eq. 7 with s'' = delta(a): of order sigma2 once delta(a_j) has become
    the density of the pre-activation at zero, by the average over the data. The integral is taken
    as sigma2 times its value at t = sigma2 / 2 (error of order sigma2^3) where ``eps`` is given,
    and at t = 0, the leading order, where it is not. Densities are Gaussian kernel estimates.

    Args:
        W, b: weights (m, n) and biases (m,).
        x: samples (T, n).
        sigma2: variance of the corruption.
        eps: noise (T, n) ~ N(0, I).
        bandwidth: of the kernel, in standard deviations of a_j; Silverman's 0.9 T^(-1/5) if None.
    """
    share = 0.9 / x.shape[0] ** 0.2 if bandwidth is None else bandwidth
    inputs = x if eps is None else torch.add(x, eps, alpha=(sigma2 / 2) ** 0.5)
    a = torch.addmm(b, inputs, W.mT)
    active = (a > 0).to(a.dtype)
    width = share * a.std(0, correction=0)
    width = torch.where(width > 0, width, torch.inf)  # a constant a_j has no density
    z = a / width
    density = z.square().mul_(-0.5).exp_().div_(width * (2 * torch.pi) ** 0.5)
    slope = -z / width * density
    products = W @ W.mT
    lengths = products.diagonal()
    residual = ((a * active) @ W - x) @ W.mT
    terms = 2 * density * (active @ products.square())
    terms.addcmul_(active, (density * lengths) @ products)
    terms.addcmul_(slope * lengths, residual)
    return sigma2 * terms.mean(0, dtype=torch.float64)
