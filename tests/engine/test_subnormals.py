"""Training has no subnormal numbers, which cost a CPU a hundred times a normal one's work."""

import pytest
import torch

from sparseae.engine.choice import IN_C, WHOLE
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.engine.subnormals import subnormals_are_zero
from tests.engine.test_stack import data, trials
from tests.marks import with_c

#: Subnormal in float32.
SMALL = 1e-40


def subnormal(t: torch.Tensor) -> int:
    """How many numbers are subnormal, by their bits: a comparison may take them for zero."""
    bits = t.contiguous().view(torch.int32) & 0x7FFFFFFF
    return int(((bits > 0) & (bits < 0x00800000)).sum())


def computes_with_them() -> bool:
    return subnormal(torch.full((4,), SMALL) * 0.5) == 4


@pytest.mark.parametrize(
    "routine",
    [TORCH, *(pytest.param(TORCH + how, marks=with_c) for how in (IN_C, WHOLE))],
)
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_an_epoch_leaves_none(routine, activation):
    """The momentum of a unit that died, and the weights of an input that is always zero."""
    x = data()
    x[:, 2] = 0.0
    members = trials(activation=activation, constraint="none", sigma2=(0.0,), momentum=0.9)
    stack = Stack(members, x, routine=routine)
    stack.W[..., 2] = SMALL
    stack.V[..., 2] = SMALL
    stack.b[:, 0], stack.V[:, 0], stack.vb[:, 0] = -1e3, SMALL, SMALL
    assert subnormal(stack.V) > 0
    stack.train_epoch(1)
    assert [subnormal(t) for t in (stack.W, stack.V, stack.b, stack.vb)] == [0, 0, 0, 0]


def test_the_process_keeps_what_it_had():
    stack = Stack(trials(), data())
    assert computes_with_them()
    try:
        for own in (False, True):
            torch.set_flush_denormal(own)
            stack.train_epoch(1)
            stack.measure()
            assert computes_with_them() is not own
            with pytest.raises(ZeroDivisionError), subnormals_are_zero():
                assert not computes_with_them()
                raise ZeroDivisionError
            assert computes_with_them() is not own
    finally:
        torch.set_flush_denormal(False)
