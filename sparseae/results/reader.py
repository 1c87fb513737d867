"""Reading results: one table from one or several folders. Neither torch nor Ray."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sparseae.errors import RequestError, first_line
from sparseae.model.trial import ADDED_KEYS, DEFAULTS, TRAINING_TYPES
from sparseae.results.location import Location
from sparseae.results.parquet import read_table
from sparseae.results.schema import ADDED_FIELDS, EPOCH_FIELDS, epoch_schema
from sparseae.yamltext import recorded

#: Rows of parts that `load_last` keeps before it looks which are the last of their trials.
_MOST_WAITING = 500_000


def load(
    places: str | Path | Sequence[str | Path],
    *,
    columns: Sequence[str] | None = None,
    epochs: Collection[int] | None = None,
) -> pd.DataFrame:
    """The epochs of one or several sweeps as one table (`sparseae.results.columns`).

    Args:
        places: folders or URLs, ``DIR/NAME``; or ``DIR``, for every sweep in it.
        columns: only these, and ``sweep``, ``trial_id`` and ``epoch``; by default all.
        epochs: only rows of these. Neither needs memory for what it leaves out.

    Raises:
        RequestError: in one line, where a folder or its files cannot be used.
    """
    keys = ["sweep", "trial_id", "epoch"]
    wanted = None if columns is None else list(dict.fromkeys([*keys, *columns]))
    rows = None if epochs is None else pc.field("epoch").isin(sorted(epochs))
    tables = [_joined(sweep, "epochs", _epochs(sweep, wanted, rows)) for sweep in _sweeps(places)]
    frame = _frame(tables, keys)
    added = [f.name for f in ADDED_FIELDS if wanted is None or f.name in wanted]
    absent = {name: np.nan for name in added if name not in frame}
    return frame.assign(**absent) if absent else frame


def load_parts(
    places: str | Path | Sequence[str | Path], columns: Sequence[str]
) -> Iterator[pd.DataFrame]:
    """The epochs part by part, so that never more than one is in memory.

    Args:
        places: as for `load`. A row that stands there twice comes twice.
        columns: those of these that a part has.

    Raises:
        RequestError: in one line, where a folder or its files cannot be used.
    """
    for sweep in _sweeps(places):
        for part in _epochs(sweep, columns):
            yield part.to_pandas()


def load_last(
    places: str | Path | Sequence[str | Path], *, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Of each trial the row of its last epoch; never more than those and a part are in memory.

    Args:
        places: as for `load`.
        columns: as for `load`.

    Raises:
        RequestError: in one line, where a folder or its files cannot be used.
    """
    wanted = None if columns is None else list(dict.fromkeys(["trial_id", "epoch", *columns]))
    last = pa.table({})
    for sweep in _sweeps(places):
        waiting: list[pa.Table] = []
        for part in _epochs(sweep, wanted):
            waiting.append(_latest(part))
            if sum(table.num_rows for table in waiting) > _MOST_WAITING + last.num_rows:
                last, waiting = _latest(_joined(sweep, "epochs", [last, *waiting])), []
        last = _latest(_joined(sweep, "epochs", [last, *waiting]))
    return _frame([last], ["trial_id"])


def _latest(table: pa.Table) -> pa.Table:
    """Of each trial the row of its last epoch, of which one stays."""
    if not table.num_rows:
        return table
    keys = table.select(["trial_id", "epoch"])
    keys = keys.append_column("row", pa.array(np.arange(table.num_rows)))
    keys = keys.sort_by([("trial_id", "ascending"), ("epoch", "descending")])
    ids = keys["trial_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    return table.take(keys["row"].filter(pa.array(np.r_[True, ids[1:] != ids[:-1]])))


def _sweeps(places: str | Path | Sequence[str | Path]) -> list[Location]:
    listed = places if isinstance(places, Iterable) and not isinstance(places, str) else [places]
    several = [sweep for place in listed for sweep in sweeps_in(Location.of(place))]
    if not several:
        raise RequestError("DIR: is empty: name at least one folder of a sweep")
    return several


def no_epochs(training_types: Mapping[str, type]) -> pd.DataFrame:
    """What `load` returns of a sweep of which no trial has a row: its columns, and no row."""
    return epoch_schema(dict(training_types)).empty_table().to_pandas()


def has_epochs(place: str | Path) -> bool:
    """Whether a sweep has a row yet."""
    return bool((Location.of(place) / "epochs").files(".parquet"))


def load_units(place: str | Path) -> pd.DataFrame:
    """The units at the last epoch: one row a unit.

    Raises:
        RequestError: in one line, where there are none or they cannot be read.
    """
    tables = [_table(sweep, "units") for sweep in sweeps_in(Location.of(place))]
    return _frame(tables, ["trial_id", "unit"])


def sweeps_in(location: Location) -> list[Location]:
    """The sweep of a folder, or the sweeps in it where it has no epochs of its own.

    Raises:
        RequestError: if it is a file.
    """
    if location.is_file():
        raise RequestError(f"{location}: is a file, not the folder of a sweep")
    if _is_sweep(location):
        return [location]
    return [below for below in location.folders() if _is_sweep(below)] or [location]


def _is_sweep(location: Location) -> bool:
    """Whether a folder has epochs of its own: a sweep in it may be called ``epochs``."""
    epochs = location / "epochs"
    return epochs.exists() and not (epochs / "epochs").exists()


def provenance(place: str | Path) -> dict[str, Any]:
    """Where results come from: configurations, versions, git commit, the data sets' fingerprints.

    ``configurations`` has one for each sweep in the folder.
    """
    known: dict[str, Any] = {"configurations": []}
    for sweep in sweeps_in(Location.of(place)):
        _add_provenance(sweep, known)
    return known


def _add_provenance(location: Location, known: dict[str, Any]) -> None:
    for file in _files(location, "epochs"):
        metadata = pq.read_schema(file.path, filesystem=file.filesystem).metadata or {}
        for key, value in metadata.items():
            name = key.decode()
            if name.startswith("sparseae."):
                text = value.decode()
                short = name.removeprefix("sparseae.")
                plain = short not in ("versions", "datasets", "gemm")
                if short == "processor" and short in known:
                    if text not in known[short].split(" and "):
                        known[short] += f" and {text}"
                elif plain:
                    known[short] = text
                else:
                    known[short] = known.get(short, {}) | json.loads(text)
    if (configuration := configuration_of(location)) is not None:
        known["configurations"].append(configuration)


def configuration_of(location: Location) -> dict[str, Any] | None:
    """What a sweep's ``sweep.yaml`` has; None where there is none."""
    file = location / "sweep.yaml"
    if not file.exists():
        return None
    try:
        configuration = recorded(file.read_bytes(), f"{file}: cannot be read")
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {first_line(error)}") from None
    if not isinstance(configuration, dict) or "name" not in configuration:
        raise RequestError(f"{file}: is not what a sweep wrote: put back what it was")
    return configuration


def _files(location: Location, kind: str) -> list[Location]:
    if not location.exists():
        raise RequestError(f"{location}: there is no such folder")
    files = (location / kind).files(".parquet")
    if not files:
        raise RequestError(f"{location}: has no {kind}/*.parquet; is it the folder of a sweep?")
    return files


def _table(location: Location, kind: str) -> pa.Table:
    return _joined(location, kind, _parts(location, kind))


def _parts(
    location: Location,
    kind: str,
    columns: Sequence[str] | None = None,
    rows: pc.Expression | None = None,
) -> Iterator[pa.Table]:
    """Each part of a sweep's epochs or units, without the metadata.

    Parts may come from several versions.
    """
    for file in _files(location, kind):
        try:
            table = read_table(file, columns).replace_schema_metadata(None)
            yield table if rows is None else table.filter(rows)
        except (ValueError, OSError) as error:
            raise RequestError(f"{file}: cannot be read: {first_line(error)}") from None


def _epochs(
    sweep: Location, columns: Sequence[str] | None, rows: pc.Expression | None = None
) -> Iterator[pa.Table]:
    """Each part of a sweep's epochs; raises at the end where no part has a column."""
    there: set[str] = set()
    for part in _parts(sweep, "epochs", columns, rows):
        there.update(part.column_names)
        yield part
    needed = [f.name for f in EPOCH_FIELDS if columns is None or f.name in columns]
    if missing := [name for name in needed if name not in there]:
        raise RequestError(f"{sweep}: the epochs have no column {', '.join(missing)}")


def _joined(location: Location, kind: str, tables: Iterable[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise RequestError(f"{location}: {kind} differ in their columns: {error}") from None


def _frame(tables: Sequence[pa.Table], once: list[str]) -> pd.DataFrame:
    """The tables as one, with one row for each value of the columns ``once``.

    A part that was copied (a "conflicted copy" of a synchronized folder) has rows a second time.
    """
    try:
        frame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException as error:
        raise RequestError(f"the folders differ in their columns: {error}") from None
    if (again := frame.duplicated(once)).any():
        frame = frame[~again].reset_index(drop=True)
    # Rows from before a key had its default, and are the same trials as rows from after.
    for key in ADDED_KEYS:
        if key in frame and frame[key].isna().any():
            frame[key] = frame[key].fillna(DEFAULTS[key]).astype(TRAINING_TYPES[key])
    return frame
