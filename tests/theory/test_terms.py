"""The measured terms of the theory: against autograd, against Monte Carlo, and stack by stack."""

import math
from dataclasses import replace

import pytest
import torch

from sparseae.engine.stack import Stack
from sparseae.model import MODELS
from sparseae.model.coefficients import Coefficients
from sparseae.model.penalties import AE
from sparseae.model.trial import Training, Trial
from sparseae.results.location import Location
from sparseae.results.schema import THEORY_FIELDS, THEORY_UNIT_FIELDS
from sparseae.sweep.piece import Checkpoint, Piece
from sparseae.theory.terms import Probe, kink_gradient

TRAINING = Training(epochs=4, hidden_units=8, batch_size=10, learning_rate=0.002, corruptions=2)
NAMES = {field.name for field in THEORY_FIELDS}


def trials(model="dae", activation="relu", sigma2=(0.0, 0.25), seeds=(0, 1), **training):
    return [
        Trial(model=model, activation=activation, sigma2=value, constraint="none", dataset="d",
              seed=seed, training=replace(TRAINING, **training))
        for value in sigma2
        for seed in seeds
    ]  # fmt: skip


def data(samples: int = 57, inputs: int = 6) -> torch.Tensor:
    return torch.randn(samples, inputs, generator=torch.Generator().manual_seed(1))


def trained(members, x, dtype=torch.float32) -> Stack:
    stack = Stack(members, x, dtype=dtype)
    for epoch in (1, 2):
        stack.train_epoch(epoch)
    return stack


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softplus", "tanh", "maxout"])
@pytest.mark.parametrize("model", ["cae", "mdae", "sae", "corollary1", "corollary2", "dae2"])
def test_bias_gradients_are_autograds(model, activation):
    stack = trained(trials(model, activation, sigma2=(0.25,), seeds=(0,)), data(), torch.float64)
    measured = Probe(stack).measure(2).units
    x, s = stack.x.unsqueeze(0), stack.problem.activation
    c = Coefficients.of(stack.trials, stack.W)
    b = stack.b.clone().requires_grad_()

    def gradient(objective):
        return torch.autograd.grad(objective.value(stack.W, b, x, None, s, c).sum(), b)[0]

    plain, whole = gradient(AE()), gradient(MODELS[model]())
    torch.testing.assert_close(measured.ae_bias_gradient, plain)
    torch.testing.assert_close(measured.bias_gradient, whole - plain, rtol=1e-6, atol=1e-12)


def test_the_other_terms_are_their_definitions():
    stack = trained(trials("cae", "sigmoid"), data(), torch.float64)
    theory = Probe(stack).measure(2)
    W, b, x = stack.W[3], stack.b[3], stack.x
    a = x @ W.T + b
    r = a.sigmoid() @ W - x
    norms = W.norm(dim=1)
    sigma_r = r.square().mean().sqrt()
    torch.testing.assert_close(theory.sigma_r[3], sigma_r)
    torch.testing.assert_close(theory.units.lemma1_bound[3], 2 * sigma_r * 6**0.5 * norms)
    torch.testing.assert_close(
        theory.units.variance_ratio[3], a.var(0, correction=0) / norms.square()
    )
    torch.testing.assert_close(theory.units.pre_activation[3], a.mean(0))
    inactive = (a.sigmoid() <= 0.1).double().mean(0)
    torch.testing.assert_close(theory.units.inactive_share[3], inactive)
    gap = (math.log(0.1 / 0.9) - a.mean(0)).clamp(min=0)
    torch.testing.assert_close(theory.units.theorem2_bound[3], 1 - norms**2 / (norms**2 + gap**2))


def test_relus_penalties_have_no_bias_gradient_to_the_last_bit():
    for model in ("cae", "mdae", "corollary2", "dae2", "cae_h"):
        columns = Probe(trained(trials(model), data())).measure(2).columns(None)
        assert columns["bias_gradient_positive"] == columns["bias_gradient_negative"] == [0.0] * 4


def bias_gradient_of_a_sample(W, b, x, corrupted):
    a = corrupted @ W.T + b
    active = (a > 0).double()
    return 2 * active * (((a * active) @ W - x) @ W.T)


def test_the_kink_is_all_that_averaging_adds_to_a_relu_dae():
    """Its own mean bias gradient, over many corruptions, as sigma shrinks."""
    torch.manual_seed(0)
    W, b = torch.randn(4, 3, dtype=torch.float64) * 0.7, torch.randn(4, dtype=torch.float64) / 2
    x, eps = torch.randn(2, 600_000, 3, dtype=torch.float64)
    plain = bias_gradient_of_a_sample(W, b, x, x)
    leading = kink_gradient(W, b, x, 1.0, bandwidth=0.05)
    for sigma, tolerance in ((0.4, 0.15), (0.2, 0.06)):
        both = [bias_gradient_of_a_sample(W, b, x, x + k * sigma * eps) for k in (1, -1)]
        added = (sum(both) / 2 - plain).mean(0) / sigma**2
        # Of leading order: what is left falls with sigma.
        torch.testing.assert_close(leading, added, rtol=tolerance, atol=tolerance)
        # At half the variance: the next order too.
        middle = kink_gradient(W, b, x, sigma**2, eps, bandwidth=0.05) / sigma**2
        torch.testing.assert_close(middle, added, rtol=0.02, atol=0.05)


def test_smooth_dae_is_its_second_order_terms_for_little_noise():
    x = data(3000)
    stack = trained(trials("dae", "softplus", sigma2=(0.01,), seeds=(0,)), x, torch.float64)
    units = Probe(stack).measure(2).units
    torch.testing.assert_close(units.bias_gradient, units.second_order, rtol=0.4, atol=3e-3)
    assert units.kink.isnan().all()


def test_edae_adds_no_bias_gradient_in_the_mean_and_one_in_a_minibatch():
    units = Probe(trained(trials("edae"), data())).measure(2).units
    assert not units.bias_gradient.any()
    assert not units.first_order[:2].any()  # sigma2 = 0
    assert units.first_order[2:].any()


def test_antithetic_pairs_have_the_kinks_bias_gradient_and_no_first_order_term():
    units = Probe(trained(trials("dae_pairs"), data())).measure(2).units
    dae = Probe(trained(trials("dae"), data())).measure(2).units
    assert not units.first_order.any()
    assert dae.first_order[2:].any()
    assert units.bias_gradient[2:].any()
    assert units.kink[2:].any()


@pytest.mark.parametrize("model", ["dae", "cae", "sae", "cae_h"])
def test_a_members_theory_is_the_trials_alone(model):
    members, x = trials(model), data()
    together = Probe(trained(members, x)).measure(2).columns(None)
    for i, trial in enumerate(members):
        alone = Probe(trained([trial], x)).measure(2).columns(None)
        assert {k: v[i] for k, v in together.items()} == {k: v[0] for k, v in alone.items()}


def test_an_interrupted_piece_measures_the_same(tmp_path):
    def piece():
        return Piece(trials(), data(), torch.device("cpu"), "s", theory=True)

    through, stopped, resumed = piece(), piece(), piece()
    while not through.finished:
        through.advance()
    for _ in range(3):
        stopped.advance()
    stopped.save(Location.of(tmp_path))
    saved = Checkpoint.read(Location.of(tmp_path))
    resumed.load(dict.fromkeys(saved.trial_ids, saved))
    while not resumed.finished:
        resumed.advance()
    assert len(resumed.rows) == len(through.rows) == 20
    for one, other in zip(resumed.rows, through.rows, strict=True):
        assert {k: one.get(k) for k in NAMES} == {k: other.get(k) for k in NAMES}
    assert "fell_share" not in through.rows[0]
    assert 0 <= through.rows[-1]["fell_share"] <= 1
    table = resumed.units()
    assert table.column_names[-len(THEORY_UNIT_FIELDS) :] == [f.name for f in THEORY_UNIT_FIELDS]
    assert table.equals(through.units())


def test_a_diverged_member_has_nulls_and_harms_no_neighbour():
    calm = trials("dae", seeds=(0,))
    wild = trials("dae", seeds=(1,), sigma2=(0.25,), learning_rate=1e30)
    piece = Piece([calm[0], *wild, calm[1]], data(), torch.device("cpu"), "s", theory=True)
    while not piece.finished:
        rows = piece.advance()
    assert [row["status"] for row in rows] == ["ok", "diverged", "ok"]
    assert not NAMES & rows[1].keys()
    assert rows[0]["kink_gradient"] == 0.0 < rows[2]["kink_gradient"]
    assert piece.units()["kink"].null_count == 8
