"""Reading results: one table from one or several folders. Neither torch nor Ray."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sparseae.errors import RequestError, first_line
from sparseae.model.trial import ADDED_KEYS, DEFAULTS, TRAINING_TYPES
from sparseae.results.location import Location
from sparseae.results.parquet import read_table
from sparseae.results.schema import ADDED_FIELDS, EPOCH_FIELDS, epoch_schema


def load(places: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The epochs of one or several sweeps as one table (`sparseae.results.columns`).

    Args:
        places: folders or URLs, ``DIR/NAME``; or ``DIR``, for every sweep in it.

    Raises:
        RequestError: in one line, where a folder or its files cannot be used.
    """
    listed = places if isinstance(places, Iterable) and not isinstance(places, str) else [places]
    several = [sweep for place in listed for sweep in sweeps_in(Location.of(place))]
    if not several:
        raise RequestError("DIR: is empty: name at least one folder of a sweep")
    tables = [_table(sweep, "epochs") for sweep in several]
    for place, table in zip(several, tables, strict=True):
        missing = [f.name for f in EPOCH_FIELDS if f.name not in table.column_names]
        if missing:
            raise RequestError(f"{place}: the epochs have no column {', '.join(missing)}")
    frame = _frame(tables, ["sweep", "trial_id", "epoch"])
    absent = {f.name: np.nan for f in ADDED_FIELDS if f.name not in frame}
    return frame.assign(**absent) if absent else frame


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
        configuration = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, OSError, ValueError) as error:
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
    tables = []
    for file in _files(location, kind):
        try:
            # Without the metadata: parts of a sweep may come from several versions.
            tables.append(read_table(file).replace_schema_metadata(None))
        except (ValueError, OSError) as error:
            raise RequestError(f"{file}: cannot be read: {first_line(error)}") from None
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
