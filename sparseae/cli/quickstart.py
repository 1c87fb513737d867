"""``sparseae quickstart`` and ``sparseae configs``: what an installed package can do by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Argument(help="Where results/ is made; default: here.")] = Path(),
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the configuration, repeatable."),
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Train in this process, without Ray.")
    ] = False,
) -> None:
    """Run the embedded sweep of 576 trials, then print its verdicts and write its page."""
    from sparseae.cli.analysis import analyze
    from sparseae.cli.report import report
    from sparseae.cli.run import run
    from sparseae.results.location import below
    from sparseae.sweep import Sweep, embedded

    config, results = embedded.path("quickstart"), str(folder / "results")
    place = below(results, Sweep.load(config, set_values or ()).name)
    run(config, results=results, set_values=set_values, in_process=in_process)
    analyze([place])
    report(place)
    console.say("next: sparseae configs    (the other sweeps that come with sparseae)")


@app.command()
def configs(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Those to copy.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder to copy into.")] = Path("tune_configs"),
    all_of_them: Annotated[bool, typer.Option("--all", help="Copy every one.")] = False,
) -> None:
    """List the configurations that come with sparseae, or copy some to be read and changed."""
    from sparseae.sweep import embedded

    wanted = embedded.names() if all_of_them else names or []
    for name in wanted:
        embedded.path(name)  # a misspelt name copies nothing
    for name in wanted:
        console.say(f"sparseae run {embedded.copy(name, to)}")
    if wanted:
        return
    width = max(map(len, embedded.names()))
    for name in embedded.names():
        console.say(f"{name:{width}}  {embedded.about(name)}")
    console.say()
    console.say(f"sparseae configs NAME    copies it to {to}/NAME.yaml")
