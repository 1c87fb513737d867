"""``sparseae plan``: what would run."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app
from sparseae.cli._source import Config, SetValues, sweep_of


@app.command()
def plan(
    config: Config,
    set_values: SetValues = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Tune trials at once; default: this machine's CPUs.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to plan for; as http://HOST:8265 it is asked through its job API."
        ),
    ] = None,
) -> None:
    """Show what would run: trials, epochs, memory, work, estimated time. Trains nothing."""
    from sparseae.sweep.plan import make_plan

    sweep = sweep_of(config, set_values)
    if address and "://" in address:
        from sparseae.cli.submit import jobs_at

        console.write(jobs_at(address).plan(sweep))
        return
    at_once = workers or max(1, int((os.cpu_count() or 1) / sweep.resources.cpu))
    placed, gpu = "", False
    if address:
        from sparseae.cluster.placement import describe, place
        from sparseae.cluster.tune import look

        cluster = look(address)
        placement = place(sweep.resources, cluster)
        at_once, placed = placement.workers, describe(placement, cluster)
        gpu = placement.gpu_workers > 0
    made = make_plan(sweep, at_once, gpu=gpu)
    left_out = [
        f"{count:,} {word}"
        for count, word in ((made.excluded, "excluded"), (made.merged, "equal to another"))
        if count
    ]
    rows: list[list[str]] = []

    def add(*row: str) -> None:
        rows.append([*row])

    add("sweep", sweep.name)
    add("trials", f"{made.trials:,}" + (f" ({', '.join(left_out)})" if left_out else ""))
    add("Tune trials", f"{made.tune_trials:,} for {made.workers:,} at once")
    if placed:
        add("placement", placed)
    measured = made.epochs + made.trials
    add("epochs", f"{made.epochs:,}, with epoch 0 of each trial {measured:,} rows")
    add("samples", f"{made.samples:,}")
    where = "of a card " if gpu else ""
    memory = f"{_bytes(made.largest_memory)} {where}for the largest Tune trial"
    if made.preparation_memory > made.largest_memory:
        memory += f"; {_bytes(made.preparation_memory)} before, to prepare the data"
    add("memory", memory)
    add("checkpoints", _bytes(made.checkpoint_bytes))
    add("work", f"{made.flops / 1e12:,.1f} TFLOP")
    time = "not known: the speed of a GPU is measured by training on it"
    if made.seconds is not None and made.rate is not None:
        time = (
            f"about {_duration(made.seconds)} on {made.workers} CPU workers, at the "
            f"{made.rate / 1e9:.0f} GFLOP/s measured on one core of this machine"
        )
    add("time", time)
    console.table([("", "left"), ("", "fold")], rows, head=False)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
