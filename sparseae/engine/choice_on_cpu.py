"""Which way a CPU computes a step: each product by its fastest routine, then whole steps."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

from sparseae.engine.choice import WHOLE, Shape, decided, operands_of, parts, products_of, usable
from sparseae.engine.products import PRODUCTS, ROUTINES, joined, names_of
from sparseae.engine.stack import Stack
from sparseae.errors import RequestError, nearest
from sparseae.model.trial import Training, Trial

#: Forces a choice: ``torch``, ``onednn`` or three of them with slashes, and behind it ``+run``,
#: ``+c`` or nothing.
VARIABLE = "SPARSEAE_GEMM"

#: Seconds of measuring each product, and the steps; and the least number of turns.
_SECONDS, _ROUNDS = 0.02, 3

#: Steps that are timed in a row, of a model that has least beside its products: what another spares
#: by C is more.
_STEPS, _MODEL, _ACTIVATION = 4, "ae", "sigmoid"


def choose(shape: Shape, threads: int) -> str:
    """The fastest correct choice for steps of this shape in float32.

    Measured once a process, in 0.1 to 0.5 s; `VARIABLE` overrides it.

    Raises:
        RequestError: if `VARIABLE` names a routine that is unknown or not usable here.
    """
    forced = os.environ.get(VARIABLE)
    if not forced:
        return _fastest(shape, threads)
    try:
        names = names_of(parts(forced)[0])
    except ValueError as error:
        raise RequestError(f"{VARIABLE}: {error}") from None
    for name in names:
        if name not in ROUTINES:
            raise RequestError(f"{VARIABLE}: unknown routine {name!r}; {nearest(name, ROUTINES)}")
    if not usable(forced, shape):
        raise RequestError(f"{VARIABLE}: {forced} is missing or wrong on this machine")
    return forced


@lru_cache
def _fastest(shape: Shape, threads: int) -> str:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        products = joined([decided(seconds) for seconds in _seconds_of_products(shape).values()])
        if not usable(in_c := products + WHOLE, shape):
            return products
        steps = {name: _steps(shape, name) for name in (products, in_c)}
        return decided(_least(steps), plain=products)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _seconds_of_products(shape: Shape) -> dict[str, dict[str, float]]:
    """The least seconds of each routine, by product."""
    operands = operands_of(shape)
    made = {name: products_of(ROUTINES[name], operands) for name in ROUTINES if usable(name, shape)}

    def all_of(product: str, name: str) -> Callable[[], None]:
        def call() -> None:
            for one in made[name][product]:
                one()

        return call

    return {product: _least({name: all_of(product, name) for name in made}) for product in PRODUCTS}


def _steps(shape: Shape, choice: str) -> Callable[[], None]:
    """Some steps of one member."""
    training = Training(hidden_units=shape.units, batch_size=shape.rows, learning_rate=0.0)
    trial = Trial(
        model=_MODEL, activation=_ACTIVATION, sigma2=0.0, constraint="unit_norm", dataset="noise",
        seed=0, training=training,
    )  # fmt: skip
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(_STEPS * shape.rows, shape.inputs, generator=stream)
    stack = Stack([trial], x, routine=choice)
    return lambda: stack.train_epoch(1)


def _least(calls: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """The least seconds of each call.

    They take turns, so that what else the machine does hits all alike.
    """
    least = dict.fromkeys(calls, math.inf)
    rounds, stop = 0, time.perf_counter() + _SECONDS
    while rounds < _ROUNDS or time.perf_counter() < stop:
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            least[name] = min(least[name], time.perf_counter() - began)
        rounds += 1
    return least
