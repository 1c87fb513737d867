"""``sparseae data``: the data sets, and fetching them."""

from __future__ import annotations

from typing import Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app

data_app = typer.Typer(help="The data sets: list them, fetch one.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("list")
def list_data() -> None:
    """The data sets by name, and where they are."""
    from sparseae import data

    rows = []
    many = 10**9
    for name, kind in sorted(data.SOURCES.items()):
        source = kind()
        samples, inputs = source.shape(many, 64)
        follows = source.shape(many, 65)[1] != inputs  # what gaussian_inputs says
        sizes = ["any" if follows else str(inputs), "any" if samples == many else f"{samples:,}"]
        rows.append([name, *sizes, source.about, source.where()])
    rows.append(["a path", "any", "any", data.Matrix.about, ""])
    columns = [("name", "left"), ("inputs", "right"), ("samples", "right"), ("about", "fold")]
    console.table([*columns, ("where", "fold")], rows)


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="One of `sparseae data list`.")],
) -> None:
    """Bring a data set to this machine."""
    from sparseae import data

    console.say(f"{name}: {data.source(name).fetch()}")
