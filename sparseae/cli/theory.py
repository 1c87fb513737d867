"""``sparseae theory``: the paper's mathematics, checked without a sweep. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app


@app.command()
def theory(
    output: Annotated[str, typer.Option(help="Folder of the figures.")] = "results/theory",
) -> None:
    """Check lemma 1, theorems 1 to 3, the remarks and the corollaries' signs; draw each."""
    import torch
    from rich.text import Text

    from sparseae import paths
    from sparseae.analysis import plot
    from sparseae.errors import RequestError
    from sparseae.theory import checks

    folder = Path(paths.absolute(output, "--output"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{output}: cannot be written: {error.strerror}") from None
    torch.set_num_threads(1)  # small matrices
    rows = []
    failed = 0
    for check in checks.run():
        plot.save(plot.check_figure(check), folder / f"{check.name}.png")
        failed += not check.passed
        word = ("holds", "green") if check.passed else ("does not hold", "red")
        rows.append([Text.assemble(f"{check.section}\n", word), check.claim, check.evidence])
    console.table([("", "fold"), ("claim", "fold"), ("found", "fold")], rows, boxed=True)
    console.say(f"figures: {output}")
    if failed:
        raise typer.Exit(1)
