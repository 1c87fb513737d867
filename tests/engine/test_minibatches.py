"""The minibatches of an epoch: every sample once, in the seed's order, however they are cut."""

import itertools

import pytest
import torch

from sparseae.engine.minibatches import NOISE_BYTES, Minibatches
from sparseae.engine.randomness import generator, minibatch_order

SEEDS = (7, 2)
#: 2 x 50 x 300 numbers of 4 bytes: 34 steps are drawn at once, of 101 and a short one of 53 here.
SAMPLES, INPUTS, BATCH = 5053, 300, 50


def large(samples: int = SAMPLES, inputs: int = INPUTS, **kind) -> torch.Tensor:
    """Samples of which each entry tells which sample it is of."""
    return torch.arange(samples, **kind).float().unsqueeze(1).expand(-1, inputs)


def steps(minibatches: Minibatches, epoch: int):
    """The samples (S, B, n) and the noise (S, K, B, n) of each step."""
    for run in minibatches.runs(epoch):
        yield from zip(run.x, itertools.repeat(None) if run.eps is None else run.eps, strict=False)


@pytest.mark.parametrize("draws", [0, 1, 2])
def test_an_epoch_in_many_runs_is_each_seeds_order_cut_into_minibatches(draws):
    data = large()
    found = list(steps(Minibatches(data, SEEDS, BATCH, draws), 3))
    assert [x.shape for x, _ in found] == [(2, 50, INPUTS)] * 101 + [(2, 3, INPUTS)]
    for row, seed in enumerate(SEEDS):
        order = torch.cat([x[row] for x, _ in found])
        assert torch.equal(order, data[minibatch_order(seed, 3, SAMPLES)])


def test_each_seeds_noise_goes_on_from_step_to_step_and_begins_anew_with_the_epoch():
    minibatches = Minibatches(large(), SEEDS, BATCH, 2)
    list(minibatches.runs(1))  # of what was drawn before nothing is left
    streams = [generator(seed, "noise", 4) for seed in SEEDS]
    for x, eps in steps(minibatches, 4):
        for row, stream in enumerate(streams):
            drawn = torch.empty(2, x.shape[1], INPUTS).normal_(generator=stream)
            assert torch.equal(eps[row], drawn)


@pytest.mark.parametrize("draws", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_is_as_long_as_its_samples_or_its_noise_have_room(draws, dtype):
    runs = list(Minibatches(large().to(dtype), SEEDS, BATCH, draws).runs(1))
    *whole, _ = [run for run in runs if run.rows.shape[-1] == BATCH]
    for run in whole:
        of_step = (run.x[0] if run.eps is None else run.eps[0]).nbytes
        assert len(run.rows) * of_step <= NOISE_BYTES < (len(run.rows) + 1) * of_step
    assert len(whole) >= 2


@pytest.mark.parametrize("draws", [0, 1])
def test_a_minibatch_that_has_no_room_is_a_run_by_itself(draws):
    data = large(25, 1 + NOISE_BYTES // 40)
    runs = list(Minibatches(data, (1,), 10, draws).runs(1))
    assert [tuple(run.rows.shape) for run in runs] == [(1, 1, 10), (1, 1, 10), (1, 1, 5)]


def test_a_minibatch_may_be_all_samples_and_the_last_as_long_as_the_others():
    for samples, sizes in ((10, [10]), (20, [10, 10]), (9, [9]), (11, [10, 1])):
        found = steps(Minibatches(large(samples, 3), (0,), 10, 1), 1)
        assert [x.shape[1] for x, _ in found] == sizes


def test_what_draws_nothing_has_no_noise_and_what_is_nowhere_draws_nothing():
    quiet = Minibatches(large(12, 3), SEEDS, 5, 0)
    assert all(run.eps is None for run in quiet.runs(1))
    planned = Minibatches(large(12, 3, device="meta"), SEEDS, 5, 2)
    assert [run.eps.shape for run in planned.runs(1)] == [(2, 2, 2, 5, 3), (1, 2, 2, 2, 3)]
    assert all(run.eps.is_meta for run in planned.runs(1))
