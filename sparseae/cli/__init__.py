"""The command line. Each command imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

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
    from sparseae.errors import RequestError

    try:
        app()
    except RequestError as error:
        typer.echo(f"sparseae: {error}", err=True)
        raise SystemExit(error.status) from None


# Each registers its commands on `app`.
from sparseae.cli import (  # noqa: E402
    analysis,  # noqa: F401
    columns,  # noqa: F401
    compare,  # noqa: F401
    data,  # noqa: F401
    plan,  # noqa: F401
    quickstart,  # noqa: F401
from sparseae.cli import (  # noqa: E402
    analysis,  # noqa: F401
    columns,  # noqa: F401
    compare,  # noqa: F401
    data,  # noqa: F401
    plan,  # noqa: F401
    quickstart,  # noqa: F401
    replay,  # noqa: F401
    run,  # noqa: F401
    submit,  # noqa: F401
    theory,  # noqa: F401
)
    run,  # noqa: F401
    submit,  # noqa: F401
    theory,  # noqa: F401
)
