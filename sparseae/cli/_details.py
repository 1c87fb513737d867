"""What ``sparseae analyze --details`` prints: every curve and verdict with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from sparseae.cli import _console as console
from sparseae.cli._summary import COLOURS

if TYPE_CHECKING:
    import pandas as pd


def print_details(curves: pd.DataFrame, verdicts: pd.DataFrame, readings: pd.DataFrame) -> None:
    """The tables of `trend_table`, `verdict_table` and `reading_table`, for people."""
    _print_curves(curves)
    _print_verdicts(verdicts)
    if len(readings):
        console.say()
        console.say("Measured, not judged", "bold")
        for row in readings.itertuples():
            console.paragraph(f"{row.reading}, {row.dataset}: {row.words}", indent=2)


def _print_curves(curves: pd.DataFrame) -> None:
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
        console.show(table)
        for note in notes:
            console.paragraph(note, "dim", 1)
        if notes:
            console.say()


def _number(value: float, sign: str = "") -> str:
    return "-" if value != value else f"{value:{sign}.3f}"


def _print_verdicts(verdicts: pd.DataFrame) -> None:
    """Each prediction once, its statements with their verdicts below."""
    console.say("Verdicts", "bold")
    names = verdicts["prediction"].str.partition(":")
    shown = verdicts.assign(name=names[0], subject=names[2].str.strip())
    untested = []
    for name, statements in shown.groupby("name", sort=False):
        tested = statements[statements["dataset"] == "all"].query("verdict != 'not tested'")
        if tested.empty:
            untested.append(str(name))
            continue
        first = tested.iloc[0]
        console.say()
        console.say(str(name), "bold")
        console.paragraph(f"{first['claim']} ({first['section']})", "dim")
        for whole in tested.itertuples():
            colour = COLOURS.get(whole.verdict, "default")
            console.say(
                Text.assemble((f"  {whole.verdict:13}", f"bold {colour}"), f" {whole.subject}")
            )
            rows = statements[statements["prediction"] == whole.prediction]
            for row in rows[~rows["dataset"].isin(["all"])].itertuples():
                p = "" if row.p != row.p else f"; p {row.p:.2g}, corrected {row.p_corrected:.2g}"
                line = f"{row.dataset}: {row.verdict}; {row.evidence}{p}"
                console.paragraph(line, indent=6)
                if row.verdict == "inconclusive":
                    console.paragraph(row.would_change, "dim", 8)
    counts = shown[shown["dataset"] == "all"]["verdict"].value_counts()
    console.say()
    console.paragraph(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if untested:
        console.paragraph(f"no trials for: {', '.join(untested)}")
