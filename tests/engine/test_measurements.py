"""What is measured of a stack, member by member, against `tests.reference`."""

import math

import pytest
import torch

from sparseae.engine.allocations import Allocations
from sparseae.engine.measurements import BATCHED_ROWS, Measurer, measured_together
from sparseae.engine.stack import Stack
from sparseae.model.coefficients import Coefficients
from tests import reference
from tests.engine.test_stack import data, trials

#: Of a member alone, of several at once, and of several of which two are measured at once.
WAYS = [{}, {"together": 6}, {"together": 6, "measure_bytes": 1 << 17}]
in_every_way = pytest.mark.parametrize("way", WAYS)

#: Both kinds of chunk, of 250 and of 500 samples, have a short last one.
SAMPLES = 1101


def stack_of(model="cae", activation="sigmoid", way=WAYS[0], dtype=torch.float64) -> Stack:
    """Untrained, with biases, two dead units, and one that is active for a single sample."""
    members = trials(model, activation, "none", max_norm=1.0)
    stack = Stack(members, data(SAMPLES).to(dtype), dtype=dtype, **way)
    stack.b.copy_(torch.linspace(-0.5, 0.5, 6 * 8).view(6, 8))
    stack.b[:, [2, 6]] = -100
    a = stack.x @ stack.W[:, 5].T
    one, other = a.topk(2, dim=0).values.unbind()
    stack.b[:, 5] = (stack.problem.activation.pre_threshold or 0.0) - (one + other) / 2
    return stack


@in_every_way
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("model", ["ae", "cae", "sae", "dae2", "mdae"])
def test_every_number_is_its_definition(model, activation, way):
    stack = stack_of(model, activation, way)
    measured = stack.measure()
    assert not measured.diverged.any()
    for member, row in enumerate(measured.rows()):
        W, b = stack.W[member], stack.b[member]
        trial = stack.trials[member]
        columns, units, _ = reference.measure(trial, W, b, stack.x, torch.float64)
        known = {name: value for name, value in columns.items() if value is not None}
        assert row.pop("status") == "ok"
        assert row == pytest.approx(known, rel=1e-9, abs=1e-12)
        assert row["dead_units"] == 2
        assert units["activation_fraction"][5] == pytest.approx(1 / SAMPLES)
        for name, values in units.items():
            found = getattr(measured.units, name)[member]
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, values.double(), rtol=1e-9, atol=1e-12)


@in_every_way
@pytest.mark.parametrize("model", ["cae_h", "dae_pairs"])
def test_a_measurement_is_the_same_twice_and_of_each_member_alone(model, way):
    stack = stack_of(model, "softplus", way)
    one, again = stack.measure().rows(), stack.measure().rows()
    assert one == again
    apart = {k: v for k, v in way.items() if k == "together"}
    for member in (0, 3):
        alone = Stack(stack.trials[member : member + 1], stack.x, dtype=torch.float64,
                      at_once=bool(apart))  # fmt: skip
        alone.W.copy_(stack.W[member : member + 1])
        alone.b.copy_(stack.b[member : member + 1])
        mine = alone.measure().rows()[0]
        assert mine.pop("status") == one[member].pop("status")
        assert mine == pytest.approx(one[member], rel=1e-9)


@in_every_way
@pytest.mark.parametrize("model", ["cae", "ae"])
@pytest.mark.parametrize("lost", [[1], [0, 1, 2, 3, 4, 5], [4, 5], [0, 1]])
def test_a_member_that_diverged_before_is_not_measured_and_the_others_are(model, lost, way):
    calm, stack = (stack_of(model, way=way, dtype=torch.float32) for _ in range(2))
    calm = calm.measure().rows()
    stack.diverged[lost] = True
    stack.W[lost] = math.nan
    measured = stack.measure()
    assert measured.diverged.nonzero().flatten().tolist() == lost
    for member, row in enumerate(measured.rows()):
        assert row == ({"status": "diverged"} if member in lost else calm[member])
    assert measured.units.bias.shape == measured.units.weight_norm.shape == (6, 8)
    assert measured.dead_units.dtype == torch.int64
    assert measured.activation_fraction.dtype == measured.units.weight_norm.dtype == torch.float64
    stack.diverged[:] = True
    assert measured.diverged.sum() == len(lost)  # what was measured stays


@in_every_way
def test_a_member_whose_loss_is_not_finite_diverges_here(way):
    stack = stack_of(way=way, dtype=torch.float32)
    stack.W[3] *= 1e30  # finite, and its square is not
    assert stack.measure().diverged.tolist() == [False] * 3 + [True] + [False] * 2
    assert stack.diverged[3]
    assert stack.measure().rows()[3] == {"status": "diverged"}


def test_a_penalty_that_is_not_finite_is_a_loss_that_is_not():
    stack = stack_of("mdae")
    stack.W[2] *= 1e80  # whose fourth power is more than float64 holds, and whose square is not
    assert stack.measure().diverged.tolist() == [False] * 2 + [True] + [False] * 3


class OnCard(torch.Tensor):
    """Samples that say of themselves that they lie on a card."""

    device = property(lambda self: torch.device("cuda"))  # type: ignore[assignment]


@pytest.mark.parametrize("samples", [100, 500, 1101])
def test_a_cards_mean_sample_is_made_chunk_by_chunk(samples):
    stack = Stack(trials(), data(samples) + 3, together=6)
    for x in (stack.x, stack.x.as_subclass(OnCard)):
        measurer = Measurer(stack.problem, Coefficients.of(stack.trials, stack.W), x, stack.W,
                            stack.b, None, 1)  # fmt: skip
        mean = measurer.data_mean
        assert mean.dtype == torch.float64
        assert mean.tolist() == pytest.approx(stack.x.double().mean(0).tolist())
    assert torch.equal(stack.data_mean, stack.x.double().mean(0))


def test_a_single_input_is_measured_at_once_too():
    stack = Stack(trials(), data(20, 1), together=6)
    assert stack.measure().activation_fraction.shape == (6,)


@pytest.mark.parametrize("model", ["cae", "dae2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_as_many_members_are_measured_at_once_as_a_room_holds(model, dtype):
    members = trials(model, "softplus", hidden_units=40)
    x = data(2 * BATCHED_ROWS, 30).to(dtype)
    stack = Stack(members, x, together=6, dtype=dtype)
    room = 4 << 20
    most = measured_together(stack.problem, 40, room)
    assert most > 1
    W, b = (t[:1].repeat(most, *[1] * (t.dim() - 1)) for t in (stack.W, stack.b))
    measurer = Measurer(stack.problem, Coefficients(W, [1.0] * most), x, W, b, None, most)
    assert measurer.data_mean.isfinite().all()  # which is there once for all
    with torch.inference_mode(), Allocations() as counted:
        measurer.sums(W, b)
    assert 0.9 * room * most / (most + 1) <= counted.peak <= 1.02 * room
