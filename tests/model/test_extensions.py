"""What someone adds, knowing CONTRIBUTING and the base class alone: right numbers, or one refusal.

Each trains in every way of a CPU, against the built-in class that it repeats or against autograd.
"""

import dataclasses

import pytest
import torch

from sparseae.engine.choice import WHOLE
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
from sparseae.model.activations import Activation, Gate, Polynomial, ReLU, Sigmoid
from sparseae.model.constraints import Constraint, UnitNorm
from sparseae.model.contract import UnsoundError
from sparseae.model.forms import Clean, Corrupted, OfMean, OfSlope, Penalty
from sparseae.model.objective import Model, squared_error
from sparseae.model.penalties import AE, CAE
from sparseae.model.trial import Training, Trial
from tests.marks import with_c

TRAINING = Training(
    hidden_units=8, batch_size=10, learning_rate=0.002, corruptions=2, weight_decay=0.1
)
WAYS = [
    pytest.param({"routine": TORCH}, id="torch"),
    pytest.param({"routine": TORCH, "together": 4}, id="torch-at-once"),
    pytest.param({"routine": TORCH + WHOLE}, id="c", marks=with_c),
]
in_every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def registries():
    """What a test registers is forgotten."""
    kept = [(registry, dict(registry)) for registry in (MODELS, ACTIVATIONS, CONSTRAINTS)]
    yield
    for registry, names in kept:
        registry.clear()
        registry.update(names)


def trained(way, model="cae", activation="sigmoid", constraint="unit_norm", **training) -> Stack:
    how = dataclasses.replace(TRAINING, **training)
    members = [
        Trial(model=model, activation=activation, sigma2=s2, constraint=constraint, dataset="d",
              seed=seed, training=how)
        for s2 in (0.0, 0.25) for seed in (0, 1)
    ]  # fmt: skip
    x = torch.randn(57, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stack = Stack(members, x, dtype=torch.float64, **way)
    for epoch in (1, 2):
        stack.train_epoch(epoch)
    return stack


def assert_same(one: Stack, other: Stack) -> None:
    torch.testing.assert_close(one.W, other.W, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(one.b, other.b, rtol=1e-9, atol=1e-11)
    for mine, known in zip(one.measure().rows(), other.measure().rows(), strict=True):
        assert mine.pop("status") == known.pop("status")
        assert mine == pytest.approx(known, rel=1e-9)


@in_every_way
@pytest.mark.parametrize("model", MODELS)
def test_an_activation_of_value_alone_is_differentiated(way, model):
    class Mine(Activation):
        name = "mine"

        def value(self, a):
            return torch.sigmoid(a)

    assert_same(trained(way, model, "mine"), trained(way, model, "sigmoid"))


@in_every_way
@pytest.mark.parametrize("slope_in_h", [None, Polynomial(0.0, 1.0, -1.0)])
def test_an_activation_may_ignore_out(way, slope_in_h):
    class Mine(Sigmoid):
        name = "mine"

        def value(self, a, *, out=None):
            return torch.sigmoid(a)

        def slope(self, a, h, *, out=None):
            return h * (1 - h)

        def backward(self, dh, a, h, *, out=None):
            return dh * h * (1 - h)

    Mine.slope_in_h = slope_in_h
    assert_same(trained(way, "cae", "mine"), trained(way, "cae", "sigmoid"))


@in_every_way
@pytest.mark.parametrize("model", ["cae", "mdae", "corollary2", "cae_h", "dae2"])
def test_a_leaky_relus_slopes_are_not_taken_for_0_and_1(way, model):
    class Leaky(Activation):
        name = "leaky"
        piecewise_linear = True

        def value(self, a):
            return torch.where(a > 0, a, 0.2 * a)

        def slope(self, a, h):
            return torch.where(a > 0, torch.ones_like(a), 0.2)

    class Plain(Activation):
        name = "plain"

        def value(self, a):
            return torch.where(a > 0, a, 0.2 * a)

    keys = {"q": 3, "p": 2} if model == "corollary2" else {}
    assert_same(trained(way, model, "leaky", **keys), trained(way, model, "plain", **keys))


@in_every_way
@pytest.mark.parametrize("model", MODELS)
def test_elu_needs_nothing_but_its_mathematics(way, model):
    class ELU(Activation):
        name = "elu"

        def value(self, a):
            return torch.nn.functional.elu(a)

        def slope(self, a, h):
            return torch.where(a > 0, torch.ones_like(a), h + 1)

        def curvature(self, a, h):
            return torch.where(a > 0, torch.zeros_like(a), h + 1)

    class Plain(Activation):
        name = "plain"

        def value(self, a):
            return torch.where(a > 0, a, torch.expm1(a))

    assert_same(trained(way, model, "elu"), trained(way, model, "plain"))


@in_every_way
def test_a_model_of_value_alone_is_differentiated(way):
    class Mine(Model):
        name = "mine"

        def value(self, W, b, x, eps, s, c):
            a = x @ W.mT + b.unsqueeze(1)
            h = s.value(a)
            slopes = s.slope(a, h).square().mean(1) * W.square().sum(-1)
            return squared_error(h @ W, x) + c.lam.times(slopes).sum(-1)

    mine, cae = trained(way, "mine"), trained(way, "cae")
    torch.testing.assert_close(mine.W, cae.W, rtol=1e-9, atol=1e-11)
    # Nothing says what its R averages over the samples.
    assert mine.measure().regularization is None


@in_every_way
def test_a_corrupting_model_of_value_alone_gets_its_noise(way):
    class Mine(Model):
        name = "mine"

        def __init__(self, training=None):
            super().__init__(training)
            self.encoder_input = Corrupted(self.training.corruptions)

        def value(self, W, b, x, eps, s, c):
            losses = [
                squared_error(s.value((x + c.sigma.times(e)) @ W.mT + b.unsqueeze(1)) @ W, x)
                for e in eps.unbind(1)
            ]
            return torch.stack(losses).mean(0)

    mine, dae = trained(way, "mine"), trained(way, "dae")
    torch.testing.assert_close(mine.W, dae.W, rtol=1e-9, atol=1e-11)


@in_every_way
@pytest.mark.parametrize("activation", ["sigmoid", "softplus", "relu"])
@pytest.mark.parametrize("constraint", ["unit_norm", "none"])
@pytest.mark.parametrize(
    "added", [OfSlope(2, 2), OfSlope(2, 4), OfMean(lambda rho, target: rho.square())]
)
def test_a_model_may_corrupt_its_input_and_have_a_penalty(way, added, constraint, activation):
    """Of which a mean over the rows is one over all copies of a sample."""

    class Mine(Model):
        name = "mine"
        penalty = added

        def __init__(self, training=None):
            super().__init__(training)
            self.encoder_input = Corrupted(self.training.corruptions)

    class Same(Mine):
        name = "same"

        def value(self, *given):
            return super().value(*given)

    mine, same = (trained(way, name, activation, constraint) for name in ("mine", "same"))
    torch.testing.assert_close(mine.W, same.W, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(mine.b, same.b, rtol=1e-9, atol=1e-11)


@in_every_way
def test_noise_that_a_model_draws_for_itself_does_not_corrupt_its_input(way):
    class Mine(CAE):
        name = "mine"
        encoder_input = Clean(draws=2)

    assert_same(trained(way, "mine"), trained(way, "cae"))


@in_every_way
@pytest.mark.parametrize("f_slope", [None, lambda rho, target: 2 * rho])
def test_a_model_by_f_and_its_derivative_or_f_alone(way, f_slope):
    class Mine(Model):
        name = "mine"
        penalty = OfMean(lambda rho, target: rho.square(), f_slope)

    assert_same(trained(way, "mine"), trained(way, "corollary1", f="square"))


@in_every_way
def test_a_model_by_a_penalty_of_value_alone(way):
    class Cubed(Penalty):
        def value(self, a, h, W, s, c):
            slopes = s.slope(a, h).pow(3).mean(1) * W.square().sum(-1)
            return c.lam.times(slopes).sum(-1)

    class Mine(AE):
        name = "mine"
        penalty = Cubed()

    mine, known = trained(way, "mine"), trained(way, "corollary2", q=3, p=2)
    torch.testing.assert_close(mine.W, known.W, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(mine.b, known.b, rtol=1e-9, atol=1e-11)


@in_every_way
def test_a_model_that_overrides_a_gradient_is_trained_by_it(way):
    class Mine(CAE):
        name = "mine"
        penalty = OfSlope(2, 4)
        calls = 0

        def gradient(self, net, x, eps, s, c):
            Mine.calls += 1
            return super().gradient(net, x, eps, s, c)

    assert_same(trained(way, "mine"), trained(way, "mdae"))
    assert Mine.calls > 6


@in_every_way
def test_a_constraint_by_the_lengths_of_rows(way):
    class Half(Constraint):
        name = "half"

        def norms(self, c):
            return 0.5, 0.5

    stack = trained(way, constraint="half")
    torch.testing.assert_close(stack.W.norm(dim=-1), torch.full((4, 8), 0.5, dtype=torch.float64))


@in_every_way
@pytest.mark.parametrize("model", ["cae", "edae"])  # of a known form, and of none
def test_a_constraint_by_what_it_does(way, model):
    class Positive(Constraint):
        name = "positive"

        def project(self, W, c):
            torch.minimum(W.clamp_(min=0), c.max_norm.column.unsqueeze(-1), out=W)

        def decay(self, c):
            return c.weight_decay

    stack = trained(way, model, constraint="positive", max_norm=0.4)
    assert (stack.W >= 0).all()
    assert (stack.W == 0.4).any()
    plain = trained({"routine": TORCH}, model, constraint="positive", max_norm=0.4)
    torch.testing.assert_close(stack.W, plain.W, rtol=1e-9, atol=1e-11)


def refused(**names) -> str:
    with pytest.raises(UnsoundError) as refusal:
        trained({"routine": TORCH}, **names)
    return str(refusal.value)


def test_half_a_gradient_is_refused_by_class_and_method():
    class Wrong(Sigmoid):
        name = "wrong"

        def slope(self, a, h, *, out=None):
            return h

    assert refused(activation="wrong").startswith("Wrong.slope is not the derivative of value")

    class Steep(Sigmoid):
        name = "steep"

        def value(self, a, *, out=None):
            return torch.sigmoid(2 * a)

    assert refused(activation="steep").startswith("Steep.slope is not")

    class Leaky(ReLU):  # ReLU's slopes are 0 and 1
        name = "leaky"

        def value(self, a, *, out=None):
            return torch.where(a > 0, a, 0.2 * a)

        def slope(self, a, h, *, out=None):
            return torch.where(a > 0, torch.ones_like(a), 0.2)

    assert refused(activation="leaky").startswith("Leaky.backward is not slope times dh")

    class Gated(Activation):
        name = "gated"
        piecewise_linear = True
        slope_in_h = Gate()

        def value(self, a):
            return torch.where(a > 0, a, 0.2 * a)

    assert refused(activation="gated").startswith("Gated.slope_in_h is not slope")

    class Curved(Activation):
        name = "curved"
        piecewise_linear = True

        def value(self, a):
            return torch.sigmoid(a)

    assert refused(activation="curved").startswith("Curved.piecewise_linear is True, but")


def test_a_model_whose_gradient_is_another_is_refused():
    class Wrong(CAE):
        name = "wrong"

        def gradient(self, net, x, eps, s, c):
            whole = super().gradient(net, x, eps, s, c)
            return whole._replace(row_factors=None)

    assert refused(model="wrong") == "Wrong.gradient is not the derivative of value in W"

    class Inherits(MODELS["edae"]):
        name = "inherits"

        def value(self, W, b, x, eps, s, c):
            return 2 * super().value(W, b, x, eps, s, c)

    assert refused(model="inherits").startswith("Inherits.gradient is not the derivative")

    class One(Model):
        name = "one"

        def value(self, W, b, x, eps, s, c):
            return super().value(W, b, x, eps, s, c).sum()

    assert refused(model="one") == "One.value has shape () for two members, not (2,)"


def test_what_is_missing_is_named():
    class Empty(Activation):
        name = "empty"

    assert refused(activation="empty") == "Empty.value is missing"

    class Nothing(Penalty):
        pass

    class Mine(Model):
        name = "mine"
        penalty = Nothing()

    assert refused(model="mine") == "Nothing.value is missing"


def test_a_constraint_that_does_not_do_what_it_says_is_refused():
    class Double(UnitNorm):
        name = "double"

        def norms(self, c):
            return 2.0, 2.0

    assert refused(constraint="double").startswith("Double.project is not to scale the rows")

    class Longer(Constraint):
        name = "longer"
        unit_rows = True

        def norms(self, c):
            return 2.0, 2.0

    assert refused(constraint="longer").startswith("Longer.unit_rows is not")


def test_a_new_key_of_training_changes_no_trial_id():
    """Only the first keys are always part of the identity: there is no list to forget one in."""
    from sparseae.model import trial

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Extended(Training):
        new_key: float = 1.0

    def of(training) -> str:
        return Trial(model="ae", activation="relu", sigma2=0.0, constraint="none", dataset="d",
                     seed=0, training=training).trial_id  # fmt: skip

    assert of(Extended()) == of(Training())
    assert of(Extended(new_key=2.0)) != of(Training())
    assert "new_key" not in trial.FIRST_KEYS
