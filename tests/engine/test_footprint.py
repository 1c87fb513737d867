"""The memory of a stack on a GPU, counted on CPU tensors that take the same path."""

import dataclasses

import pytest
import torch

from sparseae.engine import footprint as module
from sparseae.engine.allocations import Allocations
from sparseae.engine.footprint import Footprint, flops, footprint
from sparseae.engine.measurements import measured_together
from sparseae.engine.stack import Stack
from sparseae.model import ACTIVATIONS, MODELS
from sparseae.model.objective import Model
from sparseae.model.trial import Training
from tests.engine.test_stack import trials


def counted(members, samples: int, inputs: int, *, measured: bool = True) -> int:
    """The most bytes that training an epoch and measuring hold."""
    with Allocations() as allocations:
        stack = Stack(
            members, torch.zeros(samples, inputs).normal_(), together=len(members), at_once=True
        )
        # The draws of the initial weights are over, and on the CPU.
        allocations.peak = 0
        stack.train_epoch(1)
        kept = stack.measure() if measured else None
        stack.train_epoch(2)
    assert (kept is not None) == measured
    return allocations.peak


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("model", MODELS)
def test_the_memory_of_any_model_is_predicted_within_a_tenth(model, activation):
    members = trials(model, activation, hidden_units=128, batch_size=50, corruptions=1)
    predicted = footprint(members, 510, 98).allocated
    assert predicted == pytest.approx(counted(members, 510, 98), rel=0.1)


@pytest.mark.parametrize("model", ["cae", "dae"])
@pytest.mark.parametrize(
    ("training", "seeds", "samples", "inputs"),
    [
        ({"hidden_units": 256, "batch_size": 50}, (0,), 600, 196),
        ({"hidden_units": 256, "batch_size": 50}, (0, 1, 2, 3), 600, 196),
        ({"hidden_units": 64, "batch_size": 200, "corruptions": 2}, (0, 1), 2000, 64),
        ({"hidden_units": 500, "batch_size": 10}, (0,), 300, 48),
        ({"hidden_units": 4000, "batch_size": 2}, (0,), 20, 2),
    ],
)
def test_the_memory_of_any_shape_is_predicted_within_a_tenth(
    model, training, seeds, samples, inputs
):
    members = trials(model, "sigmoid", seeds=seeds, **training)
    predicted = footprint(members, samples, inputs).allocated
    assert predicted == pytest.approx(counted(members, samples, inputs), rel=0.1)


@pytest.mark.parametrize("model", ["cae", "dae", "edae"])
def test_the_memory_of_training_alone_is_predicted_within_a_tenth(model):
    """Of large minibatches, whose noise is a fifth of it."""
    members = trials(model, "sigmoid", sigma2=(0.25,), hidden_units=48, batch_size=400)
    cost = footprint(members, 400, 64)
    predicted = cost.lasting + cost.step
    assert predicted == pytest.approx(counted(members, 400, 64, measured=False), rel=0.1)


def test_what_a_measurement_leaves_lasts():
    """Of many units and little else, which it says much of."""
    members = trials("dae", "sigmoid", seeds=(0,), hidden_units=4000, batch_size=1)
    with Allocations() as allocations:
        stack = Stack(members, torch.zeros(2, 1), together=len(members), at_once=True)
        stack.train_epoch(1)
        kept = stack.sums()
        held = allocations.held
    assert kept
    assert footprint(members, 2, 1).lasting == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize("model", ["cae", "cae_h", "dae2"])
def test_a_measurement_of_fewer_members_at_once_says_the_same(model):
    members, x = trials(model, "softplus"), torch.zeros(1100, 6).normal_()
    at_once = Stack(members, x, together=len(members)).measure()
    problem = Stack(members, x, together=len(members)).problem
    assert measured_together(problem, 8, room=1) == 1
    assert measured_together(problem, 8) > measured_together(problem, 8, room=1 << 20) > 1
    apart = Stack(members, x, together=len(members), measure_bytes=1).measure()
    assert torch.equal(at_once.dead_units, apart.dead_units)
    torch.testing.assert_close(at_once.regularization, apart.regularization)


def test_a_step_and_a_measurement_take_turns_and_a_card_keeps_both():
    for step, measuring in ((7, 3), (3, 7)):
        cost = Footprint(lasting=100, step=step, measuring=measuring)
        assert cost.allocated == 100 + 7
        # The graph's temporaries, the eager step's again, and 128 MiB for the GEMMs.
        assert cost.reserved == (128 << 20) + 100 + 2 * step + measuring


def test_more_samples_are_so_much_more_data_and_order():
    members = trials("dae", "relu")  # of two seeds
    some, more, many = (footprint(members, samples, 6) for samples in (600, 800, 2_000_600))
    assert more == dataclasses.replace(some, lasting=some.lasting + 200 * (4 * 6 + 8 * 2))
    assert many == dataclasses.replace(some, lasting=some.lasting + 2_000_000 * (4 * 6 + 8 * 2))


def test_fewer_members_at_once_take_less_to_step():
    members = trials("dae", "relu")
    assert footprint(members, 500, 6) == footprint(members, 500, 6, together=len(members))
    assert footprint(members, 500, 6, together=2).step < footprint(members, 500, 6).step


def test_which_seeds_makes_no_difference_but_how_many():
    one, other, alike = (
        trials("dae", sigma2=(0.0, 1.0), seeds=s) for s in ((0, 1), (7, 3), (5, 5))
    )
    assert footprint(one, 500, 6) == footprint(other, 500, 6) != footprint(alike, 500, 6)


def test_what_fits_no_machine_has_the_size_of_its_weights_momentum_and_a_minibatch():
    (member,) = trials("dae", sigma2=(0.25,), seeds=(0,), hidden_units=1 << 40, corruptions=2)
    inputs = 1 << 30
    weights, rows = (1 << 40) * inputs, 2 * member.training.batch_size
    numbers = 2 * 3 * weights + rows * ((1 << 40) + inputs)
    assert footprint([member] * 3, 500, inputs) == Footprint(4 * numbers, 0, 0)


@pytest.mark.parametrize("model", ["ae", "dae", "cae", "sae", "mdae", "dae_pairs"])
def test_the_products_of_a_known_form_are_those_that_its_steps_call(monkeypatch, model):
    (member,) = trials(model, "sigmoid", sigma2=(0.25,), seeds=(0,), corruptions=3)
    m, n = member.training.hidden_units, 11
    rows = MODELS[model](member.training).encoder_input.rows
    known = flops(member, n)
    # Encoding, decoding, back through the decoder, and both parts of the weight gradient.
    assert known == (5 * 2 * m * n * rows, 2 * 2 * m * n)
    monkeypatch.setattr(Model, "declared", False)
    module._flops.cache_clear()
    assert flops(member, n) == known
    module._flops.cache_clear()


def test_what_changes_neither_memory_nor_products_is_not_asked_twice():
    kept = Training(hidden_units=7, batch_size=3, corruptions=2, rho=0.1)
    other = dataclasses.replace(
        kept, epochs=9, learning_rate=0.5, samples=70, data_seed=3, whiten=True,
        standardize="sample",
    )  # fmt: skip
    assert module._shape(other) == module._shape(kept) == kept
