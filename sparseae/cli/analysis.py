"""``sparseae analyze`` and ``sparseae report``: from Parquet to verdicts. Neither torch nor Ray."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import app, console

if TYPE_CHECKING:
    import pandas as pd

_COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


@app.command()
def analyze(
    places: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Folders or URLs of sweeps, DIR/NAME.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the trend of every curve and the verdict on every prediction."""
    from sparseae.analysis.predictions import verdict_table
    from sparseae.analysis.trends import judge, trend_table
    from sparseae.results import load

    judged = judge(load(places))
    curves, verdicts = trend_table(judged), verdict_table(judged)
    unwritten = _store(places[0], curves, verdicts) if len(places) == 1 else None
    if as_json:
        found = {
            "trends": json.loads(curves.to_json(orient="records", double_precision=15)),
            "verdicts": json.loads(verdicts.to_json(orient="records")),
        }
        console.write(json.dumps(found, indent=2) + "\n")
        return
    _print_curves(curves)
    _print_verdicts(verdicts)
    if unwritten:
        console.say(f"the tables could not be stored: {unwritten}")


def _store(place: str, curves: pd.DataFrame, verdicts: pd.DataFrame) -> str | None:
    """Write both tables beside the epochs; return why not, where that is so."""
    import pyarrow as pa

    from sparseae.results.location import Location
    from sparseae.results.parquet import write_table

    for name, frame in (("trends", curves), ("verdicts", verdicts)):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        try:
            write_table(Location.of(place) / f"{name}.parquet", table)
        except OSError as error:
            return str(error)
    return None


def _print_curves(curves: pd.DataFrame) -> None:
    columns = [("curve", "fold"), ("trend", "left")]
    columns += [(name, "right") for name in ("first", "last", "change", "95 % interval", "seeds")]
    for (dataset, constraint), rows in curves.groupby(["dataset", "constraint"]):  # type: ignore[misc]
        cells, notes = [], []
        for row in rows.sort_values(["activation", "model"]).itertuples():
            name = f"{row.activation} {row.model}" + (f", {row.variant}" if row.variant else "")
            interval = f"{row.change_low:+.3f} to {row.change_high:+.3f}"
            cells.append(
                [
                    name,
                    row.trend,
                    *map(_number, (row.first, row.last)),
                    _number(row.change, "+"),
                    "-" if row.change_low != row.change_low else interval,
                    str(row.seeds),
                ]
            )
            if row.note:
                notes.append(f"{name}: {row.note}")
        console.table(columns, cells, title=f"{dataset}, {constraint}", boxed=True)
        for note in notes:
            console.paragraph(note, "dim", indent=1)
        if notes:
            console.say()


def _number(value: float, sign: str = "") -> str:
    return "-" if value != value else f"{value:{sign}.3f}"


def _print_verdicts(verdicts: pd.DataFrame) -> None:
    """Each prediction once, its statements with their verdicts below."""
    from rich.text import Text

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
            colour = _COLOURS.get(whole.verdict, "default")
            verdict = Text(f"{whole.verdict:13}", f"bold {colour}")
            console.say(verdict + Text(f" {whole.subject}"), indent=2)
            rows = statements[statements["prediction"] == whole.prediction]
            for row in rows[~rows["dataset"].isin(["all"])].itertuples():
                console.paragraph(f"{row.dataset}: {row.verdict}; {row.evidence}", indent=6)
    counts = shown[shown["dataset"] == "all"]["verdict"].value_counts()
    console.say()
    console.say(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if untested:
        console.paragraph(f"no trials for: {', '.join(untested)}")


@app.command()
def trials(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    prediction: Annotated[
        str, typer.Argument(help="As analyze names it: relu-flat, or one of its statements.")
    ],
) -> None:
    """Print what stands behind a verdict: its trials and the command that trains them again."""
    from sparseae.analysis.behind import behind

    for case, dataset, outcome, sources in behind(place, prediction):
        console.say(f"{case.label}, {dataset}: {outcome.verdict}; {outcome.evidence}")
        for source in sources:
            curve = source.curve
            console.say(
                f"  {curve.label}, {curve.name['dataset']}: "
                f"sigma2 {', '.join(f'{value:g}' for value in curve.sigma2)}; "
                f"seeds {', '.join(map(str, curve.seeds))}; {curve.epoch} epochs; "
                + ", ".join(f"{k} {v}" for k, v in curve.settings.items() if v is not None)
            )
            console.say(f"  trials {' '.join(source.trial_ids)}")
            console.say(f"  {source.command}")
            console.say()


@app.command()
def report(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a sweep.")],
    output: Annotated[str | None, typer.Option(help="Where to write; default: DIR/report.")] = None,
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
    else:
        output = os.path.join(paths.checked(place, "DIR"), "report")
    console.say(f"report: {write(place, Path(output))}")
