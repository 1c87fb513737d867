"""``sparseae plan``: what would run."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app
from sparseae.cli._source import Config, SetValues, sweep_of

if TYPE_CHECKING:
    from sparseae.cluster.files import Prices
    from sparseae.sweep.plan import Plan


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
    cluster_file: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="FILE",
            help="Plan for the machines that `ray up FILE` may start, which need not be up.",
        ),
    ] = None,
) -> None:
    """Show what would run: trials, epochs, memory, work, time, cost. Trains nothing."""
    from sparseae.errors import RequestError
    from sparseae.sweep.plan import make_plan

    if address and cluster_file:
        raise RequestError("--cluster: the machines are --address's, or a file's, not both")
    sweep = sweep_of(config, set_values)
    if address and "://" in address:
        from sparseae.cli.submit import jobs_at

        console.write(jobs_at(address).plan(sweep))
        return
    at_once = workers or max(1, int((os.cpu_count() or 1) / sweep.resources.cpu))
    placed, placement, prices = "", None, None
    if address or cluster_file:
        from sparseae.cluster.placement import describe, place

        if cluster_file:
            from sparseae.cluster.files import read

            cluster, prices = read(cluster_file)
        else:
            from sparseae.cluster.tune import look

            cluster = look(address)
        placement = place(sweep.resources, cluster)
        at_once, placed = workers or placement.workers, describe(placement, cluster)
    gpu = placement is not None and placement.gpu_workers > 0
    share, card = (placement.gpu, placement.card) if placement is not None and gpu else (1.0, None)
    made = make_plan(sweep, at_once, gpu=gpu, card=card, share=share)
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
    add("time", _time(made, card, at_once * share))
    if cluster_file and gpu:
        add("cost", _cost(made, prices, at_once * share))
    console.table([("", "left"), ("", "fold")], rows, head=False)


def _time(made: Plan, card: str | None, cards: float) -> str:
    if made.seconds is None:
        return f"not known: {card or 'a card that Ray does not name'} was never measured"
    about = f"about {console.duration(made.seconds)} on"
    if made.rate is None:
        return f"{about} {cards:g} {card}, by its data sheet and what an H200 reaches of its own"
    return (
        f"{about} {made.workers} CPU workers, at the {made.rate / 1e9:.0f} GFLOP/s measured on one "
        "core of this machine"
    )


def _cost(made: Plan, prices: Prices | None, cards: float) -> str:
    if prices is None:
        return "not known: the file has no provider.usd_per_hour, as {head: 0.1, gpu: 0.5}"
    if made.seconds is None:
        return "not known, as the time is not"
    machines = math.ceil(cards / prices.cards)
    hourly = prices.head + machines * prices.machine
    return (
        f"about {hourly * made.seconds / 3600:,.2f} $: {hourly:.2f} $ an hour for the head and "
        f"{machines} machines; their start and idle minutes come to it"
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
