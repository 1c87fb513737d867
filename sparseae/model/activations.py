"""Encoder activations s with s', s'' and the threshold delta_min (section 2.1.2, eq. 14).

Shapes: ``a`` are pre-activations, ``h = s(a)`` the hidden representation, both (..., m), of any
floating type; every function returns a tensor of that shape. All of them are differentiable, so
that the tests can check the closed forms against autograd.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparseae.model.derivative import derivative
from sparseae.model.trial import Training


@dataclass(frozen=True)
class Polynomial:
    """s' = constant + linear h + square h^2."""

    constant: float
    linear: float
    square: float

    def slope(self, h: Tensor) -> Tensor:
        """s' by h."""
        return self.constant + h * (self.linear + self.square * h)


@dataclass(frozen=True)
class Gate:
    """s' = 1 where h is not 0, else 0."""

    def slope(self, h: Tensor) -> Tensor:
        """s' by h."""
        return (h != 0).to(h.dtype)


class Activation:
    """One activation function. A subclass with a ``name`` registers itself.

    `value` is all that a subclass must have: the derivatives follow by autograd, and are faster
    where they are written out. ``out``, where a method takes it, is where its caller would like to
    have the result; a method that leaves it out of its arguments, or ignores it, is right too.
    """

    name: ClassVar[str]
    #: delta_min: a unit is active for a sample when h > threshold.
    threshold: ClassVar[float] = 0.1
    #: The pre-activation at which h = threshold; None where it is no function of one.
    pre_threshold: ClassVar[float | None] = None
    #: s' jumps by 1 at 0, where s'' is a Dirac delta (footnote 1).
    kinked: ClassVar[bool] = False
    #: s'' is 0 wherever it exists, so that a penalty on s' has no bias gradient.
    piecewise_linear: ClassVar[bool] = False
    #: s' as a function of h alone, where it is one of these.
    slope_in_h: ClassVar[Polynomial | Gate | None] = None

    def __init_subclass__(cls) -> None:
        for method in ("value", "slope", "curvature", "backward"):
            if method in cls.__dict__:
                setattr(cls, method, _lenient(cls.__dict__[method]))
        if "name" in cls.__dict__:
            ACTIVATIONS[cls.name] = cls

    @classmethod
    def check(cls, training: Training) -> str | None:
        """Say in one line why a trial cannot use this activation, or return None."""
        return None

    def value(self, a: Tensor, *, out: Tensor | None = None) -> Tensor:
        """s(a); ``out`` may be a."""
        raise NotImplementedError(f"{type(self).__name__}.value")

    def slope(self, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        """s'(a), given h = s(a); ``out`` may be a."""
        return derivative(self.value, a)

    def curvature(
        self, a: Tensor, h: Tensor, *, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """s''(a), given h = s(a), and s'(a) where it is known; ``out`` may be a."""
        return derivative(lambda a: self.slope(a, self.value(a)), a)

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        """s'''(a), given h = s(a); only asked of an activation that is not piecewise linear."""
        return derivative(lambda a: self.curvature(a, self.value(a)), a)

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        """s'(a) dh: the gradient through the activation."""
        return torch.mul(dh, self.slope(a, h), out=out)

    def slope_power(self, slope: Tensor, q: int) -> Tensor:
        """s'^q, which is s' itself where that is 0 or 1."""
        return slope if q == 1 or isinstance(self.slope_in_h, Gate) else slope.pow(q)


#: Every activation by its name.
ACTIVATIONS: dict[str, type[Activation]] = {}


def _lenient(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method for callers that pass ``out`` and ``slope``, whether or not it takes them."""
    unknown = {"out", "slope"} - inspect.signature(method).parameters.keys()
    if not unknown:
        return method

    @functools.wraps(method)
    def called(*args: object, **options: object) -> Tensor:
        return method(*args, **{k: v for k, v in options.items() if k not in unknown})

    return called


def _room(out: Tensor | None, like: Tensor) -> Tensor:
    return torch.empty_like(like) if out is None else out


class ReLU(Activation):
    """max(0, a). s'(0) is 0; s'' is 0 where it exists (footnote 1: a Dirac at 0)."""

    name = "relu"
    threshold = pre_threshold = 0.0
    kinked = True
    piecewise_linear = True
    slope_in_h = Gate()

    def value(self, a: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.clamp_min(a, 0, out=out)

    def slope(self, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.sign(h, out=out)

    def curvature(
        self, a: Tensor, h: Tensor, *, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        return torch.zeros_like(h) if out is None else out.zero_()

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.ops.aten.threshold_backward.grad_input(dh, h, 0, grad_input=_room(out, dh))


class Softplus(Activation):
    """log(1 + exp(a)): convex, s'' > 0 everywhere."""

    name = "softplus"
    pre_threshold = math.log(math.expm1(0.1))

    def value(self, a: Tensor, *, out: Tensor | None = None) -> Tensor:
        # Not F.softplus, whose cut to the identity at 20 is seen in float64.
        return torch.logaddexp(a, a.new_zeros(()), out=out)

    def slope(self, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(a, out=out)

    def curvature(
        self, a: Tensor, h: Tensor, *, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        slope = a.sigmoid() if slope is None else slope
        return torch.addcmul(slope, slope, slope, value=-1, out=out)

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        slope = a.sigmoid()
        return slope * (1 - slope) * (1 - 2 * slope)

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.mul(dh, a.sigmoid(), out=out)


class Sigmoid(Activation):
    """1 / (1 + exp(-a)): satisfies corollary 1; not convex, so corollary 2 gives no guarantee."""

    name = "sigmoid"
    pre_threshold = math.log(0.1 / 0.9)
    slope_in_h = Polynomial(0.0, 1.0, -1.0)

    def value(self, a: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(a, out=out)

    def slope(self, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(h, h, h, value=-1, out=out)  # h (1 - h)

    def curvature(
        self, a: Tensor, h: Tensor, *, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        slope = self.slope(a, h) if slope is None else slope
        return torch.addcmul(slope, slope, h, value=-2, out=out)  # s' (1 - 2 h)

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        slope = self.slope(a, h)
        return slope * (1 - 6 * slope)

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.ops.aten.sigmoid_backward.grad_input(dh, h, grad_input=_room(out, dh))


class Tanh(Activation):
    """tanh(a), a control: it saturates at -1, not at 0."""

    name = "tanh"
    pre_threshold = math.atanh(0.1)
    slope_in_h = Polynomial(1.0, 0.0, -1.0)

    def value(self, a: Tensor, *, out: Tensor | None = None) -> Tensor:
        # 2 sigmoid(2 a) - 1, a third of the time of torch.tanh.
        return torch.sub(torch.sigmoid(a + a).mul(2), 1, out=out)

    def slope(self, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(h.new_ones(()), h, h, value=-1, out=out)

    def curvature(
        self, a: Tensor, h: Tensor, *, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        slope = self.slope(a, h) if slope is None else slope
        return torch.addcmul(h.new_zeros(()), h, slope, value=-2, out=out)

    def third_derivative(self, a: Tensor, h: Tensor) -> Tensor:
        return -2 * (1 - h * h) * (1 - 3 * h * h)

    def backward(self, dh: Tensor, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.ops.aten.tanh_backward.grad_input(dh, h, grad_input=_room(out, dh))


class Maxout(Activation):
    """Maxout of pairs (Goodfellow et al., 2013), a control: it does not saturate at 0.

    Rows 2k and 2k + 1 of W are the two linear pieces of one maxout unit. The larger pre-activation
    of a pair passes, the other gives 0, so that the tied decoder uses the piece that won and
    ``hidden_units`` counts the pieces.
    s' is 0 where the piece that won is 0. The Jacobian is diagonal except where the two are equal.
    """

    name = "maxout"
    threshold = 0.0
    piecewise_linear = True
    slope_in_h = Gate()

    @classmethod
    def check(cls, training: Training) -> str | None:
        if training.hidden_units % 2:
            return f"maxout pairs its units: hidden_units must be even, not {training.hidden_units}"
        return None

    def value(self, a: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.mul(a, self._won(a.detach()), out=out)

    def slope(self, a: Tensor, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.ne(h, 0, out=_room(out, h))

    def curvature(
        self, a: Tensor, h: Tensor, *, slope: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        return torch.zeros_like(h) if out is None else out.zero_()

    @staticmethod
    def _won(a: Tensor) -> Tensor:
        """1 for the piece that passes, 0 for the other one."""
        first, second, won = a[..., 0::2], a[..., 1::2], torch.empty_like(a)
        torch.ge(first, second, out=won[..., 0::2])
        torch.lt(first, second, out=won[..., 1::2])
        return won
