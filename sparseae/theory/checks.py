"""Checks of the paper's mathematics that need no sweep: random networks, float64, exact averages.

Each gives a verdict with its numbers and the lines of a figure (``sparseae theory``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.func import hessian, jacrev, vmap

from sparseae.model import ACTIVATIONS, MODELS
from sparseae.model.activations import Activation
from sparseae.model.coefficients import Coefficients
from sparseae.model.constraints import row_norms
from sparseae.model.network import Network
from sparseae.model.penalties import AE
from sparseae.model.second_order import DAE2
from sparseae.model.trial import Training
from sparseae.theory.terms import cantelli, kink_gradient


@dataclass(frozen=True)
class Line:
    """Points of a figure: joined, or marks alone."""

    label: str
    x: list[float]
    y: list[float]
    joined: bool = True


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        name: of the check and its figure.
        claim: what the paper says.
        section: where.
        passed: whether it was found true.
        evidence: the numbers.
        lines: of the figure.
        axes: x label and y label.
        scale: of both axes, as matplotlib calls it.
        ticks: names of the places 0, 1, ... of the x axis, where it has names.
    """

    name: str
    claim: str
    section: str
    passed: bool
    evidence: str
    lines: tuple[Line, ...]
    axes: tuple[str, str]
    scale: str = "log"
    ticks: tuple[str, ...] = field(default=())


#: Every check, in the order of the paper.
CHECKS: list[Callable[[], Check]] = []


def _check(made: Callable[[], Check]) -> Callable[[], Check]:
    CHECKS.append(made)
    return made


def run() -> Iterator[Check]:
    """Every check."""
    for check in CHECKS:
        yield check()


def _network(seed: int, m: int, n: int, *, unit_norm: bool = False) -> tuple[Tensor, Tensor]:
    """Random weights (1, m, n) and biases (1, m)."""
    random = torch.Generator().manual_seed(seed)
    W = torch.randn(1, m, n, generator=random, dtype=torch.float64)
    W /= row_norms(W).unsqueeze(-1) if unit_norm else n**0.5
    return W, torch.randn(1, m, generator=random, dtype=torch.float64) / 2


def _white(seed: int, samples: int, n: int) -> Tensor:
    """Samples (1, N, n) whose mean is 0 and whose covariance is I to rounding: Assumption 1."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, n, generator=random, dtype=torch.float64)
    x -= x.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / samples)
    return (x @ (vectors / values.sqrt()) @ vectors.T).unsqueeze(0)


def _coefficients(sigma2: float, like: Tensor) -> Coefficients:
    return Coefficients(like, [sigma2])


#: What is not piecewise linear, and has a threshold: the Jacobian of maxout is not diagonal.
_SMOOTH = ("softplus", "sigmoid", "tanh")
_ELEMENTWISE = ("relu", *_SMOOTH)


@_check
def lemma_1() -> Check:
    """dJ_AE/db_j against its bound, on random networks and white data."""
    shares = {}
    for name in _ELEMENTWISE:
        s, found = ACTIVATIONS[name](), []
        for seed in range(20):
            W, b = _network(seed, 12, 8)
            W, x = W * 3, _white(seed, 200, 8)
            gradient = _bias_gradient("ae", s, W, b, x)
            residual = s.value(x @ W.mT + b.unsqueeze(1)) @ W - x
            bound = 2 * residual.square().mean().sqrt() * 8**0.5 * row_norms(W[0])
            found += (gradient.abs() / bound).tolist()
        shares[name] = sorted(found)
    worst = max(values[-1] for values in shares.values())
    return Check(
        "lemma1",
        "dJ_AE/db_j lies within 2 sigma_r sqrt(n) norm(W_j)",
        "lemma 1",
        worst <= 1,
        f"at most {worst:.2f} of the bound over {sum(map(len, shares.values())):,} units",
        tuple(Line(name, [i / len(v) for i in range(len(v))], v) for name, v in shares.items()),
        ("share of units", "dJ_AE/db / bound"),
        "linear",
    )


@_check
def theorem_1() -> Check:
    """One step along the whole gradient where the condition holds, on white data."""
    lines, rose, tested, variance, fell_bound = [], 0, 0, 0.0, 0
    for name in ("relu", "softplus", "sigmoid"):
        s, before, after = ACTIVATIONS[name](), [], []
        for seed in range(10):
            W, b = _network(seed, 10, 6, unit_norm=True)
            b -= 1  # below the thresholds in the mean, where theorem 2 has a bound to raise
            x = _white(seed, 300, 6)
            ae = _bias_gradient("ae", s, W, b, x)
            slope = _bias_gradient("sae", s, W, b, x, 1.0) - ae
            residual = s.value(x @ W.mT + b.unsqueeze(1)) @ W - x
            bound = 2 * residual.square().mean().sqrt() * 6**0.5
            lam = float(1.1 * bound / slope[slope > 0].min())
            holds = lam * slope > bound  # not for a unit that is dead already
            W1, b1 = _step("sae", s, W, b, x, lam, rate=0.01 / lam)
            a0, a1 = (x[0] @ w[0].T + v[0] for w, v in ((W, b), (W1, b1)))
            before += a0.mean(0)[holds].tolist()
            after += a1.mean(0)[holds].tolist()
            gap = a1.var(0, correction=0) - row_norms(W1[0]).square()
            variance = max(variance, float(gap.abs().max()))
            assert s.pre_threshold is not None
            p0, p1 = (cantelli(s.pre_threshold - a.mean(0), row_norms(W[0])) for a in (a0, a1))
            fell_bound += int((p1 < p0)[holds].sum())
        rose += sum(y >= x for x, y in zip(before, after, strict=True))
        tested += len(before)
        lines.append(Line(name, before, [y - x for x, y in zip(before, after, strict=True)], False))
    return Check(
        "theorem1",
        "where lambda dR/db_j exceeds the bound, a step makes E[a_j] fall, Var[a_j] = norm(W_j)^2, "
        "and the bound on Pr(h_j <= delta_min) does not fall",
        "theorems 1 and 2",
        rose == fell_bound == 0 and variance < 1e-12,
        f"sae: E[a_j] rose for {rose} and the bound fell for {fell_bound} of {tested} units; "
        f"Var[a_j] off by at most {variance:.0e}",
        tuple(lines),
        ("E[a] before", "change of E[a]"),
        "linear",
    )


#: The bias gradient of R that the corollaries imply, by the kind of regularizer.
_POSITIVE, _ZERO, _EITHER = "positive", "zero", "of either sign"
_SIGNS = {
    "corollary 1": dict.fromkeys(("relu", "softplus", "sigmoid"), _POSITIVE),
    "corollary 2": {"relu": _ZERO, "softplus": _POSITIVE, "sigmoid": _EITHER},
}
_KINDS = {
    "sae": "corollary 1",
    "corollary1": "corollary 1",
    "cae": "corollary 2",
    "mdae": "corollary 2",
    "corollary2": "corollary 2",
}


@_check
def signs() -> Check:
    """The bias gradient of the regularizer for each model and activation, over random networks."""
    ticks, low, high, wrong = [], [], [], []
    for model, name in itertools.product(_KINDS, ("relu", "softplus", "sigmoid")):
        s, found = ACTIVATIONS[name](), []
        for seed in range(20):
            W, b = _network(seed, 10, 6, unit_norm=True)
            x = _white(seed, 200, 6)
            ae = _bias_gradient("ae", s, W, b, x)
            found.append(_bias_gradient(model, s, W, b, x, 1.0) - ae)
        gradient = torch.cat(found)
        expected = _SIGNS[_KINDS[model]][name]
        ticks.append(f"{name} {model}")
        low.append(float(gradient.min()))
        high.append(float(gradient.max()))
        if _sign(gradient) != expected:
            wrong.append(f"{name} {model} is {_sign(gradient)}, not {expected}")
    places = [float(i) for i in range(len(ticks))]
    return Check(
        "signs",
        "the bias gradient of R: positive for corollary 1; for corollary 2 zero with relu, "
        "positive with softplus, of either sign with sigmoid",
        "corollaries 1 and 2",
        not wrong,
        "; ".join(wrong) or f"all {len(ticks)} pairs of model and activation, 200 units each",
        (Line("largest", places, high, False), Line("smallest", places, low, False)),
        ("", "dR/db"),
        "linear",
        tuple(ticks),
    )


def _sign(gradient: Tensor) -> str:
    if not gradient.any():
        return _ZERO
    if gradient.min() >= 0:
        return _POSITIVE
    return _EITHER if gradient.max() > 0 else "negative"


@_check
def theorem_3() -> Check:
    """The dae's objective, averaged exactly over the noise, against eq. 7 as sigma shrinks."""
    sigmas = [0.4, 0.2, 0.1, 0.05]
    nodes, weights = np.polynomial.hermite_e.hermegauss(13)
    eps = torch.tensor(list(itertools.product(nodes, repeat=3)))
    weight = torch.tensor([np.prod(w) for w in itertools.product(weights, repeat=3)])
    weight /= weight.sum()
    W, b = _network(0, 7, 3)
    x = torch.randn(1, 11, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lines, slopes = [], {}
    for name in _SMOOTH:
        s, errors = ACTIVATIONS[name](), []
        for sigma in sigmas:
            corrupted = x[0] + sigma * eps.unsqueeze(1)  # (corruptions, B, n)
            y = s.value(corrupted @ W[0].T + b[0]) @ W[0]
            exact = (weight @ (y - x[0]).square().sum(-1)).mean()
            expansion = DAE2().value(W, b, x, None, s, _coefficients(sigma**2, W))[0]
            errors.append(abs(float(exact - expansion)))
        slopes[name] = float(np.polyfit(np.log(sigmas), np.log(errors), 1)[0])
        lines.append(Line(f"{name}: slope {slopes[name]:.2f}", sigmas, errors))
    for label, errors in _relu_expansion(sigmas):
        slopes[label] = float(np.polyfit(np.log(sigmas), np.log(errors), 1)[0])
        lines.append(Line(f"{label}: slope {slopes[label]:.2f}", sigmas, errors))
    lines.append(Line("sigma^2", sigmas, [sigma**2 for sigma in sigmas]))
    # Smooth: sigma^4. With a kink sigma^3: a move of sigma across it, a share of sigma, is squared.
    falls = all(slope > 2.5 for name, slope in slopes.items() if name != _NO_KINK)
    return Check(
        "theorem3",
        "J_DAE = eq. 7 + o(sigma^2); with relu only if s'' is footnote 1's Dirac delta",
        "theorem 3",
        falls and slopes[_NO_KINK] < 2.5,
        "the error falls as sigma to the power "
        + ", ".join(f"{v:.2f} ({k})" for k, v in slopes.items()),
        tuple(lines),
        ("sigma", "|J_DAE - eq. 7|"),
    )


_KINK, _NO_KINK = "relu, s'' a Dirac delta", "relu, s'' = 0"


def _relu_expansion(sigmas: list[float]) -> list[tuple[str, list[float]]]:
    """Errors of eq. 7 for relu with one input of N(0, 1), whose density at the kinks is known."""
    w = torch.tensor([1.0, -0.8, 0.6, 1.3], dtype=torch.float64)
    b = torch.tensor([0.3, 0.5, -0.7, -0.2], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 32_001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2)
    density /= density.sum()
    nodes = torch.linspace(-6, 6, 601, dtype=torch.float64)
    noise = torch.exp(-nodes.square() / 2)
    noise /= noise.sum()

    def output(v: Tensor) -> Tensor:
        return (v.unsqueeze(-1) * w + b).relu() @ w

    kinks = -b / w
    # norm(J)^2 is constant between the kinks.
    edges = torch.cat([grid[:1], kinks.sort().values, grid[-1:]])
    between = (edges[:-1] + edges[1:]) / 2
    jacobian = ((between.unsqueeze(-1) * w + b > 0).double() @ w.square()).square()
    mean_jacobian = torch.special.ndtr(edges).diff() @ jacobian
    at_kinks = torch.exp(-kinks.square() / 2) / (2 * torch.pi) ** 0.5 / w.abs()
    dirac = (w.square() * w * (output(kinks) - kinks) * at_kinks).sum()
    plain = density @ (output(grid) - grid).square()
    errors: dict[str, list[float]] = {_KINK: [], _NO_KINK: []}
    for sigma in sigmas:
        exact = sum(
            p * (density @ (output(grid + sigma * e) - grid).square())
            for p, e in zip(noise, nodes, strict=True)
        )
        smooth = plain + sigma**2 * mean_jacobian
        errors[_NO_KINK].append(abs(float(exact - smooth)))
        errors[_KINK].append(abs(float(exact - smooth - sigma**2 * dirac)))
    return list(errors.items())


@_check
def remark_1() -> Check:
    """cae's eq. 9 against the norm of autograd's Jacobian (eq. 8)."""

    def reference(s: Activation, W: Tensor, b: Tensor, x: Tensor) -> Tensor:
        jacobian = vmap(jacrev(lambda v: s.value(W @ v + b)))(x)
        return jacobian.square().sum((1, 2)).mean()

    return _remark("remark1", "cae", "eq. 9 is eq. 8: the Jacobian's norm", "remark 1", reference)


@_check
def remark_2() -> Check:
    """mdae's eq. 11 against eq. 10, with all its derivatives by autograd."""

    def reference(s: Activation, W: Tensor, b: Tensor, x: Tensor) -> Tensor:
        def loss(h: Tensor, v: Tensor) -> Tensor:
            return (h @ W - v).square().sum()

        jacobian = vmap(jacrev(lambda v: s.value(W @ v + b)))(x)
        bend = vmap(hessian(loss))(s.value(x @ W.T + b), x).diagonal(dim1=1, dim2=2)
        return (bend.unsqueeze(-1) * jacobian.square()).sum((1, 2)).mean() / 2

    return _remark("remark2", "mdae", "eq. 11 is eq. 10", "remark 2", reference)


def _remark(
    name: str,
    model: str,
    claim: str,
    section: str,
    reference: Callable[[Activation, Tensor, Tensor, Tensor], Tensor],
) -> Check:
    lines, worst = [], 0.0
    for activation in _ELEMENTWISE:
        s, ours, theirs = ACTIVATIONS[activation](), [], []
        for seed in range(10):
            W, b = _network(seed, 8, 5)
            W, x = W * (seed + 1), _white(seed, 40, 5)
            c = _coefficients(1.0, W)
            values = [MODELS[m]().value(W, b, x, None, s, c) for m in (model, "ae")]
            ours.append(float(values[0] - values[1]))
            theirs.append(float(reference(s, W[0], b[0], x[0])))
        lines.append(Line(activation, theirs, ours, False))
        worst = max(worst, *(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)))
    return Check(
        name, claim, section, worst < 1e-9, f"relative difference at most {worst:.0e}",
        tuple(lines), ("autograd", "closed form"),
    )  # fmt: skip


@_check
def kink() -> Check:
    """What corruption adds to relu's bias gradient against the densities at the kinks."""
    random = torch.Generator().manual_seed(0)
    W, b = _network(3, 6, 3)
    W = W[0] * 1.2
    x, eps = torch.randn(2, 300_000, 3, generator=random, dtype=torch.float64)
    leading = kink_gradient(W, b[0], x, 1.0, bandwidth=0.05)

    def gradient(inputs: Tensor) -> Tensor:
        a = inputs @ W.T + b[0]
        active = (a > 0).double()
        return 2 * active * (((a * active) @ W - x) @ W.T)

    plain, lines, gaps = gradient(x), [], []
    for sigma in (0.4, 0.2, 0.1):
        both = (gradient(x + sigma * eps) + gradient(x - sigma * eps)) / 2
        added = (both - plain).mean(0) / sigma**2
        gaps.append(float((added - leading).norm() / added.norm()))
        lines.append(Line(f"sigma = {sigma}", leading.tolist(), added.tolist(), False))
    span = [float(leading.min()), float(leading.max())]
    lines.append(Line("equal", span, span))
    return Check(
        "kink",
        "relu's kink gives dae a bias gradient of order sigma^2: the density of the "
        "pre-activations at zero",
        "footnote 1",
        gaps[-1] < 0.05,
        "relative difference " + ", ".join(f"{g:.1%}" for g in gaps) + " at sigma 0.4, 0.2, 0.1",
        tuple(lines),
        ("kink's term / sigma^2", "added by the noise / sigma^2"),
        "linear",
    )


def _bias_gradient(
    model: str, s: Activation, W: Tensor, b: Tensor, x: Tensor, sigma2: float = 0.0
) -> Tensor:
    """dJ/db of a model that does not corrupt, (m,)."""
    objective = AE() if model == "ae" else MODELS[model](Training(q=1, p=1, f="square"))
    return objective.gradient(Network(W, b), x, None, s, _coefficients(sigma2, W)).db[0]


def _step(
    model: str, s: Activation, W: Tensor, b: Tensor, x: Tensor, lam: float, rate: float
) -> tuple[Tensor, Tensor]:
    """Weights and biases after one step along the negative gradient."""
    W, b = W.clone().requires_grad_(), b.clone().requires_grad_()
    MODELS[model]().value(W, b, x, None, s, _coefficients(lam, W)).sum().backward()
    assert W.grad is not None
    assert b.grad is not None
    return (W - rate * W.grad).detach(), (b - rate * b.grad).detach()
