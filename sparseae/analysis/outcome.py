"""How a sweep came out, for those who watch it from elsewhere: the verdicts and the page."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from sparseae.analysis.report import report
from sparseae.analysis.trends import judge_places
from sparseae.analysis.verdicts import TOGETHER, verdict_table
from sparseae.results.location import Location
from sparseae.results.parquet import write_table


def outcome(place: str, folder: Path) -> tuple[str, list[Path]]:
    """The verdicts as a table in Markdown; and, written into ``folder``, them and the page.

    Raises:
        RequestError: where there are no results.
    """
    verdicts = verdict_table(judge_places(place))
    tested = verdicts[(verdicts["dataset"] == TOGETHER) & (verdicts["verdict"] != "not tested")]
    lines = ["| prediction | verdict |", "| --- | --- |"]
    lines += [f"| {row.prediction} | {row.verdict} |" for row in tested.itertuples()]
    table = pa.Table.from_pandas(verdicts, preserve_index=False)
    write_table(Location.of(folder) / "verdicts.parquet", table)
    page = report(place, folder / "report")
    return "\n".join(lines), [folder / "verdicts.parquet", page]
