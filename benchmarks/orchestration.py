"""What a sweep costs beside its training: cutting, start-up, Tune trials, Parquet.

    python benchmarks/orchestration.py [--quick] [--trials 1000]

Every figure is measured in this run. The Tune trials are real ones, through the whole path of
`sparseae run`, of a network with two units on two inputs that trains in no time.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from sparseae.api import run
from sparseae.results.store import Store
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Observer, Task
from sparseae.sweep.plan import _last_finish, cut, kind_of, stacks

CONFIGS = Path(__file__).parents[1] / "tune_configs"
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: What this program is called with to time one start: the second it began, and where to write.
STARTUP = "--startup"


def cutting() -> Table:
    """Finish of the last worker over work divided by workers, by simulation."""
    table = Table(title="last worker's finish / (work / workers)", title_justify="left")
    for column in ("workers", "pieces", "speed as FLOPs say", "models 2/3 to 3/2 as fast"):
        table.add_column(column, justify="right")
    whole = stacks(Sweep.load(CONFIGS / "paper.yaml"))
    for workers in WORKERS:
        pieces = cut(whole, workers)
        even = _last_finish([p.flops for p in pieces], workers) * workers
        spread = [_late(pieces, workers, seed) for seed in range(10)]
        table.add_row(
            str(workers),
            str(len(pieces)),
            f"{even / sum(p.flops for p in pieces):.2f}",
            f"{sum(spread) / len(spread):.2f} ({max(spread):.2f} at worst)",
        )
    return table


def _late(pieces: Sequence[Any], workers: int, seed: int) -> float:
    slower: dict[tuple, float] = {}
    generator = random.Random(seed)
    seconds = [
        p.flops * slower.setdefault(kind_of(p.trials[0]), generator.uniform(2 / 3, 3 / 2))
        for p in pieces
    ]
    return _last_finish(seconds, workers) / (sum(seconds) / workers)


class FirstRows(Observer):
    """Says how long after the process began the first rows came."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.seconds: float | None = None

    def rows(self, task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.seconds is None:
            self.seconds = time.time() - self._began


def startup(folder: str) -> float:
    """Seconds from starting Python to the first measured epoch of the quickstart on Ray."""
    command = [sys.executable, __file__, STARTUP, repr(time.time()), folder]
    return float(subprocess.check_output(command, text=True).splitlines()[-1])


def _time_startup(began: str, folder: str) -> None:
    view = FirstRows(float(began))
    quick = ["training.epochs=1", "space.dataset=[digits]", "space.model=[cae]"]
    run(CONFIGS / "quickstart.yaml", results=folder, set_values=quick, observer=view)
    print(view.seconds)


class Milestones(Observer):
    """The driver's time and memory when so many Tune trials have finished."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._finished = 0
        self.reached: list[tuple[int, float, float, float]] = []

    def finished(self, task: Task) -> None:
        self._finished += 1
        # The first ones, while the workers start, are no part of the cost of a trial.
        if self._finished == 10 or self._finished % self._every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            used = (time.perf_counter(), time.process_time(), pages * resource.getpagesize())
            self.reached.append((self._finished, *used))


def tune_trials(count: int, folder: str) -> Table:
    """Wall time, driver's CPU time and memory of a Tune trial with four reports."""
    side = math.isqrt(count)
    count = side * side
    view = Milestones(max(10, count // 5))
    sweep = {
        "name": "trivial",
        "space": {
            # Not all on one axis: Tune copies the values of every axis for each trial.
            "model": "cae", "activation": "relu", "sigma2": [k / side for k in range(side)],
            "constraint": "none", "dataset": "gaussian", "seed": list(range(side)),
        },
        "stack": [],
        "training": {"epochs": 3, "hidden_units": 2, "samples": 50, "gaussian_inputs": 2},
    }  # fmt: skip
    began = time.perf_counter()
    results = run(sweep, results=folder, observer=view)
    whole = time.perf_counter() - began
    if results.failed:
        raise SystemExit(f"{len(results.failed)} trials failed")
    files = sum(len(names) for _, _, names in os.walk(folder))
    table = Table(
        title=f"{count} Tune trials of 4 epochs on {os.cpu_count()} cores; "
        f"{whole:.0f} s with start and end, {files / count:.1f} files a trial",
        title_justify="left",
    )
    for column in ("trials", "wall ms", "worker's ms", "driver's CPU ms", "driver's kB"):
        table.add_column(column, justify="right")
    workers = os.cpu_count() or 1
    for before, after in zip(view.reached, view.reached[1:], strict=False):
        new = after[0] - before[0]
        wall, cpu, memory = (b - a for a, b in zip(before[1:], after[1:], strict=True))
        table.add_row(
            f"{before[0]} to {after[0]}",
            f"{1e3 * wall / new:.1f}",
            f"{1e3 * wall / new * workers:.1f}",
            f"{1e3 * cpu / new:.1f}",
            f"{memory / new / 1e3:.0f}",
        )
    return table


class Stopwatch:
    """Adds up the seconds in calls of methods, not twice where one calls another."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running = False

    def timed(self, method: Callable) -> Callable:
        @wraps(method)
        def call(*args: Any, **keys: Any) -> Any:
            if self._running:
                return method(*args, **keys)
            began, self._running = time.perf_counter(), True
            try:
                return method(*args, **keys)
            finally:
                self._running = False
                self.seconds += time.perf_counter() - began

        return call


def parquet(folder: str, *, quick: bool) -> tuple[float, float]:
    """Seconds of a run of the quickstart on Ray, and those in which its rows were written."""
    watch, fewer = Stopwatch(), ["space.dataset=[digits]"] if quick else []
    began = time.perf_counter()
    with (
        patch.object(Store, "add", watch.timed(Store.add)),
        patch.object(Store, "flush", watch.timed(Store.flush)),
    ):
        run(CONFIGS / "quickstart.yaml", results=folder, set_values=fewer)
    return time.perf_counter() - began, watch.seconds


def main() -> None:
    if sys.argv[1:2] == [STARTUP]:
        _time_startup(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer trials, one start")
    parser.add_argument("--trials", type=int, help="Tune trials to run (default 500)")
    arguments = parser.parse_args()
    count = arguments.trials or (50 if arguments.quick else 500)
    console = Console()
    console.print(cutting())
    with tempfile.TemporaryDirectory() as folder:
        whole, wrote = parquet(f"{folder}/parquet", quick=arguments.quick)
        share = f"{wrote:.2f} s of the {whole:.1f} s of a quickstart: {wrote / whole:.2%}"
        console.print(f"Parquet: {share}")
        starts = [startup(f"{folder}/start{n}") for n in range(1 if arguments.quick else 3)]
        console.print("prompt to first epoch:", ", ".join(f"{s:.1f} s" for s in starts))
        console.print(tune_trials(count, f"{folder}/trivial"))


if __name__ == "__main__":
    main()
