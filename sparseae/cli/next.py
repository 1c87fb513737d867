"""``sparseae next``: what would decide the statements that are open, and training just that."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import app

if TYPE_CHECKING:
    from rich.console import Console

    from sparseae.cli._deciding import Proposal


@app.command("next")
def next_command(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    run: Annotated[bool, typer.Option("--run", help="Train just that.")] = False,
    hours: Annotated[
        float, typer.Option(min=0.0, help="Of --run: stop before training takes longer.")
    ] = 1.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at once; default: this machine's CPUs.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; without it Ray starts on this machine.")
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Train in this process, without Ray.")
    ] = False,
) -> None:
    """For each open statement: what would decide it, with what odds, in what time."""
    from rich.console import Console

    from sparseae.cli import _deciding
    from sparseae.errors import RequestError
    from sparseae.sweep.stop import interrupt

    if address and in_process:
        raise RequestError("--address and --in-process exclude each other")
    console = Console()
    at_once = 1 if in_process else workers or os.cpu_count() or 1
    if not run:
        _print(console, _deciding.propose(place, at_once), place)
        return
    signal.signal(signal.SIGTERM, interrupt)

    def show(proposals: list[Proposal]) -> None:
        _print(console, proposals, None)

    ended = _deciding.decide(
        place, hours * 3600, at_once, console, show, address=address, in_process=in_process
    )
    console.print(ended, highlight=False, markup=False)


def _print(console: Console, proposals: list[Proposal], place: str | None) -> None:
    """A statement a line, those that can be decided first."""
    from rich.table import Table
    from rich.text import Text

    if not proposals:
        console.print("nothing is open: every statement that was tested is decided")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("open", overflow="fold")
    table.add_column("what would decide it", overflow="fold")
    table.add_column("odds", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    hopeful = [p for p in proposals if p.option is not None]
    for p in sorted(hopeful, key=lambda p: (-p.odds, p.seconds)):
        table.add_row(Text(p.label), Text(p.words), f"{p.odds:.0%}", duration(p.seconds))
    if hopeful:
        console.print(table, highlight=False)
    hopeless = [p for p in proposals if p.option is None]
    if hopeless:
        console.print(Text("\nnot by ten times as much of the same:" if hopeful else
                           "not by ten times as much of the same:", "dim"))  # fmt: skip
        for p in hopeless:
            console.print(Text(f"  {p.label}: {p.words}"))
    if place and hopeful:
        total = sum(p.seconds for p in hopeful)
        console.print(
            Text(f"\nsparseae next {place} --run    trains them, in at most {duration(total)}"),
            soft_wrap=True,
        )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
