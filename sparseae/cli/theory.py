"""``sparseae theory``: the paper's mathematics, checked without a sweep. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparseae.cli import app


@app.command()
def theory(
    output: Annotated[Path, typer.Option(help="Folder of the figures.")] = Path("results/theory"),
) -> None:
    """Check lemma 1, theorems 1 to 3, the remarks and the corollaries' signs; draw each."""
    import torch
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sparseae.analysis import plot
    from sparseae.errors import RequestError
    from sparseae.theory import checks

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{output}: cannot be written: {error.strerror}") from None
    torch.set_num_threads(1)  # small matrices
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("", "claim", "found"):
        table.add_column(column, overflow="fold")
    failed = 0
    for check in checks.run():
        plot.save(plot.check_figure(check), output / f"{check.name}.png")
        failed += not check.passed
        word = "[green]holds[/]" if check.passed else "[red]does not hold[/]"
        table.add_row(f"{check.section}\n{word}", escape(check.claim), escape(check.evidence))
    console.print(table)
    console.print(f"figures: {output}", highlight=False)
    if failed:
        raise typer.Exit(1)
