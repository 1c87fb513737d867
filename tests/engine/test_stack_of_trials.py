"""A stack as its callers see it: groups, the state, who has diverged and who trains on."""

import math

import pytest
import torch

from sparseae.engine.cuda_graph import Program
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from tests.engine.test_stack import data, trained, trials


@pytest.mark.parametrize(
    ("together", "sizes"), [(None, [1] * 6), (1, [1] * 6), (4, [4, 2]), (6, [6]), (9, [6])]
)
def test_members_step_in_groups_of_so_many_one_by_one_on_a_cpu(together, sizes):
    stack = Stack(trials(), data(), together=together)
    assert [group.W.shape[0] for group in stack.groups] == sizes
    assert stack.problem.together == (together or 1)
    for name in ("W", "V", "b", "vb", "parameters", "momentum", "probe"):
        joined = torch.cat([getattr(group, name) for group in stack.groups])
        assert joined.shape == getattr(stack, name).shape
        for group, start in zip(stack.groups, [0, *torch.tensor(sizes).cumsum(0)], strict=False):
            assert getattr(group, name).data_ptr() == getattr(stack, name)[start:].data_ptr()


@pytest.mark.parametrize("model", ["dae", "sae", "cae_h"])
def test_a_last_group_may_be_smaller_than_the_others(model):
    whole, parts = (trained(trials(model, "sigmoid"), data(), together=g) for g in (6, 4))
    torch.testing.assert_close(parts.W, whole.W)
    torch.testing.assert_close(parts.b, whole.b)


@pytest.mark.parametrize("at_once", [None, False, True])
@pytest.mark.parametrize("together", [1, 6])
def test_an_epoch_is_a_program_where_members_step_at_once_or_it_is_asked_for(together, at_once):
    stack = Stack(trials(), data(), together=together, at_once=at_once)
    assert isinstance(stack.program, Program) == (together == 6 if at_once is None else at_once)
    plain = trained(trials(), data(), epochs=2, together=together, at_once=False)
    for epoch in (1, 2):
        stack.train_epoch(epoch)
    assert torch.equal(stack.W, plain.W)


@pytest.mark.parametrize("units", [3, 8, 16, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_w_and_b_begins_on_a_cache_line(units, dtype):
    stack = Stack(trials(hidden_units=units), data(inputs=5), dtype=dtype)
    for tensors in ((stack.parameters, stack.W, stack.b), (stack.momentum, stack.V, stack.vb)):
        rows, matrices, vectors = tensors
        assert matrices.dtype == vectors.dtype == dtype
        for member in range(6):
            starts = [t[member].data_ptr() for t in (matrices, vectors)]
            assert [(start - rows.data_ptr()) % 64 for start in starts] == [0, 0]
            assert starts[1] - starts[0] >= units * 5 * dtype.itemsize
        assert rows.shape[1] * dtype.itemsize % 64 == 0


def test_a_stack_may_be_nowhere():
    stack = Stack(trials(), data(), device="meta")
    held = [stack.x, stack.W, stack.b, stack.parameters, stack.momentum, stack.probe]
    assert {t.device.type for t in held} == {"meta"}
    assert stack.device_name == "meta"
    assert stack.problem.together == 6  # as on a card
    assert Stack(trials(), data()).device_name == "cpu"


def test_a_stack_is_told_its_precision():
    assert Stack(trials(), data(), tf32=True).problem.tf32
    assert not Stack(trials(), data()).problem.tf32
    stack = Stack(trials(), data().double())
    assert stack.x.dtype == stack.W.dtype == torch.float32


@pytest.mark.parametrize("together", [1, 6])
def test_a_members_network_is_of_its_weights(together):
    stack = trained(trials("cae", "sigmoid"), data(), epochs=1, together=together, routine=TORCH)
    for member in range(6):
        net = stack.network(member)
        assert torch.equal(net.W, stack.W[member : member + 1])
        assert torch.equal(net.b, stack.b[member : member + 1])
        expected = stack.x @ stack.W[member].T + stack.b[member]
        torch.testing.assert_close(net.encode(stack.x.unsqueeze(0))[0], expected)


def test_what_the_next_epoch_depends_on_is_the_state():
    stack = trained(trials(), data(), epochs=2)
    state = stack.state_dict()
    assert set(state) == {"W", "V", "b", "vb", "diverged"}
    assert all(state[name] is getattr(stack, name) for name in state)
    assert all(state[name].any() for name in ("W", "V", "b", "vb"))
    kept = {name: tensor.clone() for name, tensor in state.items()}
    kept["diverged"][2] = True
    other = Stack(trials(), data())
    places = {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}
    other.load_state_dict(kept)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, kept[name])
        assert tensor.data_ptr() == places[name]


@pytest.mark.parametrize("how", ["missing", "more", "another shape"])
def test_what_is_not_its_state_is_refused(how):
    stack = trained(trials(), data(), epochs=1)
    before = stack.W.clone()
    state = {name: torch.zeros_like(tensor) for name, tensor in stack.state_dict().items()}
    if how == "missing":
        del state["vb"]
    elif how == "more":
        state["W2"] = state["W"]
    else:
        state["b"] = state["b"][:, :-1]
    with pytest.raises(ValueError, match=r"^the checkpoint is not one of this stack$"):
        stack.load_state_dict(state)
    assert torch.equal(stack.W, before)


@pytest.mark.parametrize("together", [1, 2, 6])
def test_a_group_of_which_one_trains_on_steps_and_one_of_which_none_does_stays(together):
    stack = Stack(trials(), data(), together=together)
    stack.diverged[[0, 1, 2]] = True
    before = stack.W.clone()
    stack.train_epoch(1)
    moved = (before != stack.W).flatten(1).any(1).tolist()
    assert (
        moved == {1: [False] * 3 + [True] * 3, 2: [False] * 2 + [True] * 4, 6: [True] * 6}[together]
    )
    assert stack.diverged.tolist() == [True] * 3 + [False] * 3


def test_where_all_have_diverged_nothing_is_drawn():
    stack = Stack(trials(), data())
    stack.diverged[:] = True
    stack.minibatches = None  # type: ignore[assignment]
    stack.train_epoch(1)
    assert stack.diverged.all()


def test_an_epoch_is_judged_by_its_own_steps():
    stack = trained(trials(), data(), epochs=1)
    stack.probe.fill_(math.inf)  # as of an epoch before
    stack.train_epoch(2)
    assert not stack.diverged.any()
    assert stack.probe.isfinite().all()


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("weight", [2.0, 0.5])
def test_a_weight_of_either_sign_that_is_not_finite_has_diverged(weight, together):
    """One step of one unit, from above its solution and from below it."""
    members = trials("ae", "relu", "none", sigma2=(0.0,), seeds=(0, 1), hidden_units=1,
                     learning_rate=1e38)  # fmt: skip
    stack = Stack(members, torch.full((10, 1), 2.0), together=together)
    stack.W.fill_(weight)
    stack.train_epoch(1)
    assert (math.copysign(math.inf, 1 - weight) == stack.W).all()
    assert stack.diverged.all()


@pytest.mark.parametrize("together", [1, 2])
def test_a_loss_that_is_not_finite_has_diverged_though_its_weights_are(together):
    members = trials("ae", "sigmoid", "none", sigma2=(0.0,), seeds=(0, 1), learning_rate=1e-30)
    stack = Stack(members, data() * 1e21, together=together)
    stack.train_epoch(1)
    assert stack.parameters.isfinite().all()
    assert stack.diverged.all()


def test_who_diverged_stays_so_whatever_its_weights_are():
    stack = Stack(trials(), data())
    stack.diverged[4] = True
    for epoch in (1, 2):
        stack.train_epoch(epoch)
    assert stack.diverged.tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({}, [1] * 6), ({"together": 6}, [6]), ({"together": 4}, [4, 2]),
     ({"together": 6, "measure_bytes": 1}, [1] * 6)],
)  # fmt: skip
def test_members_are_measured_in_groups_that_the_memory_holds(options, sizes):
    stack = trained(trials("sae", "sigmoid"), data(), epochs=1, **options)
    parts = stack.sums()
    assert [part[0].shape[0] for part in parts] == sizes
    samples = len(stack.x)
    active, squares = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    measured = stack.measure()
    torch.testing.assert_close(active / samples, measured.units.activation_fraction)
    torch.testing.assert_close(squares / samples, measured.reconstruction_error)


def test_a_measurement_takes_sigma2_in_float64():
    """0.09 is another number in float32."""
    stack = Stack(trials("cae", "sigmoid", sigma2=(0.09, 1.0), seeds=(0,)), data())
    stack.W[1], stack.b[1] = stack.W[0], stack.b[0]
    penalty = stack.measure().regularization
    assert (penalty[0] / penalty[1]).item() == pytest.approx(0.09, rel=1e-12)
