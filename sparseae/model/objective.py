"""The objectives: each equation of the paper, and its gradient in closed form.

Each class gives its objective twice. `value` is the equation as the paper has it, made of
differentiable operations: the reference, which the tests differentiate with autograd. `gradient`
is what trains: the same derivative written out, with no autograd graph.

Notation and shapes (G members, batch B, inputs n, hidden units m):

    x (G, B, n)    a = x W^T + b (G, B, m)    h = s(a)    y = h W (G, B, n)
    W (G, m, n)    b (G, m)                   r = y - x   l = sum_i r_i^2, mean over the batch

`gradient` also takes a member alone, without the dimension G: W (m, n), x (B, n) and so on, which
spares a CPU the views.

The gradient of W is a sum of products  A_k^T X_k  of pairs of (G, rows, m) and (G, rows, n)
matrices, as  da^T x  (through the encoder) and  h^T dy  (through the decoder). The pairs stand one
below the other in two buffers, so that a single GEMM adds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.engine.c import Compiled, turned
from sparseae.engine.randomness import generator
from sparseae.engine.torch import TORCH, routine
from sparseae.model.activations import Activation
from sparseae.model.coefficients import PerMember
from sparseae.model.constraints import row_norms
from sparseae.model.trial import Training, Trial


@dataclass(frozen=True)
class Coefficients:
    """The numbers of the members: lambda = sigma2, sigma, and sae's target rho."""

    lam: PerMember
    sigma: PerMember
    rho: PerMember

    @classmethod
    def of(cls, trials: Sequence[Trial], like: Tensor) -> Coefficients:
        """Those of some trials, for tensors as ``like``."""
        return cls(
            lam=PerMember([trial.sigma2 for trial in trials], like),
            sigma=PerMember([trial.sigma2**0.5 for trial in trials], like),
            rho=PerMember([trial.training.rho for trial in trials], like),
        )


class Network:
    """The encoder and decoder of a group's members: W (G, m, n) and b (G, m).

    Or of one alone, W (m, n) and b (m,), its ``products`` as chosen (`sparseae.engine.torch`) or
    in C.
    """

    def __init__(self, W: Tensor, b: Tensor, products: str | Compiled = TORCH) -> None:
        self.W, self.b = W, b
        self.routine = routine(products) if isinstance(products, str) else products
        self.alone = W.dim() == 2

    def room(self, rows: int) -> Tensor:
        """Room for hidden units, (G, rows, m), as the products leave them."""
        if isinstance(self.routine, Compiled):
            return turned(self.W, rows, self.W.shape[0])
        return self.W.new_empty(*self.W.shape[:-2], rows, self.W.shape[-2])

    def encode(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x W^T + b, (G, rows, m); in ``out`` where that can be."""
        return self.backward(x, self.b, out)

    def backward(
        self, x: Tensor, offset: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """x W^T, (G, rows, m), as the decoder's input gets its gradient; plus ``offset`` (G, m).

        In ``out`` where that can be.
        """
        if self.alone:
            return self.routine.encode(x, self.W, offset, out)
        if offset is None:
            return torch.bmm(x, self.W.mT, out=out)
        return torch.baddbmm(offset.unsqueeze(1), x, self.W.mT, out=out)

    def decode(self, h: Tensor, out: Tensor) -> Tensor:
        """h W into ``out``, (G, rows, n)."""
        if self.alone:
            return self.routine.decode(h, self.W, out)
        return torch.bmm(h, self.W, out=out)

    def residual(self, h: Tensor, x: Tensor, out: Tensor, scale: float = 1.0) -> Tensor:
        """scale (h W - x) into ``out``, (G, rows, n), in one GEMM."""
        if self.alone:
            return self.routine.residual(h, self.W, x, scale, out)
        return torch.baddbmm(x, h, self.W, beta=-scale, alpha=scale, out=out)


class Pass(Network):
    """The buffers of one training step of a group.

    Args:
        W: weights (G, m, n), or (m, n).
        b: encoder biases (G, m), or (m,).
        pairs: how many products A_k^T X_k the objective's gradient has.
        batch: rows of a minibatch, B.
        copies: encoder inputs a sample (`corruptions` for dae, otherwise 1).
        products: what computes them, a choice of `sparseae.engine.torch`, or C for a member alone
            whose objective is `Objective.in_c`.
        unit_rows: every norm(W_j) is known to be 1.
        scratch: of a Pass of the same shapes whose buffers this one may overwrite.
    """

    def __init__(
        self,
        W: Tensor,
        b: Tensor,
        activation: Activation,
        pairs: int,
        batch: int,
        copies: int,
        products: str | Compiled = TORCH,
        *,
        unit_rows: bool = False,
        scratch: Pass | None = None,
    ) -> None:
        super().__init__(W, b, products)
        *group, m, n = W.shape
        rows = batch * copies
        self.activation = activation
        self.batch, self.rows = batch, rows
        #: What goes through the hidden units in one pass, where that is possible.
        self.compiled = self.routine if isinstance(self.routine, Compiled) else None
        #: Beside A and X, `a` and `dh` (G, rows, m) are room for a and for the gradient of h.
        if scratch is not None:
            self.A, self.X = scratch.A, scratch.X
            self.a, self.dh = scratch.a, scratch.dh
        elif self.compiled is not None:
            self.A = W.new_zeros(m, pairs * rows).t()
            self.X = W.new_zeros(pairs * rows, n)
            self.a, self.dh = self.room(rows), self.room(rows)
        else:
            self.A = W.new_zeros(*group, pairs * rows, m)
            self.X = W.new_zeros(*group, pairs * rows, n)
            self.a, self.dh = W.new_zeros(2, *group, rows, m)
        self.A_blocks = self.A.split(rows, dim=-2)
        self.X_blocks = self.X.split(rows, dim=-2)
        #: The residuals, scaled, as one row a member: (G, 1, rows n).
        self.dy = self.X_blocks[1].flatten(-2).unsqueeze(-2)
        self.unit_rows = unit_rows

    def row_norms(self) -> Tensor | None:
        """norm(W_j), (G, m); None where every one is 1."""
        return None if self.unit_rows else row_norms(self.W)

    def weight_gradient(self, V: Tensor, momentum: float) -> None:
        """V = momentum V + sum_k A_k^T X_k, in one GEMM."""
        if self.alone:
            self.routine.gradient(self.A.mT, self.X, V, momentum)
        else:
            V.baddbmm_(self.A.mT, self.X, beta=momentum)

    def activate(self, a: Tensor, out: Tensor) -> Tensor:
        """h = s(a), (G, rows, m), in ``out``; in a where the way back moves h to A."""
        return self.activation.value(a, out=out if self.compiled is None else a)

    def through_activation(self, dh: Tensor, a: Tensor, h: Tensor, out: Tensor) -> Tensor:
        """da = s'(a) dh into ``out``, (G, rows, m); its sum over the rows, (G, m)."""
        if self.compiled is not None:
            return self.in_one_pass(dh, h)[0]
        self.activation.backward(dh, a, h, out=out)
        return out.sum(-2)

    def in_one_pass(
        self, dh: Tensor, h: Tensor, bend: float | Tensor = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Fill A = [da; h], and return what `sparseae.engine.c.Compiled.backward` does."""
        slope = self.activation.slope_of_h
        assert self.compiled is not None
        assert slope is not None
        return self.compiled.backward(dh, h, slope, self.A.mT, bend)

    def add_squares(self, total: Tensor) -> None:
        """Add the sum of squares of each member's dy to ``total`` (G, 1, 1)."""
        if self.alone:
            total.addmm_(self.dy, self.dy.mT)
        else:  # a GPU has few threads for a product with one row and one column
            norm = torch.linalg.vector_norm(self.dy, dim=-1, keepdim=True)
            total.addcmul_(norm, norm)


@dataclass(frozen=True)
class Moments:
    """What a regularizer's value over the whole training set is made of (float64)."""

    mean: Tensor  # (G, m `moments_a_unit`): the mean of `moment` over the samples
    weight_norm: Tensor  # (G, m)


class Objective:
    """One model. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    #: Where the paper or the specification states it.
    source: ClassVar[str]
    #: Whether a step draws corruption noise eps ~ N(0, I).
    stochastic: ClassVar[bool] = False
    #: Products A_k^T X_k of the weight gradient.
    pairs: ClassVar[int] = 2
    #: Columns that `moment` has for each hidden unit.
    moments_a_unit: ClassVar[int] = 1
    #: Floating point operations a step, for each weight and row of the encoder's input.
    flops_per_weight_and_sample: ClassVar[int] = 10

    #: What a step holds at most beside its buffers, as so many (rows, m) matrices a member, and
    #: what a step or `moment` holds as so many (m, m): for `sparseae.engine.footprint`.
    step_temporaries: ClassVar[int] = 2
    unit_matrices: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            OBJECTIVES[cls.name] = cls

    def __init__(self, training: Training | None = None) -> None:
        #: The trial's keys: those in `sparseae.model.trial.OWN_KEYS` are this model's parameters.
        self.training = training or Training()

    @classmethod
    def check(cls, training: Training) -> str | None:
        """Say in one line why a trial cannot use this model, or return None."""
        return None

    @classmethod
    def copies(cls, training: Training) -> int:
        """Encoder inputs a sample."""
        return 1

    def in_c(self, s: Activation) -> bool:
        """Whether `gradient` knows a Pass whose products are in C.

        Its hidden units are turned over; h takes the place of a, and goes to A on the way back.
        """
        return False

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        """The objective of each member, (G,), on the batch x with corruptions eps (G, K, B, n)."""
        raise NotImplementedError

    def gradient(
        self, p: Pass, x: Tensor, eps: Tensor | None, c: Coefficients
    ) -> tuple[Tensor, Tensor | None]:
        """Fill p's A and X; return db (G, m) and what of dW they leave out.

        That is either the row factors k (G, m) of dW_j += k_j W_j, or a summand (G, m, n), or None.
        """
        raise NotImplementedError

    def moment(self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation) -> Tensor | None:
        """What R averages over the samples, (G, B, m `moments_a_unit`).

        None where the model has no such R.

        Args:
            net: the members' weights.
            a, h, r: pre-activations, hidden values (G, B, m) and residuals y - x (G, B, n); a
                may be overwritten.
            s: the activation.
        """
        return None

    def measured_matrices(self, s: Activation) -> int:
        """(rows, m) matrices that a measurement holds at most, a and h among them."""
        return 2

    def regularization(self, moments: Moments, c: Coefficients) -> Tensor | None:
        """lambda R over the training set, (G,); None where `moment` is."""
        return None


#: Every model by its name.
OBJECTIVES: dict[str, type[Objective]] = {}


def _inherits(objective: Objective, model: type[Objective], *methods: str) -> bool:
    """Whether an objective has these methods as a model has them."""
    return all(getattr(type(objective), name) is getattr(model, name) for name in methods)


def squared_error(y: Tensor, x: Tensor) -> Tensor:
    """l(x, y), summed over the inputs and averaged over the batch: (G, B, n) -> (G,)."""
    return (y - x).square().sum(-1).mean(-1)


class AE(Objective):
    """The plain auto-encoder, and the frame for models that add a penalty to it."""

    name = "ae"
    source = "eq. 1"

    def in_c(self, s: Activation) -> bool:
        # Not a model that overrides what has been made for C.
        return s.slope_of_h is not None and _inherits(
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
            and _inherits(self, SlopePenalty, "gradient", "pre_activation_gradient", "_power")
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


class DAE(Objective):
    """The de-noising auto-encoder: encode x + sigma eps, reconstruct x.

    The loss is the mean over ``corruptions`` independent eps a sample.
    """

    name = "dae"
    source = "eq. 6"
    stochastic = True

    def in_c(self, s: Activation) -> bool:
        return s.slope_of_h is not None and _inherits(self, DAE, "gradient")

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
