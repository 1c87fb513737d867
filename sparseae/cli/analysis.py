"""``sparseae analyze`` and ``sparseae trials``: from Parquet to verdicts. Neither torch nor Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseae.cli import _console as console
from sparseae.cli import app

if TYPE_CHECKING:
    import pandas as pd

    from sparseae.analysis.verdicts import Looks


@app.command()
def analyze(
    places: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Folders or URLs of sweeps, DIR/NAME.")
    ],
    details: Annotated[
        bool, typer.Option("--details", help="Every curve and verdict with its numbers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the verdict on every prediction; with --details every curve and number."""
    from sparseae.analysis.readings import reading_table
    from sparseae.analysis.trends import judge_places, trend_table
    from sparseae.analysis.verdicts import Looks, outcomes_of, verdict_table
    from sparseae.cli._details import print_details
    from sparseae.cli._summary import print_summary

    judged = judge_places(places)
    looks = Looks.read(places[0]) if len(places) == 1 else Looks()
    curves, verdicts = trend_table(judged), verdict_table(judged, looks)
    readings = reading_table(judged)
    unwritten = _store(places[0], curves, verdicts, looks) if len(places) == 1 else None
    if as_json:
        found = {
            "trends": json.loads(curves.to_json(orient="records", double_precision=15)),
            "verdicts": json.loads(verdicts.to_json(orient="records", double_precision=15)),
            "readings": json.loads(readings.to_json(orient="records")),
        }
        console.write(json.dumps(found, indent=2) + "\n")
        return
    if details:
        print_details(curves, verdicts, readings)
    else:
        statements = list(outcomes_of(judged, looks=looks))
        print_summary(statements, places[0] if len(places) == 1 else "DIR")
    if unwritten:
        console.say(f"the tables could not be stored: {unwritten}")


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
