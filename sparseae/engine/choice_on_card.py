"""Which way a GPU computes the steps of a stack: whole steps are timed, as a sweep takes them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

import torch

from sparseae.engine.choice import GAIN, ON_CARD
from sparseae.engine.cuda_graph import precision
from sparseae.engine.minibatches import Run
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.engine.triton import VARIANTS, TritonBackend
from sparseae.errors import first_line
from sparseae.model.trial import Trial

#: Steps of an epoch that is measured, and epochs of each way.
_STEPS, _ROUNDS = 50, 3

#: Steps after which a way is compared with float64.
_CHECKED = 6

#: Largest difference from float64 after them, as a share of how far the weights have moved; of
#: TF32's products, which sweeps must ask for, thirty times that.
_ERROR, _TF32_ERROR = 1e-3, 3e-2


def choose_on_card(
    trials: Sequence[Trial], inputs: int, device: torch.device | str, *, tf32: bool = False
) -> tuple[str, dict[str, float]]:
    """What a card does for steps of these members: ``triton-a`` and so on, or nothing for torch's.

    Each way takes some steps from the same weights with the same noise: one whose weights are not
    those of float64, up to `_ERROR`, is out. Those that are left take turns at epochs, each as the
    program that it would be in a sweep.

    Returns:
        The choice, and the seconds a step of each way that was right.
    """
    batch = trials[0].training.batch_size
    x = torch.randn(_STEPS * batch, inputs, generator=torch.Generator().manual_seed(0))
    exact = Stack(trials, x, device, torch.float64)
    start = exact.W.clone()
    _take_steps(exact)
    limit = (_TF32_ERROR if tf32 else _ERROR) * (exact.W - start).norm()
    stacks: dict[str, Stack] = {}
    for name in ["", *(f"{TritonBackend.name}-{variant}" for variant in VARIANTS)]:
        try:
            stack = Stack(trials, x, device, routine=TORCH + ON_CARD + name, tf32=tf32)
            _take_steps(stack)
            stack.train_epoch(1)
        except Exception as error:  # a compiler may raise anything
            logging.getLogger(__name__).warning("%s cannot be used: %s", name, first_line(error))
            continue
        right = Stack(trials, x, device, routine=TORCH + ON_CARD + name, tf32=tf32)
        _take_steps(right)
        if not name or (right.W.double() - exact.W).norm() <= limit:
            stacks[name] = stack
    least = dict.fromkeys(stacks, math.inf)
    for epoch in range(2, 2 + _ROUNDS):
        for name, stack in stacks.items():
            least[name] = min(least[name], _epoch_seconds(stack, epoch) / _STEPS)
    return decided_on_card(least), least


def _take_steps(stack: Stack) -> None:
    """Some steps with noise that does not depend on the type of number."""
    seeds, batch, n = len(stack.seeds), stack.training.batch_size, stack.x.shape[1]
    stream = torch.Generator().manual_seed(1)
    rows = torch.randint(stack.x.shape[0], (_CHECKED, seeds, batch), generator=stream)
    draws, eps = stack.problem.model.encoder_input.draws, None
    if draws:
        eps = torch.randn(_CHECKED, seeds, draws, batch, n, generator=stream)
        eps = eps.to(stack.device, stack.x.dtype)
    with precision(tf32=stack.problem.tf32):
        stack.run(Run(stack.x, rows.to(stack.device), eps))


def decided_on_card(least: Mapping[str, float]) -> str:
    """The way by the least seconds of each; torch's is named ""."""
    best = min(least, key=least.__getitem__)
    return best if least[best] * GAIN < least[""] else ""


def _epoch_seconds(stack: Stack, epoch: int) -> float:
    def wait() -> None:
        if stack.device.type == "cuda":
            torch.cuda.synchronize(stack.device)

    wait()
    began = time.perf_counter()
    stack.train_epoch(epoch)
    wait()
    return time.perf_counter() - began
