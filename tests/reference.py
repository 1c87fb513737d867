"""A trial as the specification defines it: float64, autograd, one trial at a time, no tricks.

Written from the specification and the paper alone; of the package it takes what trials share by
their seed (`sparseae.engine.randomness`) and nothing else. Shapes: x (N, n), W (m, n), b (m,).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseae.engine.randomness import generator, initial_weights, minibatch_order

#: s, and the threshold delta_min beyond which a unit is active (eq. 14).
ACTIVATIONS = {
    "relu": (torch.relu, 0.0),
    "softplus": (lambda a: torch.logaddexp(a, torch.zeros_like(a)), 0.1),
    "sigmoid": (torch.sigmoid, 0.1),
    "tanh": (torch.tanh, 0.1),
    "maxout": (lambda a: a * won(a), 0.0),
}

#: README: a measurement of cae_h takes one fixed draw, which begins again every so many samples.
MEASURED_DRAW = 250


def won(a: Tensor) -> Tensor:
    """Of each pair of pre-activations 1 for the larger, the first where they are equal."""
    first, second = a.detach().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first >= second, first < second], -1).flatten(-2).to(a.dtype)


def derivative(of: Tensor, at: Tensor) -> Tensor:
    """d of_ij / d at_ij of an elementwise function; 0 where it is locally constant."""
    if not of.requires_grad:
        return torch.zeros_like(at)
    (d,) = torch.autograd.grad(of.sum(), at, create_graph=True, allow_unused=True)
    return torch.zeros_like(at) if d is None else d


def kullback_leibler(rho: Tensor, target: float) -> Tensor:
    """Eq. 12, or eq. 13 where the target is 0; its tangent beyond 0.99 and below target / 10."""
    near = rho.clamp(min=target / 10 if target > 0 else None, max=0.99).detach()
    near = torch.where(near == rho, rho, near)
    value = (1 - target) * torch.log((1 - target) / (1 - near))
    slope = (1 - target) / (1 - near)
    if target > 0:
        value, slope = value + target * torch.log(target / near), slope - target / near
    return value + slope.detach() * (rho - near)


#: The models that draw a noise.
NOISY = ("dae", "dae_pairs", "dae_bias", "dae_weights", "edae", "cae_h")

COROLLARY_1 = {
    "linear": lambda rho: rho,
    "log": lambda rho: kullback_leibler(rho, 0.0),
    "square": lambda rho: rho * rho.abs(),
    "tanh": torch.tanh,
}


def regularization(t, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None) -> Tensor | None:
    """What a model adds to J_AE on the samples x; None where it has no such term."""
    s, lam, own = ACTIVATIONS[t.activation][0], t.sigma2, t.training
    with torch.enable_grad():
        a = (x @ W.T + b).requires_grad_()
        h = s(a)
        slope, norms = derivative(h, a), W.norm(dim=1)
        match t.model:
            case "cae":
                return lam * (slope**2 * norms**2).sum(1).mean()
            case "mdae":
                return lam * (slope**2 * norms**4).sum(1).mean()
            case "corollary2":
                return lam * (slope**own.q * norms**own.p).sum(1).mean()
            case "sae":
                return lam * kullback_leibler(h.mean(0), own.rho).sum()
            case "corollary1":
                return lam * COROLLARY_1[own.f](h.mean(0)).sum()
            case "cae_h":
                gaps = []
                for e in eps:
                    shifted = ((x + own.gamma_sigma * e) @ W.T + b).requires_grad_()
                    gap = (slope - derivative(s(shifted), shifted)) * norms
                    gaps.append(own.gamma * (gap**2).sum(1).mean())
                return lam * (slope**2 * norms**2).sum(1).mean() + sum(gaps) / len(gaps)
            case "dae2":  # eq. 7's second order: norm(J)_F^2 + sum_j s''_j norm(W_j)^2 W_j^T r
                jacobian = ((slope @ (W @ W.T) ** 2) * slope).sum(1)
                curvature = derivative(slope, a) * norms**2 * ((h @ W - x) @ W.T)
                return lam * (jacobian + curvature.sum(1)).mean()
    return None


def objective(t, W: Tensor, b: Tensor, x: Tensor, eps: Tensor | None) -> Tensor:
    """The objective on a minibatch x (B, n) with corruptions eps (K, B, n)."""
    s = ACTIVATIONS[t.activation][0]

    def loss(seen: Tensor, W: Tensor = W, b: Tensor = b) -> Tensor:
        return ((s(seen @ W.T + b) @ W - x) ** 2).sum(1)

    def paired(W: Tensor, b: Tensor) -> Tensor:
        moved = [sign * t.sigma2**0.5 * e for e in eps for sign in (1, -1)]
        return torch.stack([loss(x + m, W, b).mean() for m in moved]).mean()

    if t.model == "dae":
        return torch.stack([loss(x + t.sigma2**0.5 * e).mean() for e in eps]).mean()
    if t.model in ("dae_pairs", "dae_bias", "dae_weights"):
        still_W, still_b = W.detach(), b.detach()  # through which no gradient goes
        match t.model:  # dae_bias and dae_weights are defined by their gradients
            case "dae_pairs":
                return paired(W, b)
            case "dae_bias":
                return loss(x, W, still_b).mean() + paired(still_W, b)
            case "dae_weights":
                return paired(W, still_b) + loss(x, still_W, b).mean()
    if t.model == "edae":
        seen = x.clone().requires_grad_()
        losses = loss(seen)
        moved = t.sigma2**0.5 * eps.mean(0)
        return losses.mean() + (moved * derivative(losses, seen)).sum(1).mean()
    penalty = regularization(t, W, b, x, eps)
    return loss(x).mean() + (0 if penalty is None else penalty)


def constrained(t, W: Tensor) -> Tensor:
    norms = W.norm(dim=1, keepdim=True)
    if t.constraint == "unit_norm":
        return W / norms
    return W * (t.training.max_norm / norms).clamp(max=1) if t.constraint == "max_norm" else W


def kink_distance(t, x: Tensor, eps: Tensor | None, W: Tensor, b: Tensor) -> float:
    """How near a pre-activation is to where s has no slope: float32 may fall on the other side."""
    seen = [x]
    if eps is not None and t.model != "edae":
        spread = t.training.gamma_sigma if t.model == "cae_h" else t.sigma2**0.5
        signs = (1, -1) if t.model in ("dae_pairs", "dae_bias", "dae_weights") else (1,)
        seen += [x + sign * spread * e for e in eps for sign in signs]
    a = torch.cat(seen) @ W.T + b
    if t.activation == "maxout":
        a = a[:, 0::2] - a[:, 1::2]
    return a.abs().min().item() if t.activation in ("relu", "maxout") else math.inf


@dataclass
class Epoch:
    """What a trial has after an epoch, and how near a kink it came on the way."""

    W: Tensor
    b: Tensor
    kink: float


def train(t, x: Tensor, dtype: torch.dtype) -> Iterator[Epoch]:
    """Epochs 0, 1, ... of trial t, whose noise is drawn in ``dtype``."""
    T, (samples, n) = t.training, x.shape
    W = constrained(t, initial_weights(t.seed, T.hidden_units, n).double())
    b = x.new_zeros(T.hidden_units)
    V, v, kink = torch.zeros_like(W), torch.zeros_like(b), math.inf
    yield Epoch(W, b, kink)
    for epoch in range(1, T.epochs + 1):
        noise = generator(t.seed, "noise", epoch)
        for rows in minibatch_order(t.seed, epoch, samples).split(T.batch_size):
            eps = None
            if t.model in NOISY:
                eps = torch.empty(T.corruptions, len(rows), n, dtype=dtype)
                eps = eps.normal_(generator=noise).double()
            kink = min(kink, kink_distance(t, x[rows], eps, W, b))
            W.requires_grad_(), b.requires_grad_()
            dW, db = torch.autograd.grad(objective(t, W, b, x[rows], eps), (W, b))
            W, b = W.detach(), b.detach()
            if t.constraint == "weight_decay":
                dW = dW + T.weight_decay * W
            V, v = T.momentum * V + dW, T.momentum * v + db
            W = constrained(t, W - T.learning_rate * V)
            b = b - T.learning_rate * v if T.encoder_bias else b
        yield Epoch(W, b, kink)


def measure(
    t, W: Tensor, b: Tensor, x: Tensor, dtype: torch.dtype, doubt: float = 0.0
) -> tuple[dict, dict, Tensor]:
    """The measured columns of ``epochs`` and of ``units``; and where, (N, m), a unit would change
    between active and not if its pre-activation moved by ``doubt``."""
    s, threshold = ACTIVATIONS[t.activation]
    a = x @ W.T + b
    h = s(a)
    active = h > threshold
    doubtful = (s(a - doubt) > threshold) != (s(a + doubt) > threshold)
    dead = (~active.any(0)).sum().item()
    error = ((h @ W - x) ** 2).sum(1).mean().item()
    draws = [
        torch.empty(len(part), x.shape[1], dtype=dtype).normal_(generator=generator(0, "measure"))
        for part in x.split(MEASURED_DRAW)
    ]
    penalty = regularization(t, W, b, x, torch.cat(draws).double().unsqueeze(0))
    units = {
        "activation_fraction": active.double().mean(0),
        "pre_activation_mean": a.mean(0),
        "bias": b,
        "weight_norm": W.norm(dim=1),
    }
    columns = {
        "activation_fraction": active.double().mean().item(),
        "dead_units": dead,
        "dead_fraction": dead / len(b),
        "reconstruction_error": error,
        "regularization": None if penalty is None else penalty.item(),
        "loss": error if penalty is None else error + penalty.item(),
        "weight_norm_mean": W.norm(dim=1).mean().item(),
        "bias_mean": b.mean().item(),
        "pre_activation_mean": a.mean().item(),
    }
    return columns, units, doubtful


def quality(t, W: Tensor, b: Tensor, x: Tensor, doubt: float) -> tuple[float, float, float]:
    """The fraction of variance explained and L0 of samples x, and how far L0 moves by ``doubt``."""
    s, threshold = ACTIVATIONS[t.activation]
    a = x @ W.T + b
    error = ((s(a) @ W - x) ** 2).sum(1).mean()
    variance = x.var(0, correction=0).sum()
    active = [(s(a + d) > threshold).double().sum(1).mean().item() for d in (0, doubt, -doubt)]
    return (1 - error / variance).item(), active[0], active[1] - active[2]
