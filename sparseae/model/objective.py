"""What a model is: its objective, and the gradient of it in closed form.

Notation and shapes (G members, batch B, inputs n, hidden units m):

    x (G, B, n)    a = x W^T + b (G, R, m)    h = s(a)    y = h W (G, R, n)
    W (G, m, n)    b (G, m)                   r = y - x   l = sum_i r_i^2, mean over the R rows

R is B, or with K corruptions of each sample K B. The gradient of W is a sum of products  A_k^T X_k
of (G, R, m) and (G, R, n) matrices, as  da^T x  (through the encoder) and  h^T dy  (through the
decoder).

A model says what its encoder sees and of what form its penalty is (`sparseae.model.forms`): its
objective, its gradient, what is measured of it and how it is computed follow. A model that is of no
such form writes its objective, `Model.value`, in differentiable operations: its gradient then is
autograd's, or its own `Model.gradient`, which is faster. `sparseae.model.contract` compares them.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients
from sparseae.model.derivative import gradients
from sparseae.model.forms import Clean, Corrupted, EncoderInput, NoPenalty, Penalty
from sparseae.model.network import Network
from sparseae.model.trial import Training


class Gradient(NamedTuple):
    """dW and db of the members; dW in parts.

    Attributes:
        pairs: A_k (G, R, m) and X_k (G, R, n), of which dW has the products A_k^T X_k.
        db: (G, m).
        residual: (G, ., .), not finite where the loss is not.
        row_factors: k (G, m), where dW_j has k_j W_j.
        dense: (G, m, n), any other part of dW.
    """

    pairs: tuple[tuple[Tensor, Tensor], ...]
    db: Tensor
    residual: Tensor
    row_factors: Tensor | None = None
    dense: Tensor | None = None

    def weights(self, W: Tensor) -> Tensor:
        """dW, (G, m, n)."""
        dW = W.new_zeros(W.shape)
        for A, X in self.pairs:
            dW = torch.baddbmm(dW, A.mT, X)
        if self.row_factors is not None:
            dW = dW.addcmul(W, self.row_factors.unsqueeze(-1))
        return dW if self.dense is None else dW + self.dense


class Model:
    """One model. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    #: Where the paper, or docs/models.md, states it.
    source: ClassVar[str] = ""
    #: What the encoder sees, and what is added to the reconstruction error.
    encoder_input: EncoderInput = Clean()
    penalty: Penalty = NoPenalty()
    #: The noise enters the objective linearly: over eps and -eps it adds nothing.
    odd_in_noise: ClassVar[bool] = False

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

    @property
    def declared(self) -> bool:
        """Whether its encoder's input and its penalty say all: nothing is written by itself."""
        own = type(self)
        return (
            own.value is Model.value
            and own.gradient is Model.gradient
            and isinstance(self.encoder_input, Clean | Corrupted)
        )

    def value(
        self, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Tensor:
        """The objective of each member, (G,), on the batch x with the noise eps (G, K, B, n)."""
        seen, target = self.rows_of(x, eps, c)
        a = seen @ W.mT + b.unsqueeze(1)
        h = s.value(a)
        return squared_error(h @ W, target) + self.penalty.value(a, h, W, s, c)

    def gradient(
        self, net: Network, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Gradient:
        """The derivatives of `value`, with no autograd graph where they are written out."""
        if type(self).value is not Model.value:
            return self._by_autograd(net, x, eps, s, c)
        seen, target = self.rows_of(x, eps, c)
        a = net.encode(seen)
        h = s.value(a)
        dy = net.residual(h, target, scale=2 / h.shape[1])
        dh = net.back(dy, self.penalty.offset(h, c))
        da, row_factors, dense = self.penalty.back(dh, a, h, net, s, c)
        return Gradient(((da, seen), (h, dy)), da.sum(1), dy, row_factors, dense)

    def _by_autograd(
        self, net: Network, x: Tensor, eps: Tensor | None, s: Activation, c: Coefficients
    ) -> Gradient:
        def value(W: Tensor, b: Tensor) -> Tensor:
            # Inference tensors cannot be part of a graph, their clones can.
            return self.value(W, b, x.clone(), None if eps is None else eps.clone(), s, c)

        loss, (dW, db) = gradients(value, [net.W, net.b])
        return Gradient((), db, loss.view(-1, 1, 1), dense=dW)

    def rows_of(
        self, x: Tensor, eps: Tensor | None, c: Coefficients, *, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the encoder sees and what the decoder is to make of it, (G, R, n) each.

        The first is in ``out`` where that is given and it is not x itself.
        """
        if not isinstance(self.encoder_input, Corrupted):
            return x, x
        assert eps is not None
        eps = self.encoder_input.noises(eps)
        clean = x.unsqueeze(1).expand_as(eps).flatten(1, 2)
        return c.sigma.plus(clean, eps.flatten(1, 2), out=out), clean

    def moment(
        self, net: Network, a: Tensor, h: Tensor, r: Tensor, s: Activation, eps: Tensor | None
    ) -> Tensor | None:
        """What R averages over the samples, (G, R, m), or several such beside each other.

        None where the model has no such R. May write to nothing that it is given.

        Args:
            net: the members' weights.
            a, h, r: pre-activations, hidden values (G, R, m) and residuals y - x (G, R, n).
            s: the activation.
            eps: noise (G, R, n), the same for every member and chunk of samples, where the encoder
                sees `Both`; otherwise None.
        """
        return self.penalty.moment(a, h, s)

    def regularization(self, mean: Tensor, norms: Tensor, c: Coefficients) -> Tensor | None:
        """lambda R over the training set, (G,), float64; None where `moment` is.

        Args:
            mean: the mean of `moment` over the samples, (G, m).
            norms: norm(W_j), (G, m).
        """
        return self.penalty.of_moments(mean, norms, c)


#: Every model by its name; `sparseae.model` has those of all files.
MODELS: dict[str, type[Model]] = {}


def squared_error(y: Tensor, x: Tensor) -> Tensor:
    """l(x, y), summed over the inputs and averaged over the rows: (G, R, n) -> (G,)."""
    return (y - x).square().sum(-1).mean(-1)
