"""``sparseae list`` and ``sparseae clean``: the sweeps of a folder, and the room they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app


@app.command("list")
def list_sweeps(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of sweeps.")] = Path(
        "results"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the sweeps of a folder: state, trials, verdicts, size, when, note."""
    from rich import box
    from rich.table import Table

    from sparseae.sweep.folders import sweeps

    found = sweeps(folder)
    if as_json:
        plain = [
            vars(one) | {"place": str(one.place), "when": one.when.isoformat(timespec="seconds")}
            for one in found
        ]
        console.say(json.dumps(plain, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("sweep", "state", "trials", "verdicts", "size", "when", "note"):
        right = name in ("trials", "size")
        folds = name in ("sweep", "verdicts", "note")
        table.add_column(
            name, justify="right" if right else "left", overflow="fold", no_wrap=not folds
        )
    for one in found:
        whole = one.finished == one.trials
        words = [one.note, " ".join(f"#{tag}" for tag in one.tags)]
        table.add_row(
            str(one.place.relative_to(folder)) if one.place != folder else one.place.name,
            one.state,
            f"{one.trials:,}" if whole else f"{one.finished:,}/{one.trials:,}",
            ", ".join(f"{count} {verdict}" for verdict, count in one.verdicts.items()) or "-",
            size(one.size),
            f"{one.when:%Y-%m-%d %H:%M}",
            " ".join(filter(None, words)),
        )
    console.show(table)
    if freed := sum(one.checkpoints for one in found):
        console.say(f"checkpoints take {size(freed)} of this: sparseae clean DIR")


@app.command()
def clean(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a sweep.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete checkpoints and unfinished files of a sweep; its results stay. Says what, and asks."""
    from shutil import rmtree

    from sparseae.errors import RequestError
    from sparseae.results.location import Location
    from sparseae.results.lock import only_run
    from sparseae.sweep.folders import removable

    found = list(removable(place))
    if not found:
        console.say(f"{place}: nothing to delete")
        return
    with only_run(Location.of(place), console.say):
        for path, taken, what in found:
            console.say(f"{size(taken):>8}  {path}  ({what})")
        freed = size(sum(taken for _, taken, _ in found))
        if not yes and not typer.confirm(f"delete {freed}?"):
            console.say("nothing was deleted")
            raise typer.Exit(1)
        try:
            for path, _, _ in found:
                rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise RequestError(f"{error.filename}: cannot be deleted: {error.strerror}") from None
    console.say(f"freed {freed}")


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
