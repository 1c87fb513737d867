"""The minibatches of an epoch and their noise, each a function of (seed, epoch) alone.

Here alone a seed's order of the samples and its noise are drawn: a CPU takes them by runs of steps,
a CUDA graph a step at a time, with the same numbers on one device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sparseae.engine import randomness

#: Noise for this many bytes is drawn at once and shared by the members with the same seed.
NOISE_BYTES = 4 << 20


class Run:
    """T steps in a row, for each of S seeds.

    Args:
        data: the samples, (N, n).
        rows: which of them each step takes, (T, S, B) int64.
        eps: their noise, (T, S, K, B, n), or None.
    """

    def __init__(self, data: Tensor, rows: Tensor, eps: Tensor | None) -> None:
        self.data, self.rows, self.eps = data, rows, eps

    @cached_property
    def x(self) -> Tensor:
        """The samples, (T, S, B, n), gathered once for all members."""
        return self.data.index_select(0, self.rows.flatten()).unflatten(0, self.rows.shape)


class Minibatches:
    """The minibatches of a stack's epochs.

    Args:
        data: the samples, (N, n), on the device where the stack trains.
        seeds: the seeds of the members, each once.
        batch: samples of a minibatch, B; the last of an epoch may be short.
        draws: noises of a sample, K; 0 where the model has none.
    """

    def __init__(self, data: Tensor, seeds: Sequence[int], batch: int, draws: int) -> None:
        self.data, self.seeds, self.batch, self.draws = data, seeds, batch, draws
        self.samples = data.shape[0]
        # Not on a device where nothing is drawn, as torch's "meta".
        where = "cpu" if data.device.type == "meta" else data.device
        self.streams = [torch.Generator(where) for _ in seeds] if draws else []

    def begin(self, epoch: int) -> Tensor:
        """Set the noise to its beginning in an epoch; return the order, (S, N) on the CPU."""
        for seed, stream in zip(self.seeds, self.streams, strict=False):
            stream.manual_seed(randomness.stream_seed(seed, "noise", epoch))
        orders = [randomness.minibatch_order(seed, epoch, self.samples) for seed in self.seeds]
        return torch.stack(orders)

    def noise(self, steps: int, size: int) -> Tensor | None:
        """The next eps ~ N(0, I) of so many steps, (T, S, K, B, n).

        A step at a time, so that the length of a run does not show.
        """
        if not self.draws:
            return None
        shape = (steps, len(self.seeds), self.draws, size, self.data.shape[1])
        eps = self.data.new_empty(shape)
        if eps.is_meta:
            return eps
        for step in eps:
            for drawn, stream in zip(step, self.streams, strict=True):
                drawn.normal_(generator=stream)
        return eps

    def runs(self, epoch: int) -> Iterator[Run]:
        """An epoch in runs of steps of one size."""
        order = self.begin(epoch).to(self.data.device)
        batch, n = self.batch, self.data.shape[1]
        bytes_a_step = len(self.seeds) * max(self.draws, 1) * batch * n * self.data.element_size()
        most = max(1, NOISE_BYTES // bytes_a_step)
        whole, short = divmod(self.samples, batch)
        for first in range(0, whole, most):
            steps = min(most, whole - first)
            yield self._run(order[:, first * batch : (first + steps) * batch], batch)
        if short:
            yield self._run(order[:, whole * batch :], short)

    def _run(self, order: Tensor, size: int) -> Run:
        rows = order.unflatten(1, (-1, size)).transpose(0, 1)
        return Run(self.data, rows, self.noise(rows.shape[0], size))
