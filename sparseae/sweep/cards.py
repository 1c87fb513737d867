"""Cards by the name that Ray has for them, and how long a stack takes on one.

A step of a stack takes its launches and a few times its floor: its products at the card's float32
rate, or seven passes over the weights at its bandwidth, whichever is longer. Both numbers were
measured on an H200 at be80754, with stacks of 1, 12, 36 and 72 members at 784 and 192 inputs, where
they are within 15 %; on other cards they are taken to be the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparseae.engine.footprint import flops
from sparseae.model.trial import Trial


@dataclass(frozen=True)
class Card:
    """A card, by its maker's data sheet.

    Attributes:
        gigabytes: of memory; the smallest that is sold under the name.
        teraflops: float32, without tensor cores, a second.
        bandwidth: gigabytes a second to and from its memory.
    """

    gigabytes: int
    teraflops: float
    bandwidth: float


#: By Ray's ``accelerator_type``.
CARDS = {
    "A10G": Card(24, 31.2, 600),
    "A100": Card(40, 19.5, 1555),
    "A100-40G": Card(40, 19.5, 1555),
    "A100-80G": Card(80, 19.5, 1935),
    "B200": Card(180, 75.0, 7700),
    "GH200": Card(96, 67.0, 4000),
    "H100": Card(80, 67.0, 3350),
    "H20": Card(96, 44.0, 4000),
    "H200": Card(141, 67.0, 4800),
    "K80": Card(12, 4.4, 240),
    "L4": Card(24, 30.3, 300),
    "L40S": Card(48, 91.6, 864),
    "P100": Card(16, 9.3, 732),
    "P4": Card(8, 5.5, 192),
    "RTX-PRO-6000": Card(96, 125.0, 1792),
    "T4": Card(16, 8.1, 320),
    "V100": Card(16, 15.7, 900),
}

#: Of a data sheet's figures, what an H200 reached in a large product (50.7 TFLOP/s) and a copy.
_OF_TERAFLOPS, _OF_BANDWIDTH = 0.76, 0.88
#: Seconds of a step's launches, and how many times its floor the rest takes.
_LAUNCHES, _STEP = 70e-6, 4.0
#: The same of a measurement, whose floor is its products: 3.5 s of 1.9 (12 members, 784 inputs) and
#: 4 s of 1.4 (36 members, 192 inputs).
_MEASUREMENT = 2.3
#: Passes over W or V in a step: three products read W, V and W are read and written once.
_PASSES = 7


def seconds_on(card: Card, trials: Sequence[Trial], samples: int, inputs: int) -> float:
    """How long a stack trains and measures on a card that it has to itself."""
    first = trials[0]
    t, members = first.training, len(trials)
    training, measuring = (members * work for work in flops(first, inputs))
    rate, bandwidth = _OF_TERAFLOPS * card.teraflops * 1e12, _OF_BANDWIDTH * card.bandwidth * 1e9
    passes = _PASSES * members * t.hidden_units * inputs * 4 / bandwidth
    step = _LAUNCHES + _STEP * max(training * t.batch_size / rate, passes)
    epoch = math.ceil(samples / t.batch_size) * step
    return t.epochs * epoch + (t.epochs + 1) * _MEASUREMENT * measuring * samples / rate
