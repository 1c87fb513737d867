"""``sparseae report``: the figures and the page. Neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparseae.cli import app


@app.command()
def report(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write; default: DIR/report.")
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Serve the page to this machine and renew it as rows arrive."),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of --live; default: any that is free.")
    ] = 0,
) -> None:
    """Write the figures and one HTML page with the verdicts."""
    from sparseae.analysis.report import report as write
    from sparseae.errors import RequestError

    if output is None:
        if "://" in place:
            raise RequestError(f"report {place}: name a local folder with --output")
        output = Path(place) / "report"
    if not live:
        typer.echo(f"report: {write(place, output)}")
        return
    from sparseae.analysis.live import Live, serving

    page = Live(place, output, typer.echo)
    page.renew()
    with serving(page, output, port) as address:
        typer.echo(f"live: {address} (Ctrl-C ends it; the page stays in {output})")
        page.wait()
