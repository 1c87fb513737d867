"""Each thing that a class says of itself, by one that says it falsely."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
from sparseae.model import contract as asked
from sparseae.model.activations import Activation, Gate, ReLU, Sigmoid, Softplus, Tanh
from sparseae.model.constraints import Constraint, MaxNorm, UnitNorm
from sparseae.model.contract import UnsoundError, require_sound
from sparseae.model.forms import Both, Clean, Corrupted
from sparseae.model.objective import Model
from sparseae.model.penalties import AE, CAE
from sparseae.model.trial import Training

PLAIN = Training()


def says(ask: Any, *parts: Any) -> str:
    with pytest.raises(UnsoundError) as refusal:
        ask(*parts)
    return str(refusal.value)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_what_is_built_in_is_sound(name, constraint):
    for model in MODELS.values():
        if model.check(PLAIN) is None:
            require_sound(model(PLAIN), ACTIVATIONS[name](), CONSTRAINTS[constraint]())


class Narrow(Sigmoid):
    def value(self, a, *, out=None):
        return torch.sigmoid(a)[..., :1]


class NarrowSlope(Sigmoid):
    def slope(self, a, h, *, out=None):
        return super().slope(a, h)[..., :1]


class Number(Sigmoid):
    def value(self, a, *, out=None):
        return 0.5


class BySlope(Sigmoid):
    def curvature(self, a, h, *, slope=None, out=None):
        return super().curvature(a, h) if slope is None else 2 * slope


class Third(Softplus):
    def third_derivative(self, a, h):
        return super().third_derivative(a, h) + 1


class Curvature(Tanh):
    def curvature(self, a, h, *, slope=None, out=None):
        return super().curvature(a, h).abs()


class Backward(Sigmoid):
    def backward(self, dh, a, h, *, out=None):
        return dh.abs() * self.slope(a, h)


class InH(ReLU):
    slope_in_h = Sigmoid.slope_in_h


class Threshold(Sigmoid):
    pre_threshold = 0.0


class Writes(Activation):
    def value(self, a, *, out=None):
        h = torch.sigmoid(a)
        if not a.requires_grad:
            a.mul_(0.5)
        return h


class Elsewhere(Sigmoid):
    def value(self, a, *, out=None):
        h = torch.sigmoid(a)
        return h if out is None else out.copy_(h).mul_(2)


class Linear(Sigmoid):
    piecewise_linear = True


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Narrow, "Narrow.value returns shape (2, 1), not (2, 20)"),
        (NarrowSlope, "NarrowSlope.slope returns shape (2, 1), not (2, 20)"),
        (Number, "Number.value returns float, not a tensor"),
        (Curvature, "Curvature.curvature is not the derivative of slope"),
        (BySlope, "BySlope.curvature is not the same with a slope"),
        (Linear, "Linear.piecewise_linear is True, but curvature is not 0"),
        (Third, "Third.third_derivative is not the derivative of curvature"),
        (Backward, "Backward.backward is not slope times dh"),
        (InH, "InH.slope_in_h is not slope"),
        (Threshold, "Threshold.pre_threshold is not where value is the threshold"),
        (Writes, "Writes.value or a derivative of it writes to its argument"),
        (Elsewhere, "Elsewhere.value is not the same with out"),
    ],
)
def test_an_activation_that_says_what_is_false_is_named(kind, words):
    assert says(asked._activation, kind) == words


@pytest.mark.parametrize(("by", "sound"), [(0.5e-6, True), (3e-6, False)])
def test_a_millionth_is_near_enough(by, sound):
    class Off(Sigmoid):
        def backward(self, dh, a, h, *, out=None):
            right = dh * self.slope(a, h)
            return right + by * right.abs().max()

    if sound:
        asked._activation(Off)
    else:
        assert says(asked._activation, Off) == "Off.backward is not slope times dh"


def test_near_enough_is_by_the_size_of_what_is_compared():
    class Small(Sigmoid):
        pre_threshold = slope_in_h = None

        def value(self, a, *, out=None):
            return 1e-3 * torch.sigmoid(a)

        def slope(self, a, h, *, out=None):
            return 1.0001 * h * (1 - 1e3 * h)

    assert says(asked._activation, Small) == "Small.slope is not the derivative of value"


def test_an_activation_is_asked_on_the_same_numbers_of_both_signs_each_time():
    seen = []
    state = torch.get_rng_state()
    for _ in range(2):

        class Sees(Sigmoid):
            def value(self, a, *, out=None):
                seen.append(a.detach().clone())
                return super().value(a)

            def backward(self, dh, a, h, *, out=None):
                assert dh.dtype == torch.float64
                assert (dh < 0).any()
                assert (dh > 0).any()
                return super().backward(dh, a, h)

        asked._activation(Sees)
    assert torch.equal(torch.get_rng_state(), state)
    half = len(seen) // 2
    for first, again in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(first, again)
    assert {a.dtype for a in seen} == {torch.float64}
    assert seen[0].unique().numel() == 40
    assert (seen[0] < -1).any()
    assert (seen[0] > 1).any()


def test_a_constraint_is_asked_on_rows_of_every_length():
    seen = {}
    state = torch.get_rng_state()

    class Sees(MaxNorm):
        def project(self, W, c):
            seen.update(W=W.clone(), max_norm=c.max_norm.column, sigma=c.sigma.column)
            super().project(W, c)

    asked._constraint(Sees)
    assert torch.equal(torch.get_rng_state(), state)
    W, length = seen["W"], seen["W"].norm(dim=-1)
    assert W.dtype == torch.float64
    assert seen["max_norm"].unique().numel() == 2
    longer = length > seen["max_norm"]
    assert longer.any()
    assert (~longer & (length > 0)).any()
    assert ((length == 0).sum(), (seen["sigma"] == 0).all()) == (1, True)


def test_what_is_not_finite_is_near_nothing():
    class Nan(Sigmoid):
        def slope(self, a, h, *, out=None):
            return super().slope(a, h) * torch.nan

    assert says(asked._activation, Nan) == "Nan.slope is not the derivative of value"


def test_what_is_nearly_nothing_is_compared_with_a_millionth():
    class Tiny(Constraint):
        def project(self, W, c):
            W.mul_(1e-14)

        def norms(self, c):
            return 0.0, 1e-13

    # 1e-14 norm(W) for 1e-13: both are nothing.
    asked._constraint(Tiny)


class Zeros(UnitNorm):
    def project(self, W, c):
        W.div_(W.norm(dim=-1, keepdim=True))


class Scales(UnitNorm):
    unit_rows = False

    def norms(self, c):
        return 0.0, 1.0


class Shortens(MaxNorm):
    """As `MaxNorm` does, for another length."""

    def norms(self, c):
        return 0.0, c.sigma


class Rows(MaxNorm):
    unit_rows = True


class Decays(UnitNorm):
    def decay(self, c):
        return 0.1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Zeros, "Zeros.project does not leave a row of zeros as it is"),
        (Scales, "Scales.project is not to scale the rows as norms says"),
        (Shortens, "Shortens.project is not to scale the rows as norms says"),
        (Rows, "Rows.unit_rows is not what project leaves"),
        (Decays, "Decays.decay must return a coefficient of c, or None"),
    ],
)
def test_a_constraint_that_says_what_is_false_is_named(kind, words):
    assert says(asked._constraint, kind) == words


def test_a_constraint_may_keep_the_rows_above_a_length():
    class AtLeast(Constraint):
        def norms(self, c):
            return 0.3, float("inf")

    asked._constraint(AtLeast)


def model(kind: type[Model], activation: type[Activation] = Sigmoid, training=PLAIN) -> None:
    asked._model(kind, activation, training)


class Sees(AE):
    encoder_input: Any = SimpleNamespace(draws=0)


class Bias(CAE):
    def gradient(self, net, x, eps, s, c):
        whole = super().gradient(net, x, eps, s, c)
        return whole._replace(db=2 * whole.db)


class WritesX(AE):
    def gradient(self, net, x, eps, s, c):
        found = self._by_autograd(net, x, eps, s, c)
        x.add_(1)
        return found


class WritesNoise(MODELS["dae"]):
    def gradient(self, net, x, eps, s, c):
        found = super().gradient(net, x, eps, s, c)
        eps.add_(1)
        return found


class WritesWeights(AE):
    def gradient(self, net, x, eps, s, c):
        found = super().gradient(net, x, eps, s, c)
        net.b.add_(1)
        return found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Sees, "Sees.encoder_input is neither Clean, Corrupted nor Both"),
        (Bias, "Bias.gradient is not the derivative of value in b"),
        (WritesX, "WritesX.gradient writes to its arguments"),
        (WritesNoise, "WritesNoise.gradient writes to its arguments"),
        (WritesWeights, "WritesWeights.gradient writes to its arguments"),
    ],
)
def test_a_model_that_says_what_is_false_is_named(kind, words):
    assert says(model, kind) == words


def given(kind: type[Model], encoder_input: Any) -> dict[str, Any]:
    """What the class's `value` is asked with."""
    seen: dict[str, Any] = {}

    def value(self, W, b, x, eps, s, c):
        seen.update(W=W, b=b, x=x, eps=eps, s=s, c=c, training=self.training)
        return Model.value(self, W, b, x, eps, s, c)

    model(type("Asks", (kind,), {"value": value, "encoder_input": encoder_input}))
    return seen


@pytest.mark.parametrize(
    ("sees", "noise"),
    [(Clean(), None), (Corrupted(2), (2, 2, 5, 3)), (Clean(draws=1), (2, 1, 5, 3))],
)
def test_a_model_is_asked_in_double_precision_with_the_noise_that_it_draws(sees, noise):
    state = torch.get_rng_state()
    seen = given(Model, sees)
    assert torch.equal(torch.get_rng_state(), state)
    shapes = {name: tuple(seen[name].shape) for name in ("W", "b", "x")}
    assert shapes == {"W": (2, 4, 3), "b": (2, 4), "x": (2, 5, 3)}
    assert (None if seen["eps"] is None else tuple(seen["eps"].shape)) == noise
    tensors = [seen[name] for name in ("W", "b", "x", "eps") if seen[name] is not None]
    assert {tensor.dtype for tensor in tensors} == {torch.float64}
    assert seen["training"] is PLAIN
    # Members that differ, as those of a stack do, and none at a number that hides a mistake.
    for tensor in tensors:
        assert not torch.equal(tensor[0], tensor[1])
    assert seen["c"].sigma.column.square().flatten().tolist() == pytest.approx([0.3, 0.6])
    assert seen["c"].rho.column.flatten().tolist() == [0.0, 0.2]


def test_a_model_is_asked_with_its_own_keys_and_two_corruptions_at_most(monkeypatch):
    asks: list[tuple] = []
    monkeypatch.setattr(asked, "_model", lambda *which: asks.append(which))
    how = Training(gamma=0.5, q=3, corruptions=7, hidden_units=9, learning_rate=0.5)
    require_sound(CAE(how), Sigmoid(), UnitNorm())
    require_sound(CAE(dataclasses.replace(how, corruptions=1)), Sigmoid(), UnitNorm())
    expected = dataclasses.replace(PLAIN, gamma=0.5, q=3, corruptions=2)
    assert asks == [
        (CAE, Sigmoid, expected),
        (CAE, Sigmoid, dataclasses.replace(expected, corruptions=1)),
    ]


def test_each_part_is_asked():
    for kinds in ((Bias, Sigmoid, UnitNorm), (CAE, Linear, UnitNorm), (CAE, Sigmoid, Rows)):
        words = says(require_sound, kinds[0](PLAIN), kinds[1](), kinds[2]())
        assert words.partition(".")[0] in ("Bias", "Linear", "Rows")


def test_a_combination_is_asked_once():
    counted = []

    class Counts(Sigmoid):
        def value(self, a, *, out=None):
            counted.append(a)
            return super().value(a)

    require_sound(AE(PLAIN), Counts(), UnitNorm())
    once = len(counted)
    assert once
    require_sound(AE(dataclasses.replace(PLAIN, hidden_units=3)), Counts(), UnitNorm())
    assert len(counted) == once


def test_both_and_a_gate_are_asked_too():
    model(type("Sees", (MODELS["cae_h"],), {}), ReLU)
    assert isinstance(MODELS["cae_h"](PLAIN).encoder_input, Both)
    assert isinstance(ReLU.slope_in_h, Gate)


def test_a_method_of_another_class_that_is_missing_is_named_by_it():
    class Nothing(Sigmoid):
        def value(self, a, *, out=None):
            raise NotImplementedError

    assert says(asked._activation, Nothing) == "Nothing.value is missing"

    class Elsewhere(Sigmoid):
        def value(self, a, *, out=None):
            raise NotImplementedError("Part.method")

    assert says(asked._activation, Elsewhere) == "Part.method is missing"


@pytest.mark.parametrize("method", ["value", "gradient"])
def test_a_models_method_that_is_missing_is_named(method):
    def missing(*args: object) -> None:
        raise NotImplementedError

    kind = type("Mine", (AE,), {method: missing})
    assert says(model, kind) == f"Mine.{method} is missing"
