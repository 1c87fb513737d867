"""The command line. Each command imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated

import typer

app = typer.Typer(
    name="sparseae",
    help="Which regularizer, activation and constraint make an auto-encoder learn a sparse "
    "representation? Sweeps on Ray Tune, results as Parquet, verdicts with numbers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from sparseae import __version__
        from sparseae.cli import _console as console

        console.say(f"sparseae {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Print it and leave."
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """Run the command; a RequestError becomes one line on stderr and its exit status."""
    from sparseae import paths
    from sparseae.cli import _console as console
    from sparseae.errors import RequestError

    console.prepare()
    try:
        os.getcwd()
    except OSError:  # libraries end the process where they meet it
        console.complain("the working directory is gone: change to one that is there")
        raise SystemExit(2) from None
    # Figures are files: no variable and no file of the user's says how they are drawn.
    os.environ["MPLBACKEND"] = "agg"
    console.keep_home_absent()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        app()
    except RequestError as error:
        console.complain(paths.in_public(str(error)))
        raise SystemExit(error.status) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        console.complain(f"{where}{error.strerror or error}")
        raise SystemExit(1) from None
    except MemoryError as error:
        console.complain(f"there is not enough memory: {error or 'no more is said'}")
        raise SystemExit(1) from None


# Every file here registers its commands on `app`; an underscore marks what commands share.
for _found in iter_modules(__path__):
    if not _found.name.startswith("_"):
        import_module(f"{__name__}.{_found.name}")
