"""Which way a GPU computes the steps of a stack: whole steps are timed, as a sweep takes them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sparseae.engine.choice import ON_CARD, decided
from sparseae.engine.cuda_graph import precision
from sparseae.engine.measurements import Measurement
from sparseae.engine.minibatches import Run
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.engine.triton import VARIANTS, TritonBackend, TritonStep
from sparseae.errors import first_line
from sparseae.model.trial import Trial

#: Steps of an epoch that is measured, and epochs of each way.
_STEPS, _ROUNDS = 50, 3

#: Steps after which a way is compared with float64.
_CHECKED = 6

#: Largest difference from float64 after them, as a share of how far the weights have moved; of
#: TF32's products, which sweeps must ask for, thirty times that.
_ERROR, _TF32_ERROR = 1e-3, 3e-2


@dataclass
class Way:
    """A way to step, as it was found here.

    Attributes:
        error: difference from float64, as a share of how far the weights have moved.
        measuring_error: of what is then measured: the relative one of the squared error, and that
            of the activation fraction.
        right: whether both are as little as they must be.
        seconds: of a step; infinite where it was not timed, because it is not right.
        measuring_seconds: of a measurement of an epoch's samples, a step's share.
    """

    error: float
    measuring_error: float
    right: bool
    seconds: float = math.inf
    measuring_seconds: float = math.inf


def fastest(ways: Mapping[str, Way]) -> str:
    """What is chosen of `compared`: by a step and its share of the measurement."""
    seconds = {name: w.seconds + w.measuring_seconds for name, w in ways.items() if w.right}
    return decided(seconds, plain="")


def choose_on_card(
    trials: Sequence[Trial], inputs: int, device: torch.device | str, *, tf32: bool = False
) -> str:
    """What a card does for steps of these members: ``triton-a`` and so on, "" for torch's."""
    return fastest(compared(trials, inputs, device, tf32=tf32))


def compared(
    trials: Sequence[Trial], inputs: int, device: torch.device | str, *, tf32: bool = False
) -> dict[str, Way]:
    """Every way to take steps of these members, by its name in a choice.

    Each takes some steps from the same weights with the same noise, and is compared with float64.
    Those that are right take turns at epochs, each as the program that it would be in a sweep. One
    that cannot run is left out, and said why.
    """
    batch = trials[0].training.batch_size
    x = torch.randn(_STEPS * batch, inputs, generator=torch.Generator().manual_seed(0))

    def stack_by(name: str, dtype: torch.dtype = torch.float32) -> Stack:
        return Stack(
            trials, x, device, dtype, TORCH + ON_CARD + name, tf32=tf32, together=len(trials),
            at_once=True,
        )  # fmt: skip

    exact = stack_by("", torch.float64)
    moved = exact.W.clone()
    _take_steps(exact)
    moved = float((exact.W - moved).norm())
    measured = exact.measure()
    limit = _TF32_ERROR if tf32 else _ERROR
    ways: dict[str, Way] = {}
    stacks: dict[str, Stack] = {}
    for name in ["", *(f"{TritonBackend.name}-{variant}" for variant in VARIANTS)]:
        try:
            stack = stack_by(name)
            if name and not isinstance(stack.steps[0], TritonStep):
                continue  # it is missing, or refuses
            _take_steps(stack)
            error = float((stack.W.double() - exact.W).norm()) / moved
            measuring_error = _difference(stack.measure(), measured)
            stack.train_epoch(1)  # captures
        except Exception as caught:  # a compiler may raise anything
            logging.getLogger(__name__).warning("%s cannot be used: %s", name, first_line(caught))
            continue
        right = error <= limit and measuring_error <= limit
        ways[name] = Way(error, measuring_error, right=not name or right)
        if ways[name].right:
            stacks[name] = stack
    for epoch in range(2, 2 + _ROUNDS):
        for name, stack in stacks.items():
            way, epoch_of = ways[name], partial(stack.train_epoch, epoch)
            way.seconds = min(way.seconds, _seconds(stack, epoch_of) / _STEPS)
            measuring = _seconds(stack, stack.measure) / _STEPS
            way.measuring_seconds = min(way.measuring_seconds, measuring)
    return ways


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


def _difference(one: Measurement, other: Measurement) -> float:
    """Largest of any member: of the squared error, relative, and of the activation fraction."""
    squares = one.reconstruction_error / other.reconstruction_error - 1
    active = one.activation_fraction - other.activation_fraction
    return float(torch.stack([squares, active]).abs().max())


def _seconds(stack: Stack, work: Callable[[], object]) -> float:
    def wait() -> None:
        if stack.device.type == "cuda":
            torch.cuda.synchronize(stack.device)

    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began
