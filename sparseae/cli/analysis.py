"""``sparseae analyze`` and ``sparseae report``: from Parquet to verdicts. Neither torch nor Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import app

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from sparseae.analysis.verdicts import Looks

_COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


@app.command()
def analyze(
    places: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Folders or URLs of sweeps, DIR/NAME.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the trend of every curve and the verdict on every prediction."""
    from rich.console import Console

    from sparseae.analysis.readings import reading_table
    from sparseae.analysis.trends import judge, trend_table
    from sparseae.analysis.verdicts import Looks, verdict_table
    from sparseae.results import load

    judged = judge(load(places))
    looks = Looks.read(places[0]) if len(places) == 1 else Looks()
    curves, verdicts = trend_table(judged), verdict_table(judged, looks)
    readings = reading_table(judged)
    unwritten = _store(places[0], curves, verdicts, looks) if len(places) == 1 else None
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "trends": json.loads(curves.to_json(orient="records", double_precision=15)),
                    "verdicts": json.loads(verdicts.to_json(orient="records", double_precision=15)),
                    "readings": json.loads(readings.to_json(orient="records")),
                },
                indent=2,
            )
        )
        return
    console = Console()
    _print_curves(console, curves)
    _print_verdicts(console, verdicts)
    if len(readings):
        console.print("\n[bold]Measured, not judged[/]")
        for row in readings.itertuples():
            console.print(f"  {row.reading}, {row.dataset}: {row.words}", highlight=False)
    if unwritten:
        console.print(f"the tables could not be stored: {unwritten}", highlight=False)


def _store(place: str, curves: pd.DataFrame, verdicts: pd.DataFrame, looks: Looks) -> str | None:
    """Write both tables, and that they were looked at, beside the epochs; return why not, where
    that is so."""
    import pyarrow as pa

    from sparseae.results.location import Location
    from sparseae.results.parquet import write_table

    for name, frame in (("trends", curves), ("verdicts", verdicts)):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        try:
            write_table(Location.of(place) / f"{name}.parquet", table)
        except OSError as error:
            return str(error)
    try:
        looks.write(place)
    except OSError as error:
        return str(error)
    return None


def _print_curves(console: Console, curves: pd.DataFrame) -> None:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    for (dataset, constraint), rows in curves.groupby(["dataset", "constraint"]):  # type: ignore[misc]
        table = Table(
            title=f"{dataset}, {constraint}", title_justify="left", title_style="bold",
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
                name,
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
    from rich.padding import Padding
    from rich.text import Text

    console.print("[bold]Verdicts[/]")
    names = verdicts["prediction"].str.partition(":")
    shown = verdicts.assign(name=names[0], subject=names[2].str.strip())
    untested = []
    for name, statements in shown.groupby("name", sort=False):
        tested = statements[statements["dataset"] == "all"].query("verdict != 'not tested'")
        if tested.empty:
            untested.append(str(name))
            continue
        first = tested.iloc[0]
        console.print(f"\n[bold]{name}[/]", highlight=False)
        console.print(Text(f"{first['claim']} ({first['section']})", "dim"))
        for whole in tested.itertuples():
            colour = _COLOURS.get(whole.verdict, "default")
            console.print(
                f"  [bold {colour}]{whole.verdict:13}[/] {whole.subject}", highlight=False
            )
            rows = statements[statements["prediction"] == whole.prediction]
            for row in rows[~rows["dataset"].isin(["all"])].itertuples():
                p = "" if row.p != row.p else f"; p {row.p:.2g}, corrected {row.p_corrected:.2g}"
                line = f"{row.dataset}: {row.verdict}; {row.evidence}{p}"
                console.print(Padding(Text(line), (0, 0, 0, 6)))
                if row.verdict == "inconclusive":
                    console.print(Padding(Text(row.would_change, "dim"), (0, 0, 0, 8)))
    counts = shown[shown["dataset"] == "all"]["verdict"].value_counts()
    console.print(
        "\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()), highlight=False
    )
    if untested:
        console.print(f"no trials for: {', '.join(untested)}", highlight=False)


@app.command()
def trials(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    prediction: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTION|TRIAL_ID",
            help="As analyze names it: relu-flat, or one of its statements. Or a trial's id.",
        ),
    ],
    filters: Annotated[
        Path | None, typer.Option(help="Of a trial: draw its filters to this file (.png, .svg).")
    ] = None,
) -> None:
    """Print what stands behind a verdict, its trials and how to train them again; or one trial."""
    from sparseae.analysis.behind import behind
    from sparseae.cli import trial

    if trial.PATTERN.fullmatch(prediction):
        trial.show(place, prediction, filters)
        return
    for case, dataset, outcome, sources in behind(place, prediction):
        typer.echo(f"{case.label}, {dataset}: {outcome.verdict}; {outcome.evidence}")
        for source in sources:
            curve = source.curve
            typer.echo(
                f"  {curve.label}, {curve.name['dataset']}: "
                f"sigma2 {', '.join(f'{value:g}' for value in curve.sigma2)}; "
                f"seeds {', '.join(map(str, curve.seeds))}; {curve.epoch} epochs; "
                + ", ".join(f"{k} {v}" for k, v in curve.settings.items() if v is not None)
            )
            typer.echo(f"  trials {' '.join(source.trial_ids)}")
            typer.echo(f"  {source.command}\n")


@app.command()
def report(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write; default: DIR/report.")
    ] = None,
) -> None:
    """Write the figures and one HTML page with the verdicts."""
    from sparseae.analysis.report import report as write
    from sparseae.errors import RequestError

    if output is None:
        if "://" in place:
            raise RequestError(f"report {place}: name a local folder with --output")
        output = Path(place) / "report"
    typer.echo(f"report: {write(place, output)}")
