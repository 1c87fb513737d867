"""Encoder activations s with s', s'' and the threshold delta_min (section 2.1.2, eq. 14).

Shapes: ``a`` are pre-activations, ``h = s(a)`` the hidden representation, both (..., m), of any
floating type; every function returns a tensor of that shape. All of them are differentiable, so
that the tests can check the closed forms against autograd.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.engine.c import GATE, Slope
from sparseae.model.trial import Training


class Activation:
    """One activation function. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    #: delta_min: a unit is active for a sample when h > threshold.
    threshold: ClassVar[float] = 0.1
    #: The pre-activation at which h = threshold; None where it is no function of one.
    pre_threshold: ClassVar[float | None] = None
    #: s' jumps by 1 at 0, where s'' is a Dirac delta (footnote 1).
    kinked: ClassVar[bool] = False
    #: s'' is 0 wherever it exists, so that a penalty on s' has no bias gradient.
    piecewise_linear: ClassVar[bool] = False

    #: s' as a function of h, where it is one of those that `sparseae.engine.c` knows.
    slope_of_h: ClassVar[Slope | None] = None

    #: Tensors of a's size that `value` holds beside its result (`sparseae.engine.footprint`).
    value_temporaries: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        ACTIVATIONS[cls.name] = cls

    @classmethod
    def check(cls, training: Training) -> str | None:
        """Say in one line why a trial cannot use this activation, or return None."""
        return None

    def value(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        """s(a), written into ``out`` where given."""
        raise NotImplementedError

    def slope(self, a: Tensor, h: Tensor, out: Tensor | None = None) -> Tensor:
        """s'(a), given h = s(a); into ``out``, which may be a, where given."""
        raise NotImplementedError

    def curvature(
        self, a: Tensor, h: Tensor, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """s''(a), given h = s(a); into ``out``, which may be a, where given.

        ``slope`` is s'(a) where it is known.
        """
        raise NotImplementedError

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        """s'''(a), given h = s(a); only asked of an activation that is not piecewise linear."""
        raise NotImplementedError

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, out: Tensor) -> Tensor:
        """Write s'(a) dh into ``out``: the gradient through the activation."""
        return torch.mul(dh, self.slope(a, h), out=out)


#: Every activation by its name.
ACTIVATIONS: dict[str, type[Activation]] = {}


class ReLU(Activation):
    """max(0, a). s'(0) is 0; s'' is 0 where it exists (footnote 1: a Dirac at 0)."""

    name = "relu"
    threshold = pre_threshold = 0.0
    kinked = True
    piecewise_linear = True
    slope_of_h = GATE

    def value(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.clamp_min(a, 0, out=out)

    def slope(self, a: Tensor, h: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sign(h, out=out)

    def curvature(
        self, a: Tensor, h: Tensor, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        return torch.zeros_like(h) if out is None else out.zero_()

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, out: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward.grad_input(dh, h, 0, grad_input=out)


class Softplus(Activation):
    """log(1 + exp(a)): convex, s'' > 0 everywhere."""

    name = "softplus"
    pre_threshold = math.log(math.expm1(0.1))

    def value(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        # Not F.softplus, whose cut to the identity at 20 is seen in float64.
        return torch.logaddexp(a, a.new_zeros(()), out=out)

    def slope(self, a: Tensor, h: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(a, out=out)

    def curvature(
        self, a: Tensor, h: Tensor, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        slope = a.sigmoid() if slope is None else slope
        return torch.addcmul(slope, slope, slope, value=-1, out=out)

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        slope = a.sigmoid()
        return slope * (1 - slope) * (1 - 2 * slope)

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, out: Tensor) -> Tensor:
        return torch.mul(dh, a.sigmoid(), out=out)


class Sigmoid(Activation):
    """1 / (1 + exp(-a)): satisfies corollary 1; not convex, so corollary 2 gives no guarantee."""

    name = "sigmoid"
    pre_threshold = math.log(0.1 / 0.9)
    slope_of_h = (0.0, 1.0, -1.0)

    def value(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(a, out=out)

    def slope(self, a: Tensor, h: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(h, h, h, value=-1, out=out)  # h (1 - h)

    def curvature(
        self, a: Tensor, h: Tensor, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        slope = self.slope(a, h) if slope is None else slope
        return torch.addcmul(slope, slope, h, value=-2, out=out)  # s' (1 - 2 h)

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        slope = self.slope(a, h)
        return slope * (1 - 6 * slope)

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, out: Tensor) -> Tensor:
        return torch.ops.aten.sigmoid_backward.grad_input(dh, h, grad_input=out)


class Tanh(Activation):
    """tanh(a), a control: it saturates at -1, not at 0."""

    name = "tanh"
    value_temporaries = 2
    pre_threshold = math.atanh(0.1)
    slope_of_h = (1.0, 0.0, -1.0)

    def value(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        # 2 sigmoid(2 a) - 1, a third of the time of torch.tanh.
        return torch.sub(torch.sigmoid(a + a).mul(2), 1, out=out)

    def slope(self, a: Tensor, h: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(h.new_ones(()), h, h, value=-1, out=out)

    def curvature(
        self, a: Tensor, h: Tensor, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        slope = self.slope(a, h) if slope is None else slope
        return torch.addcmul(h.new_zeros(()), h, slope, value=-2, out=out)

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        return -2 * (1 - h * h) * (1 - 3 * h * h)

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, out: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward.grad_input(dh, h, grad_input=out)


class Maxout(Activation):
    """Maxout of pairs (Goodfellow et al., 2013), a control: it does not saturate at 0.

    Rows 2k and 2k + 1 of W are the two linear pieces of one maxout unit. The larger pre-activation
    of a pair passes, the other gives 0, so that the tied decoder uses the piece that won and
    ``hidden_units`` counts the pieces.
    s' is 0 where the piece that won is 0. The Jacobian is diagonal except where the two are equal.
    """

    name = "maxout"
    value_temporaries = 1
    threshold = 0.0
    piecewise_linear = True
    slope_of_h = GATE

    @classmethod
    def check(cls, training: Training) -> str | None:
        if training.hidden_units % 2:
            return f"maxout pairs its units: hidden_units must be even, not {training.hidden_units}"
        return None

    def value(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(a, self._won(a.detach()), out=out)

    def slope(self, a: Tensor, h: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.ne(h, 0, out=torch.empty_like(h) if out is None else out)

    def curvature(
        self, a: Tensor, h: Tensor, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        return torch.zeros_like(h) if out is None else out.zero_()

    @staticmethod
    def _won(a: Tensor) -> Tensor:
        """1 for the piece that passes, 0 for the other one."""
        first, second, won = a[..., 0::2], a[..., 1::2], torch.empty_like(a)
        torch.ge(first, second, out=won[..., 0::2])
        torch.lt(first, second, out=won[..., 1::2])
        return won
