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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.engine.c import Compiled, turned
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
            MODELS[cls.name] = cls

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
MODELS: dict[str, type[Objective]] = {}


def inherits(objective: Objective, model: type[Objective], *methods: str) -> bool:
    """Whether an objective has these methods as a model has them."""
    return all(getattr(type(objective), name) is getattr(model, name) for name in methods)


def squared_error(y: Tensor, x: Tensor) -> Tensor:
    """l(x, y), summed over the inputs and averaged over the batch: (G, B, n) -> (G,)."""
    return (y - x).square().sum(-1).mean(-1)
