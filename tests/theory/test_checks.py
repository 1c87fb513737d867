"""The checks of the mathematics hold and say so, and each sees what should not hold."""

import os
import re
from functools import cache

import numpy as np
import pytest
import torch

from sparseae.model.activations import ReLU
from sparseae.theory import checks
from sparseae.theory.checks import Check

by_name = pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)


@pytest.fixture(scope="module")
def found():
    """What a check finds, which takes a second or two, by its name."""

    def of(name: str) -> Check:
        (check,) = (check for check in checks.CHECKS if check.__name__ == name)
        return check()

    # While mutmut notes which tests call a function, each that asks has to call it.
    return of if os.environ.get("MUTANT_UNDER_TEST") == "stats" else cache(of)


@pytest.fixture(scope="module")
def lines(found):
    """The lines of its figure by their labels."""
    return lambda name: {line.label: line for line in found(name).lines}


#: By check: its name, claim, section, axes, scale, and evidence with its numbers.
SAID = {
    "lemma_1": (
        "lemma1", "dJ_AE/db_j lies within 2 sigma_r sqrt(n) norm(W_j)", "lemma 1",
        ("share of units", "dJ_AE/db / bound"), "linear",
        r"at most 0\.44 of the bound over 960 units",
    ),
    "theorem_1": (
        "theorem1",
        "where lambda dR/db_j exceeds the bound, a step makes E[a_j] fall, Var[a_j] = norm(W_j)^2, "
        "and the bound on Pr(h_j <= delta_min) does not fall",
        "theorems 1 and 2", ("E[a] before", "change of E[a]"), "linear",
        r"sae: E\[a_j\] rose for 0 and the bound fell for 0 of 299 units; Var\[a_j\] off by at "
        r"most \de-1\d",
    ),
    "signs": (
        "signs",
        "the bias gradient of R: positive for corollary 1; for corollary 2 zero with relu, "
        "positive with softplus, of either sign with sigmoid",
        "corollaries 1 and 2", ("", "dR/db"), "linear",
        r"all 15 pairs of model and activation, 200 units each",
    ),
    "theorem_3": (
        "theorem3", "J_DAE = eq. 7 + o(sigma^2); with relu only if s'' is footnote 1's Dirac delta",
        "theorem 3", ("sigma", "|J_DAE - eq. 7|"), "log",
        r"the error falls as sigma to the power 3\.87 \(softplus\), 3\.96 \(sigmoid\), "
        r"3\.83 \(tanh\), 4\.0\d \(relu, s'' a Dirac delta\), 1\.99 \(relu, s'' = 0\)",
    ),
    "remark_1": (
        "remark1", "eq. 9 is eq. 8: the Jacobian's norm", "remark 1", ("autograd", "closed form"),
        "log", r"relative difference at most \de-1\d",
    ),
    "remark_2": (
        "remark2", "eq. 11 is eq. 10", "remark 2", ("autograd", "closed form"), "log",
        r"relative difference at most \de-1\d",
    ),
    "kink": (
        "kink",
        "relu's kink gives dae a bias gradient of order sigma^2: the density of the "
        "pre-activations at zero",
        "footnote 1", ("kink's term / sigma^2", "added by the noise / sigma^2"), "linear",
        r"relative difference 4\.3%, 1\.7%, 1\.6% at sigma 0\.4, 0\.2, 0\.1",
    ),
}  # fmt: skip


@by_name
def test_the_mathematics_holds_and_a_check_says_what_it_found(check, found):
    told = found(check.__name__)
    assert told.passed is True, told.evidence
    assert all(len(line.x) == len(line.y) > 0 for line in told.lines)
    *said, evidence = SAID[check.__name__]
    assert [told.name, told.claim, told.section, told.axes, told.scale] == said
    assert re.fullmatch(evidence, told.evidence), told.evidence


def test_they_run_in_the_order_of_the_paper(monkeypatch, found):
    assert [check.__name__ for check in checks.CHECKS] == list(SAID)
    known = [found("signs"), found("kink")]
    monkeypatch.setattr(checks, "CHECKS", [lambda: known[0], lambda: known[1]])
    assert list(checks.run()) == known


def test_the_figures_show_what_the_checks_compare(found, lines):
    for line in found("lemma_1").lines:
        assert line.joined is True
        assert line.x == [i / 240 for i in range(240)]
        assert line.y == sorted(line.y)
        assert 0 <= line.y[0] < line.y[-1] < 1
    assert list(lines("lemma_1")) == ["relu", "softplus", "sigmoid", "tanh"]
    assert max(line.y[-1] for line in found("lemma_1").lines) == pytest.approx(0.44, abs=0.005)
    for label, line in lines("theorem_1").items():
        assert line.joined is False
        assert max(line.y) < 0
        assert len(line.x) == (99 if label == "relu" else 100)
        assert np.mean(line.x) < -0.5  # below the thresholds
    assert list(lines("theorem_1")) == ["relu", "softplus", "sigmoid"]


def test_the_figure_of_signs_names_each_pair_and_its_extremes(found, lines):
    told = found("signs")
    models = ("sae", "corollary1", "cae", "mdae", "corollary2")
    names = [f"{s} {m}" for m in models for s in ("relu", "softplus", "sigmoid")]
    assert told.ticks == tuple(names)
    largest, smallest = (lines("signs")[label] for label in ("largest", "smallest"))
    assert largest.x == smallest.x == [float(i) for i in range(15)]
    assert largest.joined is smallest.joined is False
    for name, high, low in zip(names, largest.y, smallest.y, strict=True):
        activation, model = name.split()
        if model in ("sae", "corollary1") or activation == "softplus":
            assert 0 <= low < high
        elif activation == "relu":
            assert low == high == 0
        else:
            assert low < 0 < high


def test_the_figure_of_theorem_3_has_the_errors_by_sigma(lines):
    told = lines("theorem_3")
    slopes = {label.split(":")[0]: line for label, line in told.items()}
    assert list(slopes) == ["softplus", "sigmoid", "tanh", "relu, s'' a Dirac delta",
                            "relu, s'' = 0", "sigma^2"]  # fmt: skip
    for label, line in told.items():
        assert (line.x, line.joined) == ([0.4, 0.2, 0.1, 0.05], True)
        if label != "sigma^2":
            slope = np.polyfit(np.log(line.x), np.log(line.y), 1)[0]
            assert label.endswith(f": slope {slope:.2f}")
    assert slopes["sigma^2"].y == pytest.approx([0.16, 0.04, 0.01, 0.0025])


@pytest.mark.parametrize("name", ["remark_1", "remark_2"])
def test_the_figures_of_the_remarks_have_both_sides(name, lines):
    told = lines(name)
    assert list(told) == ["relu", "softplus", "sigmoid", "tanh"]
    for line in told.values():
        assert line.joined is False
        assert len(line.x) == 10
        assert line.y == pytest.approx(line.x, rel=1e-9)
        assert max(line.x) > 10 * min(line.x) > 0


def test_the_figure_of_the_kink_has_its_term_beside_what_the_noise_adds(lines):
    told = lines("kink")
    assert list(told) == ["sigma = 0.4", "sigma = 0.2", "sigma = 0.1", "equal"]
    for label in list(told)[:3]:
        assert told[label].joined is False
        assert told[label].x == told["sigma = 0.4"].x
        assert told[label].y == pytest.approx(told[label].x, rel=0.2, abs=0.05)
    term = told["sigma = 0.4"].x
    assert told["equal"].x == told["equal"].y == [min(term), max(term)]
    assert told["equal"].joined is True


def test_a_wrong_slope_is_seen(monkeypatch):
    monkeypatch.setattr(ReLU, "slope", lambda self, a, h: (h > 0).to(h.dtype) * 1.01)
    assert checks.remark_1().passed is False
    assert checks.remark_2().passed is False


def times(of: str, factor: float, monkeypatch) -> None:
    known = getattr(checks, of)
    monkeypatch.setattr(checks, of, lambda *args, **more: known(*args, **more) * factor)


def test_a_bias_gradient_beyond_its_bound_is_seen(monkeypatch):
    times("_bias_gradient", 2.4, monkeypatch)
    told = checks.lemma_1()
    assert told.passed is False
    assert told.evidence == "at most 1.05 of the bound over 960 units"


def test_a_kink_that_is_a_tenth_off_is_seen(monkeypatch):
    times("kink_gradient", 1.1, monkeypatch)
    assert checks.kink().passed is False


def test_data_that_are_not_white_are_seen(monkeypatch):
    times("_white", 1.0001, monkeypatch)
    assert checks.theorem_1().passed is False


def test_a_step_uphill_is_seen(monkeypatch):
    step = checks._step

    def uphill(*args, rate):
        return step(*args, rate=-rate)

    monkeypatch.setattr(checks, "_step", uphill)
    told = checks.theorem_1()
    assert told.passed is False
    assert "rose for 299 and the bound fell for" in told.evidence
    assert "fell for 0 of" not in told.evidence


def test_a_bound_that_falls_alone_is_seen(monkeypatch):
    known = checks.cantelli
    monkeypatch.setattr(checks, "cantelli", lambda distance, length: -known(distance, length))
    told = checks.theorem_1()
    assert told.passed is False
    assert "rose for 0 and the bound fell for " in told.evidence


@pytest.mark.parametrize(("factor", "said"), [(-1.0, "negative"), (0.0, "zero")])
def test_a_bias_gradient_of_another_sign_is_seen_and_named(monkeypatch, factor, said):
    times("_bias_gradient", factor, monkeypatch)
    told = checks.signs()
    assert told.passed is False
    wrong = told.evidence.split("; ")
    assert f"sigmoid sae is {said}, not positive" in wrong
    assert f"softplus mdae is {said}, not positive" in wrong
    assert ("sigmoid cae is zero, not of either sign" in wrong) == (factor == 0)
    assert not any(words.startswith("relu cae") for words in wrong)


@pytest.mark.parametrize(
    ("gradient", "sign"),
    [([0.0, 0.0], "zero"), ([0.0, 1.0], "positive"), ([-1.0, 1.0], "of either sign"),
     ([-1.0, 0.0], "negative"), ([-1.0, -2.0], "negative"), ([2.0, 1.0], "positive")],
)  # fmt: skip
def test_the_sign_of_a_gradient(gradient, sign):
    assert checks._sign(torch.tensor(gradient)) == sign


def test_an_expansion_that_is_of_second_order_off_is_seen(monkeypatch, lines):
    class Off(checks.DAE2):
        def value(self, W, b, x, eps, s, c):
            return super().value(W, b, x, eps, s, c) + 0.1 * c.lam.number

    known = [(label.split(":")[0], line.y) for label, line in lines("theorem_3").items()
             if label.startswith("relu")]  # fmt: skip
    monkeypatch.setattr(checks, "_relu_expansion", lambda _: known)
    assert checks.theorem_3().passed is True
    monkeypatch.setattr(checks, "DAE2", Off)
    assert checks.theorem_3().passed is False


def test_a_relu_that_needed_no_dirac_delta_would_be_seen(monkeypatch):
    sigma = np.array([0.4, 0.2, 0.1, 0.05])
    errors = {checks._KINK: sigma**4, checks._NO_KINK: sigma**4}
    monkeypatch.setattr(checks, "_relu_expansion", lambda _: list(errors.items()))
    assert checks.theorem_3().passed is False
    errors |= {checks._KINK: sigma**2, checks._NO_KINK: sigma**2}
    assert checks.theorem_3().passed is False
    errors[checks._KINK] = sigma**3
    assert checks.theorem_3().passed is True


@pytest.fixture
def activations():
    """By name s, written once more."""
    return {"relu": torch.relu, "softplus": torch.nn.functional.softplus,
            "sigmoid": torch.sigmoid, "tanh": torch.tanh}  # fmt: skip


def drawn(seed: int, m: int, n: int, samples: int) -> tuple[torch.Tensor, ...]:
    """W (m, n), b (m,) and white x (N, n) of a check's random network."""
    W, b = checks._network(seed, m, n, unit_norm=True)
    x = checks._white(seed, samples, n)[0]
    torch.testing.assert_close(W.norm(dim=-1), torch.ones(1, m, dtype=torch.float64))
    assert x.mean(0).abs().max() < 1e-12
    torch.testing.assert_close(x.T @ x / samples, torch.eye(n, dtype=torch.float64))
    return W[0], b[0], x


def gradients(J, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    own = [t.clone().requires_grad_() for t in of]
    return torch.autograd.grad(J(*own), own)


def test_random_networks_have_rows_of_about_length_1_and_biases_of_about_a_half():
    W, b = checks._network(3, 400, 50)
    assert (W.shape, b.shape) == ((1, 400, 50), (1, 400))
    assert W.norm(dim=-1).mean().item() == pytest.approx(1, abs=0.02)
    assert W.mean().item() == pytest.approx(0, abs=0.01)
    assert b.std().item() == pytest.approx(0.5, abs=0.05)
    assert b.mean().item() == pytest.approx(0, abs=0.1)
    again = checks._network(3, 400, 50)
    assert torch.equal(W, again[0])
    assert torch.equal(b, again[1])
    assert not torch.equal(W, checks._network(4, 400, 50)[0])


def test_lemma_1_compares_the_gradient_with_its_bound_by_autograd(lines, activations):
    for name, line in lines("lemma_1").items():
        shares = []
        for seed in range(20):
            W, b = (t[0] for t in checks._network(seed, 12, 8))
            W, x = 3 * W, checks._white(seed, 200, 8)[0]

            def residual(b, W=W, x=x, s=activations[name]):
                return s(x @ W.T + b) @ W - x

            (of_b,) = gradients(lambda b, r=residual: r(b).square().sum(1).mean(), b)
            sigma_r = residual(b).square().mean().sqrt()
            shares += (of_b.abs() / (2 * sigma_r * 8**0.5 * W.norm(dim=1))).tolist()
        assert line.y == pytest.approx(sorted(shares), rel=1e-9)


def test_theorem_1_takes_a_step_of_the_whole_objective_by_autograd(lines, activations):
    for name, line in lines("theorem_1").items():
        s, before, change = activations[name], [], []
        for seed in range(10):
            W, b, x = drawn(seed, 10, 6, 300)
            b = b - 1

            def error(W, b, x=x, s=s):
                return (s(x @ W.T + b) @ W - x).square().sum(1).mean()

            def penalty(W, b, x=x, s=s):
                return -torch.log(1 - s(x @ W.T + b).mean(0)).sum()

            bound = 2 * (error(W, b) / 6).sqrt() * 6**0.5
            slope = gradients(penalty, W, b)[1]
            lam = 1.1 * bound / slope[slope > 0].min()
            of_W, of_b = gradients(
                lambda W, b, e=error, p=penalty, k=lam: e(W, b) + k * p(W, b), W, b
            )
            W1, b1 = W - 0.01 / lam * of_W, b - 0.01 / lam * of_b
            mean, later = ((x @ w.T + v).mean(0) for w, v in ((W, b), (W1, b1)))
            before += mean[slope > 0].tolist()
            change += (later - mean)[slope > 0].tolist()
        assert line.x == pytest.approx(before, rel=1e-9)
        assert line.y == pytest.approx(change, rel=1e-6)


def continued(rho: torch.Tensor) -> torch.Tensor:
    """-log(1 - rho), from 0.99 on along its tangent."""
    near = rho.clamp(max=0.99)
    return (rho - near.detach()) / (1 - near.detach()) - torch.log(1 - near.detach())


def test_a_step_goes_down_the_gradient_of_weights_and_biases():
    W, b, x = drawn(2, 10, 6, 50)

    def objective(W, b):
        h = torch.sigmoid(x @ W.T + b)
        return (h @ W - x).square().sum(1).mean() - 0.7 * torch.log(1 - h.mean(0)).sum()

    of_W, of_b = gradients(objective, W, b)
    s = checks.ACTIVATIONS["sigmoid"]()
    W1, b1 = checks._step("sae", s, W[None], b[None], x[None], 0.7, rate=0.1)
    torch.testing.assert_close(W1[0], W - 0.1 * of_W)
    torch.testing.assert_close(b1[0], b - 0.1 * of_b)
    assert not W1.requires_grad
    assert not b1.requires_grad


PENALTIES = {
    "sae": lambda h, slope, W: continued(h.mean(0)).sum(),
    "corollary1": lambda h, slope, W: h.mean(0).square().sum(),
    "cae": lambda h, slope, W: (slope.square() * W.norm(dim=1) ** 2).sum(1).mean(),
    "mdae": lambda h, slope, W: (slope.square() * W.norm(dim=1) ** 4).sum(1).mean(),
    "corollary2": lambda h, slope, W: (slope * W.norm(dim=1)).sum(1).mean(),
}
SLOPES = {
    "relu": lambda a: (a > 0).double(),
    "softplus": torch.sigmoid,
    "sigmoid": lambda a: torch.sigmoid(a) * torch.sigmoid(-a),
}


def test_the_signs_are_of_the_penalties_gradients_by_autograd(found, lines, activations):
    high, low = (lines("signs")[label].y for label in ("largest", "smallest"))
    for tick, highest, lowest in zip(found("signs").ticks, high, low, strict=True):
        name, model = tick.split()
        every = []
        for seed in range(20):
            W, b, x = drawn(seed, 10, 6, 200)

            def penalty(b, W=W, x=x, name=name, model=model):
                a = x @ W.T + b
                return PENALTIES[model](activations[name](a), SLOPES[name](a), W)

            (of_b,) = torch.autograd.grad(
                penalty(b.requires_grad_()) + 0 * b.sum(), b
            )  # relu's slope has no derivative
            every.append(of_b)
        assert highest == pytest.approx(torch.cat(every).max().item(), rel=1e-9, abs=1e-15)
        assert lowest == pytest.approx(torch.cat(every).min().item(), rel=1e-9, abs=1e-15)


def test_a_step_that_changes_nothing_is_seen(monkeypatch):
    monkeypatch.setattr(checks, "_step", lambda model, s, W, b, *more, rate: (W, b))
    told = checks.theorem_1()
    assert told.passed is False
    assert "rose for 299 and the bound fell for 0" in told.evidence


def test_relus_expansion_is_eq_7_with_the_density_at_its_kinks(lines):
    """At sigma = 0.4, on another grid: the objective, its Laplacian between the kinks, and at
    them the jump of the slope times the density."""
    w, b = np.array([1.0, -0.8, 0.6, 1.3]), np.array([0.3, 0.5, -0.7, -0.2])

    def y(v):
        return np.maximum(np.multiply.outer(v, w) + b, 0) @ w

    def gaussian(grid):
        weight = np.exp(-grid * grid / 2)
        return weight / weight.sum()

    grid, eps, sigma = np.linspace(-7, 7, 5001), np.linspace(-5.5, 5.5, 331), 0.4
    density = gaussian(grid)
    noisy = [density @ (y(grid + sigma * e) - grid) ** 2 for e in eps]
    exact = gaussian(eps) @ noisy
    fine = np.linspace(-7, 7, 200_001)  # the slope jumps
    slope = (np.multiply.outer(fine, w) + b > 0) @ w**2
    smooth = density @ (y(grid) - grid) ** 2 + sigma**2 * (gaussian(fine) @ slope**2)
    kinks = -b / w
    at = np.exp(-kinks * kinks / 2) / np.sqrt(2 * np.pi) / np.abs(w)
    jump = (w**3 * (y(kinks) - kinks) * at).sum()
    for label, known in (("relu, s'' = 0", smooth),
                         ("relu, s'' a Dirac delta", smooth + sigma**2 * jump)):  # fmt: skip
        (line,) = (line for name, line in lines("theorem_3").items() if name.startswith(label))
        assert line.y[0] == pytest.approx(abs(exact - known), rel=0.02)


@pytest.mark.parametrize("name", ["remark_1", "remark_2"])
def test_the_remarks_are_about_weights_of_ten_scales(name, lines):
    """One side of each point by its definition: E[sum_ij J_ij^2], with mdae's 2 norm(W_j)^2."""
    for label, line in lines(name).items():
        for seed, value in enumerate(line.y):
            W, b = (t[0] for t in checks._network(seed, 8, 5))
            W, x = W * (seed + 1), checks._white(seed, 40, 5)[0]
            a = x @ W.T + b
            slope = SLOPES[label](a) if label in SLOPES else 1 - torch.tanh(a).square()
            power = {"remark_1": 2, "remark_2": 4}[name]
            expected = (slope.square() * W.norm(dim=1) ** power).sum(1).mean().item()
            assert value == pytest.approx(expected, rel=1e-9)
