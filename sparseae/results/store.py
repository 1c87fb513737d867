"""Writing results: part files that are added and never changed, one row a (trial_id, epoch)."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sparseae.results.location import Location
from sparseae.results.schema import epoch_schema, unit_schema

#: A flush at least this many seconds after the last, and this share of the run's time: a long run
#: leaves a few hundred files, not one every ten seconds.
_FLUSH_SECONDS = 10.0
_FLUSH_SHARE = 0.02


class Store:
    """The Parquet files of a sweep.

    Rows that are there already are not written again, so that a replayed epoch leaves no second
    row. A file that cannot be read is put aside under a name that readers skip.

    Args:
        location: the sweep's folder, ``DIR/NAME``.
        training_types: keys and types of ``training``, for their columns.
        metadata: provenance for the schema's metadata, without the prefix ``sparseae.``.
        theory: whether rows have the columns of `sparseae.theory`.
    """

    def __init__(
        self,
        location: Location,
        training_types: Mapping[str, type],
        metadata: Mapping[str, str],
        *,
        theory: bool = False,
    ) -> None:
        self.location = location
        named = {f"sparseae.{key}": value for key, value in metadata.items()}
        self._epochs = epoch_schema(dict(training_types), named, theory=theory)
        self._units = unit_schema(named, theory=theory)
        self._rows: list[Mapping[str, Any]] = []
        self._unit_tables: list[pa.Table] = []
        self._started = self._flushed = time.monotonic()
        self.put_aside: list[str] = []
        #: Of each trial the epochs that have a row, as bits.
        self._present: dict[str, int] = defaultdict(int)
        self._with_units: set[str] = set()
        for table in self._read("epochs", ["trial_id", "epoch"]):
            for trial_id, epoch in zip(*(c.to_pylist() for c in table.columns), strict=True):
                self._present[trial_id] |= 1 << epoch
        for table in self._read("units", ["trial_id"]):
            self._with_units.update(table["trial_id"].unique().to_pylist())

    def _read(self, kind: str, columns: list[str]) -> Iterable[pa.Table]:
        for file in (self.location / kind).files(".parquet"):
            try:
                yield pq.read_table(file.path, columns=columns, filesystem=file.filesystem)
            except (pa.ArrowException, OSError):
                file.rename(f"_unreadable-{file.name}")
                self.put_aside.append(f"{kind}/{file.name}")

    def is_complete(self, trial_id: str, epochs: int) -> bool:
        """Whether epochs 0 to ``epochs`` and the units of a trial are written."""
        every = (1 << (epochs + 1)) - 1
        return trial_id in self._with_units and self._present.get(trial_id, 0) & every == every

    def epochs_written(self, trial_id: str) -> int:
        """How many epochs of a trial have a row."""
        return self._present.get(trial_id, 0).bit_count()

    def add(self, rows: Sequence[Mapping[str, Any]], units: pa.Table | None = None) -> None:
        """Take rows of ``epochs/`` and, at a trial's last epoch, of ``units/``."""
        for row in rows:
            bit = 1 << row["epoch"]
            if not self._present[row["trial_id"]] & bit:
                self._present[row["trial_id"]] |= bit
                self._rows.append(row)
        if units is not None:
            self._unit_tables.append(units)
        now = time.monotonic()
        if now - self._flushed > max(_FLUSH_SECONDS, _FLUSH_SHARE * (now - self._started)):
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last flush."""
        self._flushed = time.monotonic()
        if self._rows:
            self._write("epochs", pa.Table.from_pylist(self._rows, schema=self._epochs))
            self._rows = []
        if self._unit_tables:
            table = pa.concat_tables(self._unit_tables).cast(self._units)
            arrived = table["trial_id"].unique().to_pylist()
            older = (self.location / "units").files(".parquet")
            self._write("units", table)
            self._unit_tables = []
            if again := [t for t in arrived if t in self._with_units]:
                self._forget_units(older, again)
            self._with_units.update(arrived)

    def _write(self, kind: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        name = f"part-{stamp}-{uuid.uuid4().hex[:6]}.parquet"
        (self.location / kind / name).write_bytes(sink.getvalue())

    def _forget_units(self, files: list[Location], trial_ids: list[str]) -> None:
        """Drop the units of trials that went on: theirs were of an earlier epoch."""
        for file in files:
            table = pq.read_table(file.path, filesystem=file.filesystem)
            kept = table.filter(~pc.field("trial_id").isin(trial_ids))
            if kept.num_rows == table.num_rows:
                continue
            if kept.num_rows:
                sink = pa.BufferOutputStream()
                pq.write_table(kept, sink, compression="zstd")
                file.write_bytes(sink.getvalue())
            else:
                file.delete()
