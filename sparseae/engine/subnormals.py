"""Numbers below the least normal one, which a CPU computes with a hundred times slower.

They come in training: the momentum of a unit that died shrinks by a factor a step, and with sigmoid
so does the weight of an input that is the same in every sample, as the border of MNIST's digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def subnormals_are_zero() -> Iterator[None]:
    """In the calling thread subnormal numbers are zero; as the process had it at the end.

    No other number changes by it, because what is added to anything of weight is far below its last
    digit. Threads that OpenMP makes meanwhile do as the one that makes them.
    """
    before = _are_zero()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_zero() -> bool:
    """Torch sets it, and does not say it."""
    least = torch.finfo(torch.float32).tiny
    return float(torch.full((), least, dtype=torch.float32) / 2) == 0
