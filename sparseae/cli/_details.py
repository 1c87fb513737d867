"""What ``sparseae analyze --details`` prints: every curve and verdict with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sparseae.cli._summary import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


def print_details(
    console: Console, curves: pd.DataFrame, verdicts: pd.DataFrame, readings: pd.DataFrame
) -> None:
    """The tables of `trend_table`, `verdict_table` and `reading_table`, for people."""
    _print_curves(console, curves)
    _print_verdicts(console, verdicts)
    if len(readings):
        console.print(Text("\nMeasured, not judged", "bold"))
        for row in readings.itertuples():
            console.print(Text(f"  {row.reading}, {row.dataset}: {row.words}"))


def _print_curves(console: Console, curves: pd.DataFrame) -> None:
    for (dataset, constraint), rows in curves.groupby(["dataset", "constraint"]):  # type: ignore[misc]
        table = Table(
            title=Text(f"{dataset}, {constraint}", "bold"), title_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        table.add_column("curve", overflow="fold")
        table.add_column("trend", no_wrap=True)
        for name in ("first", "last", "change", "95 % interval", "seeds"):
            table.add_column(name, justify="right", no_wrap=True)
        notes = []
        for row in rows.sort_values(["activation", "model"]).itertuples():
            name = f"{row.activation} {row.model}" + (f", {row.variant}" if row.variant else "")
            table.add_row(
                Text(name),
                row.trend,
                *map(_number, (row.first, row.last)),
                _number(row.change, "+"),
                "-" if row.change_low != row.change_low
                else f"{row.change_low:+.3f} to {row.change_high:+.3f}",
                str(row.seeds),
            )  # fmt: skip
            if row.note:
                notes.append(f"{name}: {row.note}")
        console.print(table)
        for note in notes:
            console.print(Padding(Text(note, "dim"), (0, 0, 0, 1)))
        if notes:
            console.print()


def _number(value: float, sign: str = "") -> str:
    return "-" if value != value else f"{value:{sign}.3f}"


def _print_verdicts(console: Console, verdicts: pd.DataFrame) -> None:
    """Each prediction once, its statements with their verdicts below."""
    console.print(Text("Verdicts", "bold"))
    names = verdicts["prediction"].str.partition(":")
    shown = verdicts.assign(name=names[0], subject=names[2].str.strip())
    untested = []
    for name, statements in shown.groupby("name", sort=False):
        tested = statements[statements["dataset"] == "all"].query("verdict != 'not tested'")
        if tested.empty:
            untested.append(str(name))
            continue
        first = tested.iloc[0]
        console.print(Text(f"\n{name}", "bold"))
        console.print(Text(f"{first['claim']} ({first['section']})", "dim"))
        for whole in tested.itertuples():
            colour = COLOURS.get(whole.verdict, "default")
            console.print(
                Text.assemble((f"  {whole.verdict:13}", f"bold {colour}"), f" {whole.subject}")
            )
            rows = statements[statements["prediction"] == whole.prediction]
            for row in rows[~rows["dataset"].isin(["all"])].itertuples():
                p = "" if row.p != row.p else f"; p {row.p:.2g}, corrected {row.p_corrected:.2g}"
                line = f"{row.dataset}: {row.verdict}; {row.evidence}{p}"
                console.print(Padding(Text(line), (0, 0, 0, 6)))
                if row.verdict == "inconclusive":
                    console.print(Padding(Text(row.would_change, "dim"), (0, 0, 0, 8)))
    counts = shown[shown["dataset"] == "all"]["verdict"].value_counts()
    console.print(Text("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())))
    if untested:
        console.print(Text(f"no trials for: {', '.join(untested)}"))
