"""What the engine is compared with: the same training written as their documentation shows it.

Each peer trains `members` auto-encoders with tied weights on the same minibatches, by SGD with
momentum, and rescales every row of W to length one after a step. Its losses are written anew here,
so that a peer which ends in the engine's weights is also a check of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import jax
    import jax.numpy as jnp
except ImportError:  # the extra `benchmark` brings it
    jax = None

LEARNING_RATE, MOMENTUM = 0.001, 0.9
HIGHEST_RHO = 0.99  # beyond it sae's penalty goes on linearly


class Peer:
    """Auto-encoders that start from W (S, m, n) and b (S, m), one for each sigma2."""

    name: str
    #: Whether it trains its members together; one that does not is measured alone.
    stacks = True

    def __init__(
        self, model: str, activation: str, sigma2: Sequence[float], W: Tensor, b: Tensor
    ) -> None:
        raise NotImplementedError

    def step(self, x: Tensor, eps: Tensor) -> None:
        """One update of every member on the minibatch x (B, n) with noise eps (B, n)."""
        raise NotImplementedError

    def epoch(self, x: Tensor, batch: int) -> None:
        """An epoch over x (N, n) in random order, with noise of its own."""
        for rows in torch.randperm(x.shape[0]).split(batch):
            minibatch = x[rows]
            self.step(minibatch, torch.randn_like(minibatch) if self.noisy else minibatch)

    def weights(self) -> Tensor:
        """W, (S, m, n)."""
        raise NotImplementedError


class TorchModule(Peer):
    """A plain `nn.Module` with autograd and `torch.optim.SGD`; no DataLoader, which costs more."""

    name = "torch module"
    stacks = False

    def __init__(
        self, model: str, activation: str, sigma2: Sequence[float], W: Tensor, b: Tensor
    ) -> None:
        self.noisy = model == "dae"
        self.loss = torch_loss(model, activation)
        self.members = []
        for number, weight, bias in zip(sigma2, W, b, strict=True):
            encoder = nn.Linear(W.shape[2], W.shape[1], device=W.device)
            with torch.no_grad():
                encoder.weight.copy_(weight)
                encoder.bias.copy_(bias)
            optimizer = torch.optim.SGD(encoder.parameters(), LEARNING_RATE, MOMENTUM)
            self.members.append((encoder, optimizer, number))

    def step(self, x: Tensor, eps: Tensor) -> None:
        for encoder, optimizer, sigma2 in self.members:
            optimizer.zero_grad()
            self.loss(encoder.weight, encoder.bias, x, eps, sigma2).backward()
            optimizer.step()
            with torch.no_grad():
                encoder.weight /= encoder.weight.norm(dim=1, keepdim=True)

    def weights(self) -> Tensor:
        return torch.stack([encoder.weight.detach() for encoder, *_ in self.members])


class TorchFunc(Peer):
    """An ensemble by `torch.func`: vmap of grad over stacked parameters, SGD written by hand."""

    name = "torch.func"

    def __init__(
        self, model: str, activation: str, sigma2: Sequence[float], W: Tensor, b: Tensor
    ) -> None:
        self.noisy = model == "dae"
        loss = torch_loss(model, activation)
        gradient = torch.func.grad(loss, argnums=(0, 1))
        self.gradients = torch.func.vmap(gradient, in_dims=(0, 0, None, None, 0))
        self.sigma2 = torch.tensor(sigma2)
        self.parameters = [W.clone(), b.clone()]
        self.momenta = [torch.zeros_like(W), torch.zeros_like(b)]

    def step(self, x: Tensor, eps: Tensor) -> None:
        gradients = self.gradients(*self.parameters, x, eps, self.sigma2)
        for parameter, momentum, gradient in zip(
            self.parameters, self.momenta, gradients, strict=True
        ):
            momentum.mul_(MOMENTUM).add_(gradient)
            parameter.add_(momentum, alpha=-LEARNING_RATE)
        W = self.parameters[0]
        W.div_(W.norm(dim=-1, keepdim=True))

    def weights(self) -> Tensor:
        return self.parameters[0]


class Jax(Peer):
    """JAX: jit of vmap of grad, parameters donated, a whole epoch as one `lax.scan`."""

    name = "JAX"

    def __init__(
        self, model: str, activation: str, sigma2: Sequence[float], W: Tensor, b: Tensor
    ) -> None:
        noisy = model == "dae"
        loss = jax_loss(model, activation)
        numbers = jnp.array(sigma2)
        gradients = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, 0, None, None, 0))

        def update(state, x, eps):
            parameters, momenta = state
            found = gradients(*parameters, x, eps, numbers)
            momenta = jax.tree.map(lambda v, g: MOMENTUM * v + g, momenta, found)
            W, b = jax.tree.map(lambda p, v: p - LEARNING_RATE * v, parameters, momenta)
            return (W / jnp.linalg.norm(W, axis=-1, keepdims=True), b), momenta

        def epoch(state, data, rows, key):
            def body(carry, indices):
                state, key = carry
                x, eps = data[indices], None
                if noisy:
                    key, now = jax.random.split(key)
                    eps = jax.random.normal(now, x.shape)
                return (update(state, x, eps), key), None

            return jax.lax.scan(body, (state, key), rows)[0]

        self._update = jax.jit(update, donate_argnums=0)
        self._epoch = jax.jit(epoch, donate_argnums=0)
        parameters = (jnp.array(W.numpy()), jnp.array(b.numpy()))
        self.state = (parameters, jax.tree.map(jnp.zeros_like, parameters))
        self.key, self.data = jax.random.key(0), None

    def step(self, x: Tensor, eps: Tensor) -> None:
        self.state = self._update(self.state, jnp.array(x.numpy()), jnp.array(eps.numpy()))

    def epoch(self, x: Tensor, batch: int) -> None:
        if self.data is None:
            self.data = jnp.array(x.numpy())
        rows = jnp.array(torch.randperm(x.shape[0]).view(-1, batch).numpy())
        self.state, self.key = self._epoch(self.state, self.data, rows, self.key)
        jax.block_until_ready(self.state)

    def weights(self) -> Tensor:
        return torch.tensor(jax.device_get(self.state[0][0]))


PEERS: list[type[Peer]] = [TorchModule, TorchFunc] + ([Jax] if jax is not None else [])


def torch_loss(model: str, activation: str) -> Callable[..., Tensor]:
    """The objective of one member: (W, b, x, eps, sigma2) -> ()."""
    act = {"relu": F.relu, "sigmoid": torch.sigmoid}[activation]

    def loss(W: Tensor, b: Tensor, x: Tensor, eps: Tensor, sigma2: Tensor | float) -> Tensor:
        a = F.linear(x + sigma2**0.5 * eps if model == "dae" else x, W, b)
        h = act(a)
        error = (h @ W - x).square().sum(1).mean()
        if model == "cae":
            slope = (a > 0).to(a.dtype) if activation == "relu" else h * (1 - h)
            return error + sigma2 * (slope.square().mean(0) * W.square().sum(1)).sum()
        if model == "sae":
            rho = h.mean(0)
            near = rho.clamp(max=HIGHEST_RHO)
            beyond = (rho - near) / (1 - HIGHEST_RHO)
            return error + sigma2 * (beyond - torch.log(1 - near)).sum()
        return error

    return loss


def jax_loss(model: str, activation: str) -> Callable:
    """The same for JAX."""
    act = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}[activation]

    def loss(W, b, x, eps, sigma2):
        a = (x + jnp.sqrt(sigma2) * eps if model == "dae" else x) @ W.T + b
        h = act(a)
        error = jnp.square(h @ W - x).sum(1).mean()
        if model == "cae":
            slope = (a > 0).astype(a.dtype) if activation == "relu" else h * (1 - h)
            return error + sigma2 * (jnp.square(slope).mean(0) * jnp.square(W).sum(1)).sum()
        if model == "sae":
            rho = h.mean(0)
            near = jnp.minimum(rho, HIGHEST_RHO)
            return error + sigma2 * ((rho - near) / (1 - HIGHEST_RHO) - jnp.log(1 - near)).sum()
        return error

    return loss
