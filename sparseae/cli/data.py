"""``sparseae data``: the data sets, and fetching them."""

from __future__ import annotations

from typing import Annotated

import typer

from sparseae.cli import app

data_app = typer.Typer(help="The data sets: list them, fetch one.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("list")
def list_data() -> None:
    """The data sets by name, and where they are."""
    from rich.console import Console
    from rich.table import Table

    from sparseae import data

    table = Table(box=None)
    for column in ("name", "inputs", "samples", "about", "where"):
        table.add_column(
            column,
            justify="right" if column in ("inputs", "samples") else "left",
            overflow="fold",
        )
    many = 10**9
    for name, kind in sorted(data.SOURCES.items()):
        source = kind()
        samples, inputs = source.shape(many, 64)
        follows = source.shape(many, 65)[1] != inputs  # what gaussian_inputs says
        table.add_row(
            name,
            "any" if follows else str(inputs),
            "any" if samples == many else f"{samples:,}",
            source.about,
            source.where(),
        )
    table.add_row("a path", "any", "any", data.Matrix.about, "")
    Console().print(table)


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="One of `sparseae data list`.")],
) -> None:
    """Bring a data set to this machine."""
    from sparseae import data

    typer.echo(f"{name}: {data.source(name).fetch()}")
