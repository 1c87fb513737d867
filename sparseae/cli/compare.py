"""``sparseae diff``: two sweeps, or one at two values of a key. Neither torch nor Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app

if TYPE_CHECKING:
    import pandas as pd

    from sparseae.analysis.differences import Differences

#: Curves shown without ``--details``: those that differ most.
_SHOWN = 8


@app.command("diff")
def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="Folder or URL of a sweep.")],
    second: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="Of another; default: the same.", show_default=False),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Compare A at the first value of a key with B at the second; "
            "epochs=10,50 takes the rows up to an epoch.",
        ),
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Every curve and sigma2.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare trials that agree in all but what differs, and the verdicts; B less A."""

    from sparseae.analysis import differences as analysis
    from sparseae.results import load, provenance

    if second is None and by is None:
        from sparseae.errors import RequestError

        raise RequestError(f"diff {first}: name a second sweep, or --by KEY=VALUE,VALUE")
    frames = [load(first)]
    frames.append(frames[0] if second is None else load(second))
    if by is not None:
        key, values = _asked(by)
        frames = [analysis.at(f, key, v) for f, v in zip(frames, values, strict=True)]
    found = analysis.differences(*frames)
    if as_json:
        console.say(analysis.as_json(found))
        return
    origins = []
    if second is not None:
        origins = list(analysis.origins_differ(provenance(first), provenance(second)))
        devices = [", ".join(sorted(f["device"].dropna().unique())) for f in frames]
        if devices[0] != devices[1]:
            origins.append(f"device: {devices[0]} -> {devices[1]}")
    _print(found, origins, details)


def _asked(by: str) -> tuple[str, list[str]]:
    from sparseae.errors import RequestError

    key, equals, rest = by.partition("=")
    values = [value.strip() for value in rest.split(",")]
    if not equals or len(values) != 2 or not all(values):
        raise RequestError(f"--by {by!r}: must be KEY=VALUE,VALUE, as learning_rate=0.001,0.005")
    return key.strip(), values


def _print(found: Differences, origins: list[str], details: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    summary = Table.grid(padding=(0, 2, 0, 0))
    summary.add_column(style="bold", no_wrap=True)
    summary.add_column(overflow="fold")

    def say(title: str, text: str, style: str = "") -> None:
        summary.add_row(title, Text(text, style))

    for k, words in enumerate([*found.by, *origins] or ["nothing that is recorded"]):
        say("differs" if k == 0 else "", words)
    if found.by == ("seed",):
        say("pairs", "none: no seed is in both, so that only the verdicts can be compared")
    else:
        diverged = f", {found.diverged} with a diverged trial left out" if found.diverged else ""
        say("pairs", f"{found.pairs:,} of trials, {found.equal:,} equal to the bit{diverged}")
        if any(found.alone):
            say("", f"{found.alone[0]:,} of A and {found.alone[1]:,} of B have no partner")
    flips = found.flips
    say("verdicts", f"{len(found.verdicts)} statements tested in both, {len(flips)} differ")
    for row in flips.itertuples():
        turns = {row.first, row.second} == {"supported", "contradicted"}
        say("", f"{row.prediction}, {row.dataset}: {row.first} -> {row.second}",
            "bold red" if turns else "yellow")  # fmt: skip
    console.show(summary)
    if len(found.curves):
        console.say()
        if details:
            _print_values(found.table)
        _print_curves(found.curves, None if details else _SHOWN)


_NAMES = {"activation_fraction": "active", "pre_activation": "E[a]"}


def _print_curves(curves: pd.DataFrame, most: int | None) -> None:
    """A curve two rows, one a measure."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="B less A, 95 % over seeds",
                  title_justify="left", title_style="bold")  # fmt: skip
    table.add_column("curve", overflow="fold")
    table.add_column("", no_wrap=True)
    for name in ("mean", "largest", "at", "pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = curves if most is None else curves.head(2 * most)
    before = ""
    for row in shown.itertuples():
        label = " ".join([row.activation, row.model, row.constraint, row.dataset])
        label += f", {row.variant}" if row.variant else ""
        table.add_row(
            Text("" if label == before else label),
            Text(_NAMES[row.measure]),
            _with_error(row.mean, row.high - row.mean),
            _with_error(row.largest, row.largest_high - row.largest),
            f"{row.sigma2:g}",
            str(row.pairs),
        )
        before = label
    console.show(table)
    if len(shown) < len(curves):
        more = len(curves) // 2 - len(shown) // 2
        console.say(f"{more} curves differ less (--details has all)", "dim")


def _print_values(values: pd.DataFrame) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = ["activation", "model", "constraint", "dataset", "variant"]
    for name, rows in values.groupby(names):
        title = Text(" ".join(filter(None, map(str, name))), "bold")
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for column in ("", "sigma2", "A", "B", "B less A, 95 %", "seeds"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for row in rows.itertuples():
            table.add_row(
                Text(_NAMES[row.measure]),
                f"{row.sigma2:g}",
                f"{row.first:.4f}",
                f"{row.second:.4f}",
                _with_error(row.difference, row.high - row.difference),
                str(row.seeds),
            )
        console.show(table)


def _with_error(value: float, half: float) -> str:
    digits = 4 if abs(value) < 10 else 2
    if value == 0 and half == 0:
        return "0"
    return f"{value:+.{digits}f}" + ("" if half != half else f" ± {half:.{digits}f}")
