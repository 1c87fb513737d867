"""Every registered model x activation: the closed-form gradient against autograd, in float64."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.func import jacrev, vmap

from sparseae.model import ACTIVATIONS, MODELS
from sparseae.model.coefficients import Coefficients
from sparseae.model.network import Network
from sparseae.model.penalties import SAE
from sparseae.model.trial import FUNCTIONS, Training

MEMBERS, BATCH, INPUTS, UNITS, CORRUPTIONS = 3, 7, 5, 6, 4
SIGMA2 = [0.0, 0.09, 1.0]

TRAINING = Training(corruptions=CORRUPTIONS, gamma=0.7, gamma_sigma=0.3)

#: Every model, and the families at several of their parameters.
CASES = [(model, TRAINING) for model in MODELS] + [
    *(("corollary1", replace(TRAINING, f=f)) for f in FUNCTIONS),
    *(("corollary2", replace(TRAINING, q=q, p=p)) for q, p in [(1, 0), (1, 1), (3, 2), (2, 3)]),
]


def coefficients(like: torch.Tensor, rho: float = 0.0) -> Coefficients:
    members = like.shape[0]
    return Coefficients(like, SIGMA2[:members], rho=[rho] * members)


def problem(members: int = MEMBERS):
    torch.manual_seed(0)
    W = torch.randn(members, UNITS, INPUTS, dtype=torch.float64) / 2
    b = torch.randn(members, UNITS, dtype=torch.float64) / 2
    x = torch.randn(members, BATCH, INPUTS, dtype=torch.float64)
    eps = torch.randn(members, CORRUPTIONS, BATCH, INPUTS, dtype=torch.float64)
    return W, b, x, eps


def closed_form(model, activation, W, b, x, eps, c):
    gradient = model.gradient(Network(W, b), x, eps, activation, c)
    return gradient.weights(W), gradient.db


def assert_close(actual, expected):
    scale = expected.abs().max().clamp_min(1e-12)
    assert ((actual - expected).abs().max() / scale).item() < 1e-9


@pytest.mark.parametrize("members", [1, MEMBERS])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("model", "training"), CASES)
def test_gradient_is_autograds(model, training, activation, members):
    objective, s = MODELS[model](training), ACTIVATIONS[activation]()
    W, b, x, eps = problem(members)
    for rho in (0.0, 0.2):
        c = coefficients(W, rho)
        W_ref, b_ref = W.clone().requires_grad_(), b.clone().requires_grad_()
        objective.value(W_ref, b_ref, x, eps, s, c).sum().backward()
        with torch.inference_mode():
            dW, db = closed_form(objective, s, W, b, x, eps, c)
        assert_close(dW, W_ref.grad)
        assert_close(db, b_ref.grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_derivatives_are_autograds(activation):
    s = ACTIVATIONS[activation]()
    a = torch.linspace(-4, 4, 40, dtype=torch.float64).requires_grad_()  # no zero, no ties
    h = s.value(a)
    (slope,) = torch.autograd.grad(h.sum(), a, create_graph=True)
    torch.testing.assert_close(s.slope(a, h), slope, rtol=1e-12, atol=1e-14)
    if s.piecewise_linear:
        assert not s.curvature(a, h).any()
    else:
        (curvature,) = torch.autograd.grad(slope.sum(), a, create_graph=True)
        torch.testing.assert_close(s.curvature(a, h), curvature, rtol=1e-10, atol=1e-12)
        (third,) = torch.autograd.grad(curvature.sum(), a)
        torch.testing.assert_close(s.third_derivative(a, h), third, rtol=1e-9, atol=1e-11)
    dh = torch.randn_like(a)
    out = torch.empty_like(a).detach()
    with torch.no_grad():
        s.backward(dh, a, h, out=out)
    torch.testing.assert_close(out, (dh * slope).detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_draws_as_many_noises_a_sample_as_corruptions_says(model):
    noisy = (model.startswith("dae") and model != "dae2") or model in ("edae", "cae_h")
    for corruptions in (1, 3):
        seen = MODELS[model](Training(corruptions=corruptions)).encoder_input
        assert seen.draws == (corruptions if noisy else 0)
        rows = {"dae": corruptions, "dae_pairs": 2 * corruptions}
        if model in ("ae", "edae", *rows):
            assert seen.rows == rows.get(model, 1)


def test_relu_has_no_slope_at_zero():
    s = ACTIVATIONS["relu"]()
    zero = torch.zeros(1)
    assert s.slope(zero, s.value(zero)).item() == 0


def encoder_jacobians(W, b, x, s):
    """dh/dx of each sample by autograd, (B, m, n)."""
    return vmap(jacrev(lambda v: s.value(W @ v + b)))(x)


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "maxout"])
def test_remark_1_cae_is_the_jacobians_norm(activation):
    s = ACTIVATIONS[activation]()
    W, b, x, _ = problem(1)
    c = Coefficients(W, [1.0])
    jacobian = encoder_jacobians(W[0], b[0], x[0], s)
    value = MODELS["cae"]().value(W, b, x, None, s, c)
    plain = MODELS["ae"]().value(W, b, x, None, s, c)
    torch.testing.assert_close(value - plain, jacobian.square().sum((1, 2)).mean().reshape(1))


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "maxout"])
def test_remark_2_mdae_is_eq_10(activation):
    """1/2 lambda sum_i sum_j (d2 l / d h_j^2) (d h_j / d x_i)^2, all derivatives by autograd."""
    s = ACTIVATIONS[activation]()
    W, b, x, _ = problem(1)
    c = Coefficients(W, [1.0])
    jacobian = encoder_jacobians(W[0], b[0], x[0], s)

    def reconstruction_loss(h, v):
        return (h @ W[0] - v).square().sum()

    h = s.value(x[0] @ W[0].T + b[0])
    hessians = vmap(torch.func.hessian(reconstruction_loss))(h, x[0])
    expected = (0.5 * hessians.diagonal(dim1=1, dim2=2).unsqueeze(-1) * jacobian.square()).sum(
        (1, 2)
    )
    value = MODELS["mdae"]().value(W, b, x, None, s, c)
    plain = MODELS["ae"]().value(W, b, x, None, s, c)
    torch.testing.assert_close(value - plain, expected.mean().reshape(1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_edae_term_is_the_losses_directional_derivative(activation):
    s = ACTIVATIONS[activation]()
    W, b, x, eps = problem(1)
    c = Coefficients(W, [1.0])
    delta = eps.mean(1)

    def loss_at(t):
        return (s.value((x + t * delta) @ W.mT + b.unsqueeze(1)) @ W - x).square().sum(-1).mean(-1)

    t = 1e-6
    difference = (loss_at(t) - loss_at(-t)) / (2 * t)
    value = MODELS["edae"]().value(W, b, x, eps, s, c)
    plain = MODELS["ae"]().value(W, b, x, None, s, c)
    torch.testing.assert_close(value - plain, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dae_is_taken_apart_into_its_two_gradients(activation):
    """dae_pairs is dae over eps and -eps; dae_bias and dae_weights have a part of it each."""
    s = ACTIVATIONS[activation]()
    W, b, x, eps = problem()
    c = coefficients(W)

    def gradient(name, eps):
        return closed_form(MODELS[name](TRAINING), s, W, b, x, eps, c)

    above, below = gradient("dae", eps), gradient("dae", -eps)
    plain = gradient("ae", None)
    pairs, bias, weights = (gradient(f"dae_{name}", eps) for name in ("pairs", "bias", "weights"))
    for part in range(2):
        assert_close(pairs[part], (above[part] + below[part]) / 2)
    assert torch.equal(bias[0], plain[0])
    assert torch.equal(bias[1], pairs[1])
    assert torch.equal(weights[0], pairs[0])
    assert torch.equal(weights[1], plain[1])


def test_mdae_equals_cae_when_weights_have_length_one():
    """Footnote 3."""
    s = ACTIVATIONS["sigmoid"]()
    W, b, x, _ = problem()
    W = torch.nn.functional.normalize(W, dim=-1)
    c = coefficients(W)
    torch.testing.assert_close(
        MODELS["mdae"]().value(W, b, x, None, s, c),
        MODELS["cae"]().value(W, b, x, None, s, c),
    )


def test_sae_is_eq_13_below_099_and_its_tangent_beyond():
    sae, none = SAE(), torch.zeros(1, 1, dtype=torch.float64)
    rho = torch.tensor([[-0.5, 0.0, 0.5, 0.98]], dtype=torch.float64)
    torch.testing.assert_close(sae.f(rho, none), -torch.log(1 - rho))
    edge = torch.tensor([[0.99]], dtype=torch.float64)
    for beyond in (0.99, 1.0, 7.0):
        expected = -torch.log(1 - edge) + 100 * (beyond - edge)
        torch.testing.assert_close(sae.f(torch.full_like(edge, beyond), none), expected)


def test_sae_with_a_target_is_eq_12():
    sae, target = SAE(), torch.full((1, 1), 0.05, dtype=torch.float64)
    rho = torch.tensor([[0.01, 0.05, 0.5, 0.9]], dtype=torch.float64)
    kl = 0.05 * torch.log(0.05 / rho) + 0.95 * torch.log(0.95 / (1 - rho))
    torch.testing.assert_close(sae.f(rho, target), kl)
    assert sae.f(torch.zeros_like(target), target).isfinite()
    assert sae.f_slope(torch.zeros_like(target), target).item() < 0


@pytest.mark.parametrize(("model", "activation"), list(itertools.product(MODELS, ACTIVATIONS)))
def test_sigma2_zero_is_the_plain_autoencoder(model, activation):
    s = ACTIVATIONS[activation]()
    W, b, x, eps = problem(1)
    c = coefficients(W)
    training = replace(TRAINING, gamma=0.0)  # gamma of cae_h does not grow with sigma2
    torch.testing.assert_close(
        MODELS[model](training).value(W, b, x, eps, s, c),
        MODELS["ae"]().value(W, b, x, eps, s, c),
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("model", "special", "keys"),
    [
        ("corollary2", "cae", {"q": 2, "p": 2}),
        ("corollary2", "mdae", {"q": 2, "p": 4}),
        ("corollary1", "sae", {"f": "log"}),
        ("cae_h", "cae", {"gamma": 0.0}),
    ],
)
def test_the_families_contain_the_models(model, special, keys, activation):
    s = ACTIVATIONS[activation]()
    W, b, x, eps = problem()
    c = coefficients(W)
    general = MODELS[model](replace(TRAINING, **keys))
    torch.testing.assert_close(
        general.value(W, b, x, eps, s, c), MODELS[special]().value(W, b, x, eps, s, c)
    )


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "maxout"])
def test_cae_h_compares_jacobians(activation):
    s = ACTIVATIONS[activation]()
    W, b, x, eps = problem(1)
    c = coefficients(W)
    clean = encoder_jacobians(W[0], b[0], x[0], s)
    expected = sum(
        (clean - encoder_jacobians(W[0], b[0], x[0] + 0.3 * e, s)).square().sum((1, 2)).mean()
        for e in eps[0]
    )
    value = MODELS["cae_h"](TRAINING).value(W, b, x, eps, s, c)
    plain = MODELS["cae"]().value(W, b, x, eps, s, c)
    torch.testing.assert_close((value - plain)[0], 0.7 * expected / CORRUPTIONS)


@pytest.mark.parametrize("activation", ["softplus", "sigmoid", "tanh"])
def test_dae2_is_half_the_laplacian_of_the_loss_at_the_clean_input(activation):
    """The second-order term of the dae is sigma2 / 2 of the trace of the Hessian in x~."""
    s = ACTIVATIONS[activation]()
    W, b, x, _ = problem(1)
    c = Coefficients(W, [1.0])

    def loss(corrupted, clean):
        return (s.value(W[0] @ corrupted + b[0]) @ W[0] - clean).square().sum()

    hessians = vmap(torch.func.hessian(loss))(x[0], x[0])
    expected = 0.5 * hessians.diagonal(dim1=1, dim2=2).sum(1).mean()
    value = MODELS["dae2"]().value(W, b, x, None, s, c)
    plain = MODELS["ae"]().value(W, b, x, None, s, c)
    torch.testing.assert_close((value - plain)[0], expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("model", ["cae", "mdae", "sae", "corollary1", "corollary2", "dae2"])
def test_the_measured_regularization_is_the_objectives(model, activation):
    s, objective = ACTIVATIONS[activation](), MODELS[model](TRAINING)
    W, b, x, eps = problem()
    c = coefficients(W)
    a = x @ W.mT + b.unsqueeze(1)
    h = s.value(a)
    moment = objective.moment(Network(W, b), a, h, h @ W - x, s, None)
    measured = objective.regularization(moment.mean(1), W.norm(dim=-1), c)
    expected = objective.value(W, b, x, eps, s, c) - MODELS["ae"]().value(W, b, x, eps, s, c)
    torch.testing.assert_close(measured, expected)
