"""``sparseae next``: what would decide the statements that are open, and training just that."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app
from sparseae.cli._source import Address, InProcess, require_one_place

if TYPE_CHECKING:
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
    address: Address = None,
    in_process: InProcess = False,
) -> None:
    """For each open statement: what would decide it, with what odds, in what time."""
    from sparseae.cli import _deciding
    from sparseae.sweep.stop import interrupt

    require_one_place(address, in_process)
    at_once = 1 if in_process else workers or os.cpu_count() or 1
    if not run:
        _print(_deciding.propose(place, at_once), place)
        return
    signal.signal(signal.SIGTERM, interrupt)

    def show(proposals: list[Proposal]) -> None:
        _print(proposals, None)

    how = {"address": address, "in_process": in_process}
    console.say(_deciding.decide(place, hours * 3600, at_once, show, **how))


def _print(proposals: list[Proposal], place: str | None) -> None:
    """A statement a line, those that can be decided first."""
    if not proposals:
        console.say("nothing is open: every statement that was tested is decided")
        return
    hopeful = [p for p in proposals if p.option is not None]
    rows = [
        (p.label, p.words, f"{p.odds:.0%}", console.duration(p.seconds))
        for p in sorted(hopeful, key=lambda p: (-p.odds, p.seconds))
    ]
    columns = [("open", "fold"), ("what would decide it", "fold")]
    if rows:
        console.table([*columns, ("odds", "right"), ("time", "right")], rows)
    hopeless = [p for p in proposals if p.option is None]
    if hopeless:
        if rows:
            console.say()
        console.say("not by ten times as much of the same:", "dim")
        for p in hopeless:
            console.paragraph(f"{p.label}: {p.words}", indent=2)
    if place and hopeful:
        most = console.duration(sum(p.seconds for p in hopeful))
        console.say()
        console.say(f"sparseae next {place} --run    trains them, in at most {most}")
