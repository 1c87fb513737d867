"""``sparseae report``: the figures and the page. Neither torch nor Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app


@app.command()
def report(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    output: Annotated[str | None, typer.Option(help="Where to write; default: DIR/report.")] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Serve the page to this machine and renew it as rows arrive."),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of --live; default: any that is free.")
    ] = 0,
) -> None:
    """Write the figures and one HTML page with the verdicts."""
    from sparseae import paths
    from sparseae.analysis.report import report as write
    from sparseae.errors import RequestError

    if output is not None:
        output = paths.checked(output, "--output")
        if paths.is_url(output):
            raise RequestError(f"--output {paths.public(output)}: must be a local folder")
    elif paths.is_url(place):
        raise RequestError(f"report {paths.public(place)}: name a local folder with --output")
    folder = Path(output or os.path.join(paths.checked(place, "DIR"), "report"))
    if not live:
        console.say(f"report: {write(place, folder)}")
        return
    from sparseae.analysis.live import Live, serving

    page = Live(place, folder, console.say)
    page.renew()
    with serving(page, folder, port) as address:
        console.say(f"live: {address} (Ctrl-C ends it; the page stays in {folder})")
        page.wait()
