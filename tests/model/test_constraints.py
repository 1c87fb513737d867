"""Constraints on the weights, asked of a stack at its start and after updates."""

import dataclasses

import pytest
import torch

from sparseae.engine.randomness import initial_weights
from sparseae.engine.stack import Stack
from sparseae.model import CONSTRAINTS
from sparseae.model.coefficients import Coefficients
from sparseae.model.constraints import Constraint
from sparseae.model.trial import Training, Trial

TRAINING = Training(hidden_units=9, batch_size=10, learning_rate=0.01)


def members(constraint: str, *trainings: dict) -> list[Trial]:
    return [
        Trial(model="ae", activation="sigmoid", sigma2=0.0, constraint=constraint, dataset="d",
              seed=0, training=dataclasses.replace(TRAINING, **training))
        for training in trainings or ({},)
    ]  # fmt: skip


def data() -> torch.Tensor:
    return torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def stack(trials: list[Trial], epochs: int = 0) -> Stack:
    made = Stack(trials, data(), dtype=torch.float64)
    for epoch in range(1, epochs + 1):
        made.train_epoch(epoch)
    return made


def lengths(made: Stack, member: int = 0) -> torch.Tensor:
    return made.W[member].norm(dim=-1)


@pytest.mark.parametrize("epochs", [0, 3])
def test_every_row_has_length_1(epochs):
    made = stack(members("unit_norm"), epochs)
    torch.testing.assert_close(lengths(made), torch.ones(9, dtype=torch.float64))
    drawn = initial_weights(0, 9, 4).double()
    if not epochs:
        torch.testing.assert_close(made.W[0], drawn / drawn.norm(dim=1, keepdim=True))


def test_free_weights_begin_as_they_were_drawn_and_change_their_length():
    for constraint in ("none", "weight_decay"):
        assert torch.equal(stack(members(constraint)).W[0], initial_weights(0, 9, 4).double())
        before, after = (lengths(stack(members(constraint), epochs)) for epochs in (0, 3))
        assert ((after - before).abs() > 1e-6).all()


@pytest.mark.parametrize("epochs", [0, 3])
def test_no_row_is_longer_than_each_members_own_max_norm(epochs):
    drawn = initial_weights(0, 9, 4).double()
    some = drawn.norm(dim=1).median().item()
    limits = (some, some / 2, 1e9)
    made = stack(members("max_norm", *({"max_norm": limit} for limit in limits)), epochs)
    for member, limit in enumerate(limits):
        assert (lengths(made, member) <= limit * (1 + 1e-12)).all()
    if not epochs:
        short = drawn.norm(dim=1) <= some
        assert torch.equal(made.W[0][short], drawn[short])
        directions = made.W[0] / lengths(made).unsqueeze(1)
        torch.testing.assert_close(directions, drawn / drawn.norm(dim=1, keepdim=True))
    assert lengths(made, 0).max() == pytest.approx(some)
    free = stack(members("none"), epochs)
    torch.testing.assert_close(made.W[2], free.W[0])


def test_each_members_own_decay_is_half_the_squared_norms_gradient():
    coefficients = (0.0, 0.5, 2.0)
    trainings = ({"weight_decay": c, "batch_size": 60, "momentum": 0.0} for c in coefficients)
    made = stack(members("weight_decay", *trainings), 1)
    drawn = initial_weights(0, 9, 4).double()
    for member, c in enumerate(coefficients):
        expected = made.W[0] - TRAINING.learning_rate * c * drawn
        torch.testing.assert_close(made.W[member], expected)
        torch.testing.assert_close(made.b[member], made.b[0])  # no bias is decayed


@pytest.mark.parametrize("constraint", ["unit_norm", "max_norm", "none", "weight_decay"])
def test_a_row_of_zeros_has_no_direction_and_harms_nobody(constraint):
    made = stack(members(constraint))
    made.W[0, 3] = 0
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    again = stack(members(constraint))
    again.load_state_dict(state)
    again.train_epoch(1)
    assert again.W.isfinite().all()
    assert not again.diverged.any()


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_what_a_constraint_does_is_to_keep_rows_between_the_lengths_that_it_names(name):
    """A step in C is told of the lengths alone."""
    trials = members(name, {"max_norm": 0.3}, {"max_norm": 0.6})
    made, s = stack(trials), CONSTRAINTS[name]()
    W = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 4
    assert (W.norm(dim=-1) < 0.3).any()
    assert (W.norm(dim=-1) > 0.6).any()
    c = Coefficients.of(trials, made.W)
    if s.norms(c) is None:
        return
    projected, kept = W.clone(), W.clone()
    s.project(projected, c)
    Constraint.project(s, kept, c)
    torch.testing.assert_close(projected, kept)
