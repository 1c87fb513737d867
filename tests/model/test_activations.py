"""What an activation says of itself (specification, "The mathematics")."""

import pytest
import torch

from sparseae.model import ACTIVATIONS
from sparseae.model.activations import Activation, Gate, Polynomial
from sparseae.model.trial import Training

FUNCTIONS = pytest.mark.parametrize("name", ACTIVATIONS)


def line(low=-6.0, high=6.0) -> torch.Tensor:
    return torch.linspace(low, high, 1200, dtype=torch.float64)  # neither 0 nor ties


def test_a_unit_of_relu_or_maxout_is_active_above_0_any_other_above_a_tenth():
    thresholds = {name: activation.threshold for name, activation in ACTIVATIONS.items()}
    assert thresholds == {"relu": 0, "softplus": 0.1, "sigmoid": 0.1, "tanh": 0.1, "maxout": 0}


@FUNCTIONS
def test_the_pre_activation_of_the_threshold_is_where_the_activation_is_reached(name):
    s = ACTIVATIONS[name]()
    if s.pre_threshold is None:
        assert name == "maxout"  # which piece won decides
        return
    at = torch.tensor([s.pre_threshold], dtype=torch.float64)
    assert s.value(at).item() == pytest.approx(s.threshold, rel=1e-12, abs=1e-300)


@FUNCTIONS
def test_what_is_called_piecewise_linear_has_no_curvature_and_no_other(name):
    s, a = ACTIVATIONS[name](), line()
    h = s.value(a)
    assert s.piecewise_linear == (not s.curvature(a, h).any())
    slopes = s.slope(a, h)
    assert s.piecewise_linear == set(slopes.tolist()).issubset({0.0, 1.0})


@FUNCTIONS
def test_what_is_called_kinked_has_a_slope_that_jumps_by_1_at_0(name):
    s = ACTIVATIONS[name]()
    around = torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
    below, above = s.slope(around, s.value(around)).tolist()
    if name != "maxout":  # a function of a pair
        assert s.kinked == (abs(above - below) == 1)


@FUNCTIONS
def test_a_slope_that_is_said_to_follow_from_h_does(name):
    s, a = ACTIVATIONS[name](), line()
    h = s.value(a)
    known = {"relu": Gate, "maxout": Gate, "sigmoid": Polynomial, "tanh": Polynomial}.get(name)
    assert (s.slope_in_h if known is None else type(s.slope_in_h)) is known
    if s.slope_in_h is not None:
        torch.testing.assert_close(s.slope_in_h.slope(h), s.slope(a, h), rtol=1e-12, atol=1e-15)


def test_an_activation_is_given_what_its_methods_take_and_nothing_else():
    class Some(Activation):
        def value(self, a):
            return 2 * a

        def slope(self, a, h, *, out=None):
            return torch.full_like(a, 2.0) if out is None else out.fill_(2.0)

        def curvature(self, a, h, *, slope=None):
            return torch.zeros_like(a) if slope is None else slope - 2

        def backward(self, dh, a, h):
            return 2 * dh

    s, a, room = Some(), torch.ones(3), torch.empty(3)
    assert s.value(a, out=room).tolist() == [2, 2, 2]
    assert s.slope(a, a, out=room) is room
    assert s.curvature(a, a, slope=torch.full((3,), 5.0), out=room).tolist() == [3, 3, 3]
    assert s.backward(a, a, a, out=room).tolist() == [2, 2, 2]
    assert room.tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["relu", "softplus", "sigmoid"])
def test_the_papers_activations_rise_and_saturate_at_0_from_the_left(name):
    s, a = ACTIVATIONS[name](), line()
    h = s.value(a)
    assert (h >= 0).all()
    assert (h.diff() >= 0).all()
    assert s.value(torch.full((1,), -50.0, dtype=torch.float64)).item() < 1e-20


def test_the_controls_do_not_saturate_at_0():
    far = torch.full((2,), -50.0, dtype=torch.float64)
    assert ACTIVATIONS["tanh"]().value(far).tolist() == pytest.approx([-1, -1])
    assert ACTIVATIONS["maxout"]().value(far).tolist() == [-50, 0]


def test_of_a_pair_maxout_passes_the_larger_and_of_two_equal_ones_the_first():
    s = ACTIVATIONS["maxout"]()
    a = torch.tensor([[1.0, 2.0, 3.0, -3.0, -2.0, -1.0, 5.0, 5.0, 0.0, -1.0]])
    h = s.value(a)
    assert h.tolist() == [[0, 2, 3, 0, 0, -1, 5, 0, 0, 0]]
    assert s.slope(a, h).tolist() == [[0, 1, 1, 0, 0, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("units", [1, 7, 1001])
def test_maxout_asks_for_pairs(units):
    assert str(units) in (ACTIVATIONS["maxout"].check(Training(hidden_units=units)) or "")
    assert ACTIVATIONS["maxout"].check(Training(hidden_units=units + 1)) is None
    assert ACTIVATIONS["relu"].check(Training(hidden_units=units)) is None


def test_softplus_is_nowhere_cut_to_the_identity():
    a = torch.tensor([25.0, 33.0], dtype=torch.float64)
    excess = ACTIVATIONS["softplus"]().value(a) - a
    assert excess.tolist() == pytest.approx(torch.exp(-a).tolist(), rel=1e-2)
