"""How often the trend classifier is right on simulated curves with a known answer.

    python benchmarks/calibration.py [--curves 500]

Prints a confusion matrix for each noise and number of seeds. Noise is the standard deviation of a
final activation fraction; real runs have 0.0001 to 0.008 (column ``noise`` of `sparseae.trends`).
Wrong is: flat called a trend, a trend called flat, or a trend of another direction.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sparseae.analysis.curves import Curve
from sparseae.analysis.trends import trend_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.analysis.frames import SHAPES, SIGMA2

CLASSES = ("flat", "decreasing", "increasing", "irregular", "undecided")
TRUTH = {"flat": "flat", "decreasing": "decreasing", "plateau": "decreasing", "weak": "decreasing",
         "increasing": "increasing", "irregular": "irregular"}  # fmt: skip


def simulated(shape: str, seeds: int, noise: float, rng: np.random.Generator) -> Curve:
    """A curve with an effect of the seed, of the same size as the noise."""
    sigma2 = np.array(SIGMA2)
    y = SHAPES[shape](sigma2) + rng.normal(0, noise, (seeds, 1))
    y = np.clip(y + rng.normal(0, noise, (seeds, sigma2.size)), 0, 1)
    return Curve(
        name={}, sigma2=sigma2, seeds=np.arange(seeds), activation=y,
        dead=np.zeros_like(y), moved=np.zeros_like(y),
        drift=np.zeros_like(y), epoch=50, trials=y.size,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=int, default=500, help="curves a cell")
    arguments = parser.parse_args()
    rng, console = np.random.default_rng(0), Console()
    for seeds in (2, 3, 5):
        for noise in (0.002, 0.005, 0.01, 0.05):
            table = Table(title=f"{seeds} seeds, noise {noise}, {arguments.curves} curves a row")
            table.add_column("truth")
            for name in (*CLASSES, "wrong"):
                table.add_column(name, justify="right")
            for shape, truth in TRUTH.items():
                counts = Counter(
                    trend_of(simulated(shape, seeds, noise, rng)).trend
                    for _ in range(arguments.curves)
                )
                wrong = arguments.curves - counts[truth] - counts["undecided"]
                table.add_row(
                    shape,
                    *(f"{counts[name] / arguments.curves:.1%}" for name in CLASSES),
                    f"{wrong / arguments.curves:.1%}",
                )
            console.print(table)


if __name__ == "__main__":
    main()
