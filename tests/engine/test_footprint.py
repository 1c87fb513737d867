"""The memory of a stack on a GPU, counted on CPU tensors that take the same path."""

import pytest
import torch

from sparseae.engine.allocations import Allocations
from sparseae.engine.footprint import footprint
from sparseae.engine.measurements import measured_together
from sparseae.engine.stack import Stack
from sparseae.model import ACTIVATIONS, MODELS
from tests.engine.test_stack import trials


def counted(members, samples: int, inputs: int) -> int:
    """The most bytes that training an epoch and measuring hold."""
    with Allocations() as allocations:
        stack = Stack(
            members, torch.zeros(samples, inputs).normal_(), together=len(members), at_once=True
        )
        # The draws of the initial weights are over, and on the CPU.
        allocations.peak = 0
        stack.train_epoch(1)
        kept = stack.measure()
        stack.train_epoch(2)
    assert kept is not None
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
    ],
)
def test_the_memory_of_any_shape_is_predicted_within_a_tenth(
    model, training, seeds, samples, inputs
):
    members = trials(model, "sigmoid", seeds=seeds, **training)
    predicted = footprint(members, samples, inputs).allocated
    assert predicted == pytest.approx(counted(members, samples, inputs), rel=0.1)


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
