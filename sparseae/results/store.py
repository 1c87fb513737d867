"""Writing results: part files that are added and never changed, one row a (trial_id, epoch)."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sparseae.results.location import Location
from sparseae.results.parquet import read_table, write_table
from sparseae.results.schema import epoch_schema, unit_schema

#: A flush at least this many seconds after the last, and this share of the run's time: a long run
#: leaves a few hundred files, not one every ten seconds.
_FLUSH_SECONDS = 10.0
_FLUSH_SHARE = 0.02


class Store:
    """The Parquet files of a sweep.

    Rows that are there already are not written again, so that a replayed epoch leaves no second
    row. A file that cannot be read is put aside under a name that readers skip, and a row that
    stands there twice (two runs at once) is dropped.

    Args:
        location: the sweep's folder, ``DIR/NAME``.
        training_types: keys and types of ``training``, for their columns.
        metadata: provenance for the schema's metadata, without the prefix ``sparseae.``.
        theory: whether rows have the columns of `sparseae.theory.terms`.
        check: is called before each write; raises where the sweep is no longer this process's.
    """

    def __init__(
        self,
        location: Location,
        training_types: Mapping[str, type],
        metadata: Mapping[str, str],
        check: Callable[[], None] = lambda: None,
        *,
        theory: bool = False,
    ) -> None:
        self.location = location
        self._check = check
        named = {f"sparseae.{key}": value for key, value in metadata.items()}
        self._schemas = {
            "epochs": epoch_schema(dict(training_types), named, theory=theory),
            "units": unit_schema(named, theory=theory),
        }
        self._rows: list[Mapping[str, Any]] = []
        self._unit_tables: list[pa.Table] = []
        #: The next part of each kind: one name until it is written, so that a write whose answer
        #: was lost is repeated and not doubled.
        self._names: dict[str, str] = {}
        self._started = self._flushed = time.monotonic()
        self.put_aside: list[str] = []
        #: Of each trial the epochs that have a row, as bits.
        self._present: dict[str, int] = defaultdict(int)
        #: In which part the units of each trial are.
        self._units_in: dict[str, str] = {}
        for file, table in self._parts("epochs"):
            if not table.num_rows or not self._all_new(table):
                ids, epochs = (table[name].to_pylist() for name in ("trial_id", "epoch"))
                new = [self._is_new(row) for row in zip(ids, epochs, strict=True)]
                _keep(file, table, pa.array(new, pa.bool_()))
        for file, table in self._parts("units"):
            arrived = _trial_ids(table)
            if again := self._units_in.keys() & arrived:
                _keep(file, table, _not_of(again))
            self._units_in |= dict.fromkeys(set(arrived) - again, file.path)

    def _parts(self, kind: str) -> Iterator[tuple[Location, pa.Table]]:
        """The parts that can be read, whole: a part that a reader would stumble on is put aside."""
        schema = self._schemas[kind]
        for file in (self.location / kind).files(".parquet"):
            try:
                table = read_table(file)
                for field in schema:
                    if not field.nullable and not _holds(table, field):
                        raise ValueError(f"has no whole column {field.name}")
            except ValueError:
                self._put_aside(kind, file)
            else:
                yield file, table

    def _put_aside(self, kind: str, file: Location) -> None:
        file.rename(f"_unreadable-{file.name}")
        self.put_aside.append(f"{kind}/{file.name}")

    def _all_new(self, table: pa.Table) -> bool:
        """Whether no row of a part is there yet, nor twice in it; from now on they are there.

        In a tenth of the time that each row takes by itself: of each trial a run of epochs is
        taken at once. False too, and nothing is taken, where a trial misses some between others.
        """
        ends = [("epoch", how) for how in ("min", "max", "count", "count_distinct")]
        found = table.group_by("trial_id").aggregate(ends)
        ids = found["trial_id"].to_pylist()
        least, most, rows, distinct = (found[f"epoch_{how}"].to_pylist() for _, how in ends)
        runs: dict[str, int] = {}
        for trial_id, first, last, count, different in zip(
            ids, least, most, rows, distinct, strict=True
        ):
            bits = (1 << (last + 1)) - (1 << first)
            if not count == different == last - first + 1 or self._present.get(trial_id, 0) & bits:
                return False
            runs[trial_id] = bits
        for trial_id, bits in runs.items():
            self._present[trial_id] |= bits
        return True

    def _is_new(self, row: tuple[str, int]) -> bool:
        """Whether a (trial_id, epoch) has no row yet; from now on it has."""
        trial_id, epoch = row
        before = self._present[trial_id]
        self._present[trial_id] = before | 1 << epoch
        return self._present[trial_id] != before

    def describe(self, key: str, value: str) -> None:
        """Say another thing of the parts to come: a key of ``metadata``."""
        for kind, schema in self._schemas.items():
            changed = {f"sparseae.{key}".encode(): value.encode()}
            self._schemas[kind] = schema.with_metadata((schema.metadata or {}) | changed)

    def is_complete(self, trial_id: str, epochs: int) -> bool:
        """Whether epochs 0 to ``epochs`` and the units of a trial are written."""
        every = (1 << (epochs + 1)) - 1
        return trial_id in self._units_in and self._present.get(trial_id, 0) & every == every

    def add(self, rows: Sequence[Mapping[str, Any]], units: pa.Table | None = None) -> None:
        """Take rows of ``epochs/`` and, at a trial's last epoch, of ``units/``."""
        self._rows += [row for row in rows if self._is_new((row["trial_id"], row["epoch"]))]
        if units is not None:
            self._unit_tables.append(units)
        now = time.monotonic()
        if now - self._flushed > max(_FLUSH_SECONDS, _FLUSH_SHARE * (now - self._started)):
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last flush.

        Killed at any point it leaves no trial that looks complete and is not: the units of an
        earlier epoch go first, a trial's last rows come after its units.
        """
        self._flushed = time.monotonic()
        self._check()
        if self._unit_tables:
            table = pa.concat_tables(_latest(self._unit_tables)).cast(self._schemas["units"])
            arrived = _trial_ids(table)
            self._forget_units(arrived)
            written = self._write("units", table)
            self._unit_tables = []
            self._units_in |= dict.fromkeys(arrived, written.path)
        if self._rows:
            self._write("epochs", pa.Table.from_pylist(self._rows, schema=self._schemas["epochs"]))
            self._rows = []

    def _write(self, kind: str, table: pa.Table) -> Location:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        name = self._names.setdefault(kind, f"part-{stamp}-{uuid.uuid4().hex[:6]}.parquet")
        file = self.location / kind / name
        write_table(file, table)
        del self._names[kind]
        return file

    def _forget_units(self, trial_ids: Sequence[str]) -> None:
        """Drop the units of trials that went on: theirs were of an earlier epoch.

        Only the parts that hold some are read; what a sweep has is not looked through each time.
        """
        of_part: dict[str, list[str]] = defaultdict(list)
        for trial_id in trial_ids:
            if (part := self._units_in.get(trial_id)) is not None:
                of_part[part].append(trial_id)
        for part, gone in of_part.items():
            file = Location(self.location.filesystem, part)
            try:
                _keep(file, read_table(file), _not_of(gone))
            except FileNotFoundError:
                pass
            except ValueError:  # damaged since the run began
                self._put_aside("units", file)
            for trial_id in gone:
                del self._units_in[trial_id]


def _holds(table: pa.Table, field: pa.Field) -> bool:
    return (
        table.column_names.count(field.name) == 1
        and table.schema.field(field.name).type == field.type
        and table[field.name].null_count == 0
    )


def _trial_ids(table: pa.Table) -> list[str]:
    return table["trial_id"].unique().to_pylist()


def _latest(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Of each trial its last rows: a worker lost at its last epoch reports that once more."""
    latest: list[pa.Table] = []
    seen: set[str] = set()
    for table in reversed(tables):
        trial_ids = _trial_ids(table)
        latest.append(table if seen.isdisjoint(trial_ids) else table.filter(_not_of(seen)))
        seen.update(trial_ids)
    return latest[::-1]


def _not_of(trial_ids: Iterable[str]) -> pc.Expression:
    return ~pc.field("trial_id").isin(pa.array(trial_ids))


def _keep(file: Location, table: pa.Table, wanted: pa.Array | pc.Expression) -> None:
    """Reduce a part to the wanted rows, where that are not all."""
    kept = table.filter(wanted)
    if kept.num_rows == 0:
        file.delete()
    elif kept.num_rows < table.num_rows:
        write_table(file, kept)
