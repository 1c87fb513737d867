"""The command line. Each command imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import typer

app = typer.Typer(
    name="sparseae",
    help="Which regularizer, activation and constraint make an auto-encoder learn a sparse "
    "representation? Sweeps on Ray Tune, results as Parquet, verdicts with numbers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command; a RequestError becomes one line on stderr and its exit status."""
    from sparseae import paths
    from sparseae.errors import RequestError

    try:
        app()
    except RequestError as error:
        typer.echo(f"sparseae: {paths.in_public(str(error))}", err=True)
        raise SystemExit(error.status) from None


# Every file here registers its commands on `app`; an underscore marks what commands share.
for _found in iter_modules(__path__):
    if not _found.name.startswith("_"):
        import_module(f"{__name__}.{_found.name}")
