"""``sparseae columns``: what each column of the results means."""

from __future__ import annotations

from typing import Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app


@app.command()
def columns(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Those alone; default: all.")
    ] = None,
) -> None:
    """Print what each column of the results means, and in which unit it is."""
    from rich.table import Table

    from sparseae.errors import RequestError, nearest
    from sparseae.results import columns as results

    parts = {"epochs/": results.epochs(), "units/": results.units(), "weights/": results.weights()}
    known = {column.name for part in parts.values() for column in part}
    for name in names or ():
        if name not in known:
            raise RequestError(f"column {name!r}: there is none; {nearest(name, known)}")
    for title, part in parts.items():
        table = Table(box=None, title=title, title_justify="left", title_style="bold")
        for heading in ("column", "unit", "meaning"):
            table.add_column(heading, overflow="fold", header_style="dim")
        for column in part:
            if not names or column.name in names:
                table.add_row(column.name, column.unit, column.meaning)
        if table.rows:
            console.show(table)
            console.say()
