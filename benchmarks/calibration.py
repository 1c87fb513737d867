"""How often verdicts on simulated whole runs are wrong, where the answer is known.

    python benchmarks/calibration.py [--tables 300] [--epochs 20]
    python benchmarks/calibration.py --keep docs/templates/calibration.csv   # what the docs show

A run is simulated by epoch, with both measures and dead units: what a trial would be without
noise, plus what its seed brings to all its trials (common random numbers), plus a noise of its
own. It is judged as any sweep is: curves, trends, the table of verdicts, corrected as a whole, with
other models' curves around it, of which one is the control. Wrong is "supported" where the
statement does not hold in ten times the epochs, and "contradicted" where it does; the power is how
often the right one of them is said.

Noise is that of real runs (``results/paper``, relu cae and mdae): a trial's activation fraction has
a deviation of 0.003, which it gets early and keeps, and over the last fifth of the epochs it
changes by a fifth of that.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from sparseae.analysis.curves import Curve
from sparseae.analysis.trends import trend_of
from sparseae.analysis.verdicts import outcomes_of

#: The paper's twelve values of sigma2, and the quickstart's six.
GRIDS = {
    12: np.array([0, 0.001, *(np.arange(1, 11) / 10) ** 2]),
    6: np.array([0, 0.01, 0.09, 0.25, 0.49, 1.0]),
}

NOISE = 0.003

#: The part of a trial's noise that comes and goes, and how well neighbouring epochs agree in it.
_PASSING, _MEMORY = 0.25, 0.9


@dataclass(frozen=True)
class Kind:
    """A kind of curve, of relu cae or sigmoid cae.

    Attributes:
        pre: E[a_j] by sigma2 (K,) and time t (T,), the run's length being 1: (K, T).
        shift: what the activation fraction is where E[a_j] is 0, as a number of deviations.
        holds: whether the statement on the curve holds in ten times the epochs.
        dead: the fraction of dead units at sigma2 = 0.
        walk: deviation of a step of a random walk of the effect, common to the seeds of a sigma2
            in no way, over a whole run.
    """

    name: str
    pre: Callable[[np.ndarray, np.ndarray], np.ndarray]
    activation: str
    holds: bool
    shift: float = 0.0
    dead: float = 0.0
    walk: float = 0.0


def saturating(size: float, rate: float = 8.0) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """An effect of sigma that is there within a few epochs."""
    return lambda s, t: np.outer(-size * np.sqrt(s), 1 - np.exp(-rate * t))


def drifting(pace: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """An effect that grows evenly, by this much in the run's length."""
    return lambda s, t: np.outer(-pace * s, t)


def early(size: float, pace: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """An effect that is there at once, and a drift behind it."""
    return lambda s, t: np.outer(-size * s, 1 - np.exp(-20 * t)) + drifting(pace)(s, t)


def slowing(size: float, how: Callable[[np.ndarray], np.ndarray]):
    """An effect that grows ever slower, and does not stop; its size at the run's end."""
    return lambda s, t: np.outer(-size * s, how(t) / how(np.ones(1)))


def _logarithm(t: np.ndarray) -> np.ndarray:
    return np.log1p(8 * t)


def onset(at: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """sigmoid cae on digits: E[a_j] falls slowly, by the margin until this time, later fast."""
    return lambda s, t: (
        np.outer(s, -0.075 * t / at) - 2 * np.outer(s, 1 / (1 + np.exp(-8 * (t / at - 3))))
    )


KINDS = [
    Kind("flat", saturating(0.0), "relu", True),
    Kind("nearly flat (a third of the margin)", saturating(0.025), "relu", True),
    Kind("just beyond the margin (1.3)", saturating(0.0975), "relu", False),
    Kind("falls far", saturating(1.0), "relu", False),
    Kind("slow drift, out in twice the epochs", drifting(0.06), "relu", False),
    Kind("slow drift, out in five times", drifting(0.02), "relu", False),
    Kind("slow drift, out in eight times", drifting(0.01), "relu", False),
    Kind("early effect, then a drift, out in eight times", early(0.03, 0.006), "relu", False),
    Kind("drift as the square root, out in six times", slowing(0.03, np.sqrt), "relu", False),
    Kind("drift as the logarithm, out in five times", slowing(0.044, _logarithm), "relu", False),
    Kind("early effect that fades, gone in ten times", early(0.15, -0.012), "relu", True),
    Kind("random walk, as wide as the margin", saturating(0.0), "relu", True, walk=0.075),
    Kind("random walk, a third of it", saturating(0.0), "relu", True, walk=0.025),
    Kind("dead from the start", saturating(0.0), "relu", True, dead=0.998),
    Kind("sigmoid falls", saturating(1.5), "sigmoid", True),
    Kind("sigmoid flat", saturating(0.0), "sigmoid", False),
    Kind("ceiling, falling slowly (the quickstart)", onset(1.0), "sigmoid", True, shift=3.0),
    Kind("ceiling, earlier still", onset(3.0), "sigmoid", True, shift=3.0),
    Kind("ceiling, later", onset(0.3), "sigmoid", True, shift=3.0),
    Kind("ceiling, flat for good", saturating(0.0), "sigmoid", False, shift=3.0),
    Kind("transient, that is gone later", lambda s, t: np.outer(-0.3 * s, np.exp(-6 * t)),
         "relu", True),
]  # fmt: skip


def simulated(
    kind: Kind, model: str, sigma2: np.ndarray, seeds: int, epochs: int, rng: np.random.Generator
) -> Curve:
    """A whole run of a curve."""
    t = np.arange(epochs + 1) / epochs
    shape = seeds, sigma2.size, epochs + 1
    own = _noise(rng, shape)
    common = _noise(rng, (seeds, 1, epochs + 1))
    walk = kind.walk / np.sqrt(epochs) * rng.standard_normal(shape).cumsum(-1)
    walk *= (sigma2 > 0)[:, None]
    pre = kind.pre(sigma2, t) + (own + common) * NOISE / 0.4 + walk
    activation = _normal(kind.shift + pre)
    dead = np.full(shape, kind.dead)
    return Curve(
        name={"model": model, "activation": kind.activation, "constraint": "unit_norm",
              "dataset": kind.name},
        sigma2=sigma2, seeds=np.arange(seeds), activations=activation * (1 - dead), deads=dead,
        pre_activations=pre, lengths=np.ones(shape[:2]), epoch=epochs, trials=seeds * sigma2.size,
    )  # fmt: skip


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of deviation 1, which stays but for a part, by epoch (last axis); 0 at the start."""
    steps = rng.standard_normal(shape)
    noise = np.zeros(shape)
    for e in range(1, shape[-1]):
        noise[..., e] = _MEMORY * noise[..., e - 1] + np.sqrt(1 - _MEMORY**2) * steps[..., e]
    kept = rng.standard_normal(shape[:-1])[..., None] * (np.arange(shape[-1]) > 0)
    return np.sqrt(1 - _PASSING**2) * kept + _PASSING * noise


def _normal(z: np.ndarray) -> np.ndarray:
    """The Gaussian distribution function."""
    from scipy.special import ndtr

    return ndtr(z)


def verdict(
    kind: Kind, values: int, seeds: int, epochs: int, rng: np.random.Generator
) -> tuple[str, str]:
    """The verdict on a simulated table's statement, and what it needs."""
    sigma2 = GRIDS[values]
    falls = Kind(kind.name, saturating(1.5), kind.activation, True, kind.shift, kind.dead)
    curves = [simulated(kind, "cae", sigma2, seeds, epochs, rng)]
    curves += [simulated(falls, model, sigma2, seeds, epochs, rng) for model in ("dae", "sae")]
    name = "relu-flat" if kind.activation == "relu" else "sigmoid-sparser"
    label = f"{name}: {kind.activation} cae unit_norm"
    found = outcomes_of([(curve, trend_of(curve)) for curve in curves])
    outcome = next(o[kind.name] for case, o in found if case.label == label)
    return outcome.verdict, outcome.needs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=int, default=300, help="tables a cell")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a run")
    parser.add_argument("--keep", metavar="FILE", help="the table as CSV, which the docs show")
    arguments = parser.parse_args()
    cells = [(seeds, values) for seeds in (3, 5) for values in (6, 12)]
    head = ["kind", "statement", *(f"{s} seeds, {v} sigma2: wrong, right" for s, v in cells)]
    lines = []
    rng = np.random.default_rng(0)
    for kind in KINDS:
        right, wrong = ("supported", "contradicted")[:: 1 if kind.holds else -1]
        line = [kind.name, "holds" if kind.holds else "does not hold"]
        for seeds, values in cells:
            counts = Counter(
                verdict(kind, values, seeds, arguments.epochs, rng)[0]
                for _ in range(arguments.tables)
            )
            line.append(
                f"{counts[wrong] / arguments.tables:.1%}, {counts[right] / arguments.tables:.0%}"
            )
        lines.append(line)
    table = Table(*head, title=f"{arguments.tables} tables a cell, {arguments.epochs} epochs")
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    if arguments.keep:
        with open(arguments.keep, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *lines])


if __name__ == "__main__":
    main()
