"""Common random numbers: what trials of the same seed share (docs/glossary.md).

Every stream is a function of (seed, what it is for, epoch), never of the stack, the model or what
was drawn before, so that a trial's numbers do not depend on its neighbours and a resumed epoch
draws what the uninterrupted one drew.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(
    seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator on ``device`` whose stream belongs to (seed, purpose, epoch)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, epoch))


def stream_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """What seeds the generator of (seed, purpose, epoch)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def initial_weights(seed: int, hidden_units: int, inputs: int) -> Tensor:
    """Glorot uniform weights (m, n), float32, drawn on the CPU whatever the device."""
    bound = (6 / (hidden_units + inputs)) ** 0.5
    weights = torch.empty(hidden_units, inputs)
    return weights.uniform_(-bound, bound, generator=generator(seed, "weights"))


def minibatch_order(seed: int, epoch: int, samples: int) -> Tensor:
    """The permutation of the samples that an epoch follows, (samples,) int64 on the CPU."""
    return torch.randperm(samples, generator=generator(seed, "order", epoch))
