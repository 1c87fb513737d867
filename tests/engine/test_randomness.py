"""Common random numbers: what a seed decides, and nothing else does."""

import itertools

import pytest
import torch

from sparseae.engine.randomness import generator, initial_weights, minibatch_order, stream_seed

SEEDS = [0, 1, 2, 3, 17]


def noise(seed: int, epoch: int = 1) -> torch.Tensor:
    return torch.empty(40).normal_(generator=generator(seed, "noise", epoch))


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: initial_weights(seed, 20, 10),
        lambda seed: minibatch_order(seed, 1, 100),
        noise,
    ],
    ids=["weights", "order", "noise"],
)
def test_each_seed_has_its_own_and_always_the_same(draw):
    for one, other in itertools.combinations(SEEDS, 2):
        assert not torch.equal(draw(one), draw(other))
    for seed in SEEDS:
        assert torch.equal(draw(seed), draw(seed))


@pytest.mark.parametrize(
    "draw", [lambda epoch: minibatch_order(5, epoch, 100), lambda epoch: noise(5, epoch)]
)
def test_each_epoch_has_its_own_order_and_noise(draw):
    for one, other in itertools.combinations(range(1, 6), 2):
        assert not torch.equal(draw(one), draw(other))


def test_streams_of_different_purposes_seeds_and_epochs_are_different():
    named = itertools.product(SEEDS, ["weights", "order", "noise", "measure"], range(4))
    seeds = [stream_seed(*name) for name in named]
    assert len(set(seeds)) == len(seeds)


def test_a_stream_depends_on_nothing_that_was_drawn_before():
    first = noise(3)
    torch.manual_seed(99)
    torch.rand(7)
    minibatch_order(3, 2, 50)
    assert torch.equal(noise(3), first)


def test_an_order_is_a_permutation_of_all_samples():
    order = minibatch_order(4, 2, 501)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(501))
    # Of a random one about one sample stands in its place.
    assert (order == torch.arange(501)).sum() < 10


def test_weights_are_glorot_uniform():
    weights = initial_weights(1, 300, 200)
    bound = (6 / 500) ** 0.5
    assert weights.shape == (300, 200)
    assert weights.dtype == torch.float32
    assert weights.abs().max() <= bound
    # 60,000 draws: five standard errors of the mean, of the variance and of the extremes.
    assert weights.mean().abs() < 5 * bound / (3 * 60_000) ** 0.5
    assert weights.square().mean() == pytest.approx(bound**2 / 3, rel=5 * 0.9 / 60_000**0.5)
    assert weights.min() < -0.999 * bound
    assert weights.max() > 0.999 * bound


def test_sweeps_that_were_begun_go_on_with_the_streams_that_they_had():
    assert stream_seed(0, "weights") == 664910812957149500
    assert stream_seed(3, "order", 2) == 5395776396005811069
    assert stream_seed(12, "noise", 7) == 4691079853890867762
    assert generator(12, "noise", 7).initial_seed() == stream_seed(12, "noise", 7)
    assert generator(5, "measure").initial_seed() == stream_seed(5, "measure", 0)
    assert minibatch_order(3, 2, 8).tolist() == [0, 5, 3, 4, 1, 6, 2, 7]
    assert initial_weights(0, 2, 2).flatten().tolist() == pytest.approx(
        [-1.165603, 0.178896, 0.381555, 0.09608], abs=1e-6
    )
    with pytest.raises(RuntimeError):
        generator(0, "noise", device="no such device")
