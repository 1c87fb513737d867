"""The stacked engine: a member's numbers are the trial's own, whatever stack it ran in."""

import dataclasses
import itertools

import pytest
import torch

from sparseae.engine.choice import WHOLE
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.model import CONSTRAINTS, MODELS
from sparseae.model.coefficients import Coefficients
from sparseae.model.trial import Training, Trial
from tests.marks import with_c

TRAINING = Training(
    hidden_units=8,
    batch_size=10,
    learning_rate=0.002,
    corruptions=2,
    max_norm=0.8,
    weight_decay=0.1,
)


def data(samples: int = 57, inputs: int = 6) -> torch.Tensor:
    return torch.randn(samples, inputs, generator=torch.Generator().manual_seed(1))


def trials(
    model="dae",
    activation="relu",
    constraint="unit_norm",
    sigma2=(0.0, 0.25, 1.0),
    seeds=(0, 1),
    **training,
):
    return [
        Trial(model=model, activation=activation, sigma2=s2, constraint=constraint, dataset="d",
              seed=seed, training=dataclasses.replace(TRAINING, **training))
        for s2, seed in itertools.product(sigma2, seeds)
    ]  # fmt: skip


def trained(members, x, epochs=3, **options) -> Stack:
    stack = Stack(members, x, **options)
    for epoch in range(1, epochs + 1):
        stack.train_epoch(epoch)
    return stack


#: What makes a step: torch's operations, or C as far as that goes.
ROUTINES = [TORCH, pytest.param(TORCH + WHOLE, marks=with_c)]


@pytest.mark.parametrize("routine", ROUTINES)
@pytest.mark.parametrize("activation", ["softplus", "sigmoid"])  # of softplus no pass knows s'
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("model", MODELS)
def test_training_is_sgd_with_momentum_on_the_objective(model, constraint, activation, routine):
    """Against torch.optim.SGD on autograd's gradient, over the same minibatches and noise."""
    (trial,) = trials(model, activation, constraint, sigma2=(0.25,), seeds=(3,))
    x = data().double()
    stack = Stack([trial], x, dtype=torch.float64, routine=routine)
    W, b = (t.clone().requires_grad_() for t in (stack.W, stack.b))
    optimizer = torch.optim.SGD(
        [{"params": [W], "weight_decay": 0.1 if constraint == "weight_decay" else 0.0},
         {"params": [b]}], lr=0.002, momentum=0.9,
    )  # fmt: skip
    c = Coefficients(stack.W, [0.25])
    for epoch in (1, 2):
        for run in stack.minibatches.runs(epoch):
            for step, minibatch in enumerate(run.x):
                eps = None if run.eps is None else run.eps[step]
                optimizer.zero_grad()
                value = stack.problem.model.value
                value(W, b, minibatch, eps, stack.problem.activation, c).sum().backward()
                optimizer.step()
                with torch.no_grad():
                    norms = W.norm(dim=-1, keepdim=True)
                    if constraint == "unit_norm":
                        W /= norms
                    elif constraint == "max_norm":
                        W *= (0.8 / norms).clamp(max=1)
        stack.train_epoch(epoch)
    torch.testing.assert_close(stack.W, W.detach(), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(stack.b, b.detach(), rtol=1e-9, atol=1e-11)


def test_same_seed_shares_weights_order_and_noise():
    x = data()
    one = Stack(trials("dae", "relu", sigma2=(0.0,), seeds=(5,)), x)
    other = Stack(trials("edae", "sigmoid", "none", sigma2=(1.0,), seeds=(4, 5)), x)
    shared = torch.nn.functional.normalize(other.W[1], dim=-1)
    torch.testing.assert_close(one.W[0], shared)
    for run1, run2 in zip(one.minibatches.runs(1), other.minibatches.runs(1), strict=True):
        assert torch.equal(run1.x[:, 0], run2.x[:, 1])
        assert torch.equal(run1.eps[:, 0], run2.eps[:, 1])


def test_an_epoch_visits_every_sample_once():
    x = torch.arange(57.0).unsqueeze(1).expand(-1, 6)
    stack = Stack(trials(seeds=(0,)), x)
    seen = torch.cat([run.x[:, 0, :, 0].flatten() for run in stack.minibatches.runs(1)])
    assert torch.equal(seen.sort().values, torch.arange(57.0))
    again = torch.cat([run.x[:, 0, :, 0].flatten() for run in stack.minibatches.runs(2)])
    assert not torch.equal(seen, again)


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_diverged_member_harms_no_neighbour(routine):
    x = data() * 5
    calm = trials("cae", "softplus", "none", seeds=(0,), learning_rate=0.0005)
    wild = trials("cae", "softplus", "none", seeds=(0,), sigma2=(0.25,), learning_rate=50.0)
    stack = trained([calm[0], *wild, *calm[1:]], x, routine=routine)
    measured = stack.measure()
    assert measured.diverged.tolist() == [False, True, False, False]
    alone = trained(calm, x, routine=routine)
    assert torch.equal(stack.W[[0, 2, 3]], alone.W)
    assert torch.equal(measured.activation_fraction[[0, 2, 3]], alone.measure().activation_fraction)


def test_measurements_are_their_definitions():
    x = data()
    stack = trained(trials("cae", "sigmoid", "none"), x)
    measured = stack.measure()
    for row in range(stack.W.shape[0]):
        W, b = stack.W[row].double(), stack.b[row].double()
        a = x.double() @ W.T + b
        h = a.sigmoid()
        active = h > 0.1
        assert measured.activation_fraction[row] == pytest.approx(active.double().mean().item())
        assert measured.dead_units[row] == (~active.any(0)).sum()
        error = (h @ W - x).square().sum(1).mean().item()
        assert measured.reconstruction_error[row] == pytest.approx(error, rel=1e-5)
        penalty = ((h * (1 - h)).square() * W.square().sum(1)).sum(1).mean().item()
        sigma2 = stack.trials[row].sigma2
        assert measured.regularization[row] == pytest.approx(sigma2 * penalty, rel=1e-5)
        assert measured.pre_activation_mean[row] == pytest.approx(a.mean().item(), rel=1e-5)
        assert measured.bias_mean[row] == pytest.approx(b.mean().item(), rel=1e-5)
        assert measured.weight_norm_mean[row] == pytest.approx(W.norm(dim=1).mean().item())


@pytest.mark.parametrize("routine", ROUTINES)
def test_without_an_encoder_bias_it_stays_zero(routine):
    stack = trained(trials("sae", "sigmoid", encoder_bias=False), data(), routine=routine)
    assert not stack.b.any()


def test_a_state_goes_on_as_if_uninterrupted():
    x = data()
    through = trained(trials(), x, epochs=4)
    before = trained(trials(), x, epochs=2)
    resumed = Stack(trials(), x)
    resumed.load_state_dict({k: v.clone() for k, v in before.state_dict().items()})
    for epoch in (3, 4):
        resumed.train_epoch(epoch)
    assert torch.equal(resumed.W, through.W)
    assert torch.equal(resumed.b, through.b)


def test_what_cannot_share_a_stack_is_named():
    with pytest.raises(ValueError, match="activation"):
        Stack([*trials(activation="relu"), *trials(activation="tanh")], data())


def test_no_autograd_graph_is_made():
    stack = trained(trials("cae", "sigmoid"), data(), epochs=1)
    assert not stack.W.requires_grad
    assert stack.W.grad_fn is None
