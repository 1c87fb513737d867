"""The theory's columns and terms, each made once more from its definition in docs/theory.md."""

import math
import statistics

import pytest
import torch

from sparseae.engine.randomness import generator
from sparseae.engine.stack import Stack
from sparseae.results.schema import THEORY_FIELDS
from sparseae.theory.terms import Probe, Theory, UnitTheory, cantelli, kink_gradient
from tests import reference
from tests.theory.test_terms import data, trained, trials

NAN = math.nan

#: By unit, of two members and of the same an epoch before: all that a share or a mean counts.
UNITS = {
    "ae_bias_gradient": [[0.5, -1.0, 2.0, -3.0], [0.1, 0.2, -0.4, 0.3]],
    "bias_gradient": [[0.6, 1.0, 0.0, -2.0], [0.0, 0.0, 0.0, 0.7]],
    "lemma1_bound": [[0.5, 1.0, 1.0, 4.0], [0.1, 0.1, 0.1, 0.1]],
    "pre_activation": [[0.0, 1.0, -2.0, 3.0], [1.0, 1.0, 1.0, 1.0]],
    "variance_ratio": [[1.0, 2.0, NAN, 4.0], [1.0, 1.0, 1.0, 2.0]],
    "theorem2_bound": [[0.1, 0.2, 0.3, 0.5], [NAN, NAN, NAN, NAN]],
    "inactive_share": [[0.1, 0.1, 0.4, 0.6], [0.0, 0.1, 0.4, 0.6]],
    "first_order": [[1.0, -2.0, 3.0, 0.0], [NAN, NAN, NAN, NAN]],
    "second_order": [[1.0, -2.0, 3.0, 0.0], [NAN, NAN, NAN, NAN]],
    "kink": [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
}
BEFORE = UNITS | {
    "pre_activation": [[0.5, 0.5, -1.0, 3.0], [1.5, 0.5, 1.0, 1.25]],
    "ae_bias_gradient": [[0.5, 1.0, -2.0, 3.0], [0.0, -1.0, 0.0, 0.0]],
    "bias_gradient": [[0.6, 2.0, 2.5, -2.0], [0.0, 0.5, 0.0, 0.0]],
}


def theory(units: dict) -> Theory:
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in units.items()}
    return Theory(UnitTheory(**tensors), torch.tensor([0.25, 0.5], dtype=torch.float64))


def test_every_column_is_what_docs_theory_md_says_of_it():
    alone = theory(UNITS).columns(None)
    rms = [math.sqrt((0.25 + 1 + 4 + 9) / 4), math.sqrt((0.01 + 0.04 + 0.16 + 0.09) / 4)]
    expected = {
        "sigma_r": [0.25, 0.5],
        "ae_bias_gradient": [-0.375, 0.05],
        "ae_bias_gradient_rms": rms,
        "lemma1_bound": [1.625, 0.1],
        "lemma1_share": [0.75, 0.25],  # at the bound is within it
        "bias_gradient": [-0.1, 0.175],
        "bias_gradient_rms": [math.sqrt((0.36 + 1 + 4) / 4), 0.35],
        "bias_gradient_positive": [0.5, 0.25],
        "bias_gradient_negative": [0.25, 0.0],
        "condition_share": [0.25, 0.25],  # at the bound is not above it
        "descent_share": [0.5, 0.75],  # a whole gradient of 0 lets nothing fall
        "variance_ratio": [7 / 3, 1.25],  # of the units that have a length
        "theorem2_bound": [0.275, None],
        "theorem2_share": [0.75, None],
        "first_order_rms": [math.sqrt(14 / 4), None],
        "second_order_gradient": [0.5, None],
        "kink_gradient": [0.25, 0.0],
    }
    assert alone.keys() == expected.keys()
    for name, values in expected.items():
        assert alone[name] == pytest.approx(values), name


def test_what_moved_is_asked_of_the_units_that_the_epoch_before_foretold():
    moved = theory(UNITS).columns(theory(BEFORE))
    expected = {
        # By unit: -0.5, 0.5, -1, 0 and -0.5, 0.5, 0, -0.25.
        "pre_activation_change": [-0.25, -0.0625],
        "fell_share": [0.5, 0.5],  # to stay is not to fall
        # Above the bound stood 0, 1, 2 of the first member, and 1 of the second.
        "condition_fell": [2 / 3, 0.0],
        # A positive whole gradient had all of the first, and none of the second.
        "descent_fell": [0.5, None],
    }
    assert {name: moved[name] for name in expected} == expected
    assert set(moved) == {field.name for field in THEORY_FIELDS}


def test_one_sample_in_fifty_is_measured_evenly_spaced_and_250_at_least():
    for samples, rows in ((57, 57), (250, 250), (1000, 250), (12_600, 252), (13_049, 260)):
        stack = Stack(trials(), torch.arange(samples * 3.0).view(samples, 3))
        x = Probe(stack)._x
        assert torch.equal(x, stack.x[[i * samples // rows for i in range(rows)]])


def gradient_of_dae(stack: Stack, x, eps) -> torch.Tensor:
    """dJ/db of eq. 6 for one noise a sample, by autograd; of eq. 1 without noise."""
    (trial,) = stack.trials
    s, _ = reference.ACTIVATIONS[trial.activation]
    b = stack.b[0].clone().requires_grad_()
    seen = x if eps is None else x + trial.sigma2**0.5 * eps
    loss = (s(seen @ stack.W[0].T + b) @ stack.W[0] - x).square().sum(1).mean()
    return torch.autograd.grad(loss, b)[0]


@pytest.mark.parametrize("activation", ["relu", "softplus", "maxout", "tanh"])
@pytest.mark.parametrize("model", ["dae", "dae_pairs"])
def test_what_noise_adds_is_even_in_it_and_the_first_order_term_is_odd(model, activation):
    members = trials(model, activation, sigma2=(0.25,), seeds=(3,))
    stack = trained(members, data(), torch.float64)
    units = Probe(stack).measure(2).units
    x, (trial,) = stack.x, stack.trials
    noise = generator(3, "theory", 2)
    eps = torch.empty_like(x).normal_(generator=noise)
    above, below = (gradient_of_dae(stack, x, sign * eps) for sign in (1, -1))
    plain = gradient_of_dae(stack, x, None)
    torch.testing.assert_close(units.ae_bias_gradient[0], plain)
    torch.testing.assert_close(units.bias_gradient[0], (above + below) / 2 - plain)
    # One draw of its mean over a minibatch's noises: with fewer samples it varies more.
    draws = trial.training.batch_size * trial.training.corruptions
    odd = (above - below) / 2 * math.sqrt(len(x) / draws)
    torch.testing.assert_close(units.first_order[0], 0 * odd if model == "dae_pairs" else odd)
    if activation == "relu":
        kink = kink_gradient(stack.W[0], stack.b[0], x, 0.25, eps)
        torch.testing.assert_close(units.kink[0], kink)
    else:
        assert units.kink.isnan().all()
    assert units.second_order.isfinite().all()
    assert units.second_order.any() == (activation in ("softplus", "tanh"))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("model", ["cae", "sae", "cae_h", "ae", "edae"])
def test_what_corrupts_no_input_has_no_second_order_term_and_no_kink(model, activation):
    units = Probe(trained(trials(model, activation), data())).measure(2).units
    assert units.second_order.isnan().all()
    assert units.kink.isnan().all()
    assert units.first_order.isnan().all() == (model != "edae")


def test_the_noise_is_another_at_each_epoch_and_for_each_seed():
    probe = Probe(trained(trials("dae", "tanh", sigma2=(0.25,), seeds=(0, 1)), data()))
    one, again, later = (probe.measure(epoch).units.first_order for epoch in (1, 1, 2))
    assert torch.equal(one, again)
    assert (one != later).all()


def kink_by_its_formula(W, b, x, sigma2, eps, bandwidth):
    """The docstring of `kink_gradient`, a sample and a unit at a time."""
    m, T = len(b), len(x)
    share = bandwidth or 0.9 * T**-0.2
    inputs = (x if eps is None else x + math.sqrt(sigma2 / 2) * eps).tolist()
    W_, b_, x_ = W.tolist(), b.tolist(), x.tolist()

    def dot(one, other):
        return sum(p * q for p, q in zip(one, other, strict=True))

    a = [[dot(v, W_[j]) + b_[j] for j in range(m)] for v in inputs]
    width = [share * statistics.pstdev(row[j] for row in a) for j in range(m)]
    G = [[dot(W_[j], W_[k]) for k in range(m)] for j in range(m)]
    result = []
    for j in range(m):
        total = 0.0
        for row, target in zip(a, x_, strict=True):
            on = [value > 0 for value in row]
            density = [statistics.NormalDist(0, width[k]).pdf(row[k]) for k in range(m)]
            slope = -row[j] / width[j] ** 2 * density[j]
            r = [sum(row[k] * W_[k][i] for k in range(m) if on[k]) - target[i]
                 for i in range(len(target))]  # fmt: skip
            total += 2 * density[j] * sum(G[j][k] ** 2 for k in range(m) if on[k])
            total += on[j] * sum(G[j][k] * G[k][k] * density[k] for k in range(m))
            total += G[j][j] * slope * dot(W_[j], r)
        result.append(sigma2 * total / T)
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("bandwidth", [None, 0.3])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_kinks_term_is_its_formula(noisy, bandwidth):
    stream = torch.Generator().manual_seed(4)
    W, b, x, eps = (
        torch.randn(size, generator=stream, dtype=torch.float64)
        for size in ((3, 4), (3,), (40, 4), (40, 4))
    )
    x[0], eps[0], b[1] = 0, 0, 0  # a unit that stands at its kink is not active
    noise = eps if noisy else None
    found = kink_gradient(W, b, x, 0.3, noise, bandwidth)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, kink_by_its_formula(W, b, x, 0.3, noise, bandwidth))
    # In float32 the mean over the samples is float64's.
    single = kink_gradient(*(t.float() for t in (W, b, x)), 0.3, None, bandwidth)
    assert single.dtype == torch.float64


def test_a_unit_that_never_moves_has_no_density_at_its_kink():
    W, b = torch.zeros(2, 3), torch.tensor([0.0, 1.0])
    assert not kink_gradient(W, b, torch.ones(5, 3), 1.0).any()


def test_cantellis_bound_says_nothing_where_the_mean_is_above_the_threshold():
    distance = torch.tensor([-2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    deviation = torch.tensor([1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    assert cantelli(distance, deviation).tolist() == pytest.approx([0, 0, 0.5, 9 / 13])


def test_a_diverged_member_has_no_number_of_any_kind():
    stack = trained(trials("dae", "softplus"), data())
    stack.diverged[1] = True
    measured = Probe(stack).measure(2)
    columns = measured.columns(measured)
    for name, values in columns.items():
        if "share" not in name and name not in ("condition_fell", "descent_fell", "kink_gradient",
                                                "bias_gradient_positive",
                                                "bias_gradient_negative"):  # fmt: skip
            assert values[1] is None, name
            assert values[0] is not None, name
    assert all(values[1].dtype == torch.float64 and values[1].isnan().all()
               for values in vars(measured.units).values())  # fmt: skip
