"""Parquet files whose damage is noticed: every page has a checksum."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sparseae.errors import first_line
from sparseae.results.location import Location


def to_parquet(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of a file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def write_table(file: Location, table: pa.Table) -> None:
    """Write the whole file or nothing."""
    file.write_bytes(to_parquet(table))


def read_table(file: Location, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file: all of it, or those of the columns that it has.

    Raises:
        ValueError: if it is damaged.
        OSError: if the storage does not answer.
    """
    return parse(file.read_bytes(), columns)


def parse(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in the bytes of a file.

    Raises:
        ValueError: if they are damaged.
    """
    try:
        source = pa.BufferReader(content)
        stored = pq.ParquetFile(source, page_checksum_verification=True)
        names = stored.schema_arrow.names
        return stored.read(None if columns is None else [c for c in columns if c in names])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(first_line(error)) from None
