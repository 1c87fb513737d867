"""Whether a model, an activation or a constraint is what it says of itself.

Each is asked on a few numbers in double precision before anything trains: every derivative that is
written out is compared with autograd's, every form that is declared with what the methods compute.
So a mistake is one line that names the class and the method, and never half a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients, PerMember
from sparseae.model.constraints import Constraint, row_norms
from sparseae.model.derivative import derivative, gradients
from sparseae.model.forms import EncoderInput
from sparseae.model.network import Network
from sparseae.model.objective import Model
from sparseae.model.trial import OWN_KEYS, Training

#: Largest relative difference of what is compared.
_NEAR = 1e-6


class UnsoundError(ValueError):
    """A class that is not what it says: names class and method."""

    def __init__(self, part: object, method: str, says: str) -> None:
        name = part if isinstance(part, str) else type(part).__name__
        super().__init__(f"{name}.{method} {says}")


def require_sound(model: Model, s: Activation, constraint: Constraint) -> None:
    """Ask all three; once a process for each combination.

    Raises:
        UnsoundError: if one is not what it says of itself.
    """
    _activation(type(s))
    _constraint(type(constraint))
    # By all but what has no part in the mathematics.
    t, plain = model.training, Training()
    keys = {key: getattr(t, key) for key in OWN_KEYS}
    _model(type(model), type(s), replace(plain, corruptions=min(t.corruptions, 2), **keys))


@lru_cache
@torch.inference_mode(False)
def _activation(kind: type[Activation]) -> None:
    s = kind()
    # Neither 0 nor two that are equal: there a kinked activation has no derivative.
    a = 2 * torch.randn(2, 20, generator=_stream(), dtype=torch.float64)
    kept = a.clone()
    h = _asked(s, "value", lambda: s.value(a))
    _same_shape(s, "value", h, a)

    slope = _compared(s, "slope", s.slope(a, h), derivative(s.value, a), "the derivative of value")
    bend = derivative(lambda a: s.slope(a, s.value(a)), a)
    curvature = s.curvature(a, h)
    _compared(s, "curvature", curvature, bend, "the derivative of slope")
    _compared(s, "curvature", s.curvature(a, h, slope=slope), curvature, "the same with a slope")
    if s.piecewise_linear and curvature.any():
        raise UnsoundError(s, "piecewise_linear", "is True, but curvature is not 0")
    if not s.piecewise_linear:
        third = derivative(lambda a: s.curvature(a, s.value(a)), a)
        _compared(
            s, "third_derivative", s.third_derivative(a, h), third, "the derivative of curvature"
        )
    dh = torch.linspace(-1, 2, 40, dtype=torch.float64).view(2, 20)
    _compared(s, "backward", s.backward(dh, a, h), dh * slope, "slope times dh")
    if s.slope_in_h is not None:
        _compared(s, "slope_in_h", s.slope_in_h.slope(h), slope, "slope")
    if s.pre_threshold is not None:
        at = torch.full((1, 2), s.pre_threshold, dtype=torch.float64)
        _compared(s, "pre_threshold", s.value(at), torch.full_like(at, s.threshold),
                  "where value is the threshold")  # fmt: skip
    if not torch.equal(a, kept):
        raise UnsoundError(s, "value", "or a derivative of it writes to its argument")
    # Whether a method that is given `out` writes what it returns without.
    out = a.clone()
    _compared(s, "value", s.value(out, out=out), h, "the same with out")


@lru_cache
@torch.inference_mode(False)
def _constraint(kind: type[Constraint]) -> None:
    constraint = kind()
    W = torch.randn(2, 5, 3, generator=_stream(), dtype=torch.float64)
    W[1] *= 0.01
    W[0, 1] = 0
    c = Coefficients(W, [0.0, 0.0], max_norm=[0.5, 2.0])
    after = W.clone()
    constraint.project(after, c)
    if not after.isfinite().all():
        raise UnsoundError(constraint, "project", "does not leave a row of zeros as it is")
    norms = constraint.norms(c)
    if norms is not None:
        low, high = (k.column if isinstance(k, PerMember) else torch.tensor(k) for k in norms)
        length = row_norms(W)
        within = torch.minimum(torch.maximum(length, low), high)
        scaled = W * (within / length.clamp_min(1e-300)).unsqueeze(-1)
        _compared(constraint, "project", after, scaled, "to scale the rows as norms says")
    if constraint.unit_rows:
        expected = (row_norms(W) > 0).double()
        _compared(constraint, "unit_rows", row_norms(after), expected, "what project leaves")
    decay = constraint.decay(c)
    if decay is not None and not isinstance(decay, PerMember):
        raise UnsoundError(constraint, "decay", "must return a coefficient of c, or None")


@lru_cache
@torch.inference_mode(False)
def _model(kind: type[Model], activation: type[Activation], training: Training) -> None:
    model, s = kind(training), activation()
    if not isinstance(model.encoder_input, EncoderInput):
        raise UnsoundError(model, "encoder_input", "is neither Clean, Corrupted nor Both")
    stream = _stream()

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=stream, dtype=torch.float64)

    W, b, x = noise(2, 4, 3) / 2, noise(2, 4) / 2, noise(2, 5, 3)
    draws = model.encoder_input.draws
    eps = noise(2, draws, 5, 3) if draws else None
    c = Coefficients(W, [0.3, 0.6], rho=[0.0, 0.2])
    given = [W, b, x] if eps is None else [W, b, x, eps]
    kept = [t.clone() for t in given]
    value, (dW, db) = _asked(
        model, "value", lambda: gradients(lambda W, b: model.value(W, b, x, eps, s, c), [W, b])
    )
    if value.shape != (2,):
        raise UnsoundError(
            model, "value", f"has shape {tuple(value.shape)} for two members, not (2,)"
        )
    own = _asked(model, "gradient", lambda: model.gradient(Network(W, b), x, eps, s, c))
    _compared(model, "gradient", own.weights(W), dW, "the derivative of value in W")
    _compared(model, "gradient", own.db, db, "the derivative of value in b")
    for before, now in zip(kept, given, strict=True):
        if not torch.equal(before, now):
            raise UnsoundError(model, "gradient", "writes to its arguments")


_T = TypeVar("_T")


def _asked(part: object, method: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except NotImplementedError as error:  # the base class says whose method it is
        owner, _, missing = str(error).partition(".")
        raise UnsoundError(owner or part, missing or method, "is missing") from None


def _compared(part: object, method: str, found: Tensor, expected: Tensor, what: str) -> Tensor:
    _same_shape(part, method, found, expected)
    found, expected = found.detach(), expected.detach()
    scale = expected.abs().max().clamp_min(1e-6)
    if not (found - expected).abs().max() <= _NEAR * scale:
        raise UnsoundError(part, method, f"is not {what}")
    return found


def _same_shape(part: object, method: str, found: object, like: Tensor) -> None:
    if not isinstance(found, Tensor):
        raise UnsoundError(part, method, f"returns {type(found).__name__}, not a tensor")
    if found.shape != like.shape:
        shapes = f"{tuple(found.shape)}, not {tuple(like.shape)}"
        raise UnsoundError(part, method, f"returns shape {shapes}")


def _stream() -> torch.Generator:
    return torch.Generator().manual_seed(0)
