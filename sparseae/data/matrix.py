"""A user's own matrix, by the path of a .npy or .parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparseae.data.dataset import Raw, Source, subset
from sparseae.errors import RequestError


class Matrix(Source):
    """The samples in a file, one a row."""

    about = "your own .npy or .parquet matrix, by its path"

    def __init__(self, path: str) -> None:
        self.name = path  # type: ignore[misc]

    def check(self) -> None:
        self._file_shape()

    def where(self) -> str:
        return self.name

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        rows, inputs = self._file_shape()
        return min(samples, rows), inputs

    def _file_shape(self) -> tuple[int, int]:
        """(rows, columns), with everything checked that the file's header tells."""
        path = Path(self.name)
        if not path.is_file():
            raise RequestError(f"{path}: there is no such file")
        if path.suffix == ".npy":
            array = _open_npy(path)
            if array.dtype.kind not in "fiub":
                raise RequestError(f"{path}: holds {array.dtype}, not numbers")
            if array.ndim != 2:
                raise RequestError(f"{path}: has {array.ndim} dimensions, a matrix has 2")
            shape = array.shape
        elif path.suffix == ".parquet":
            shape = self._parquet_shape(path)
        else:
            raise RequestError(f"{path}: is neither .npy nor .parquet")
        if shape[0] < 2 or shape[1] < 1:
            raise RequestError(f"{path}: is {shape[0]} x {shape[1]}, too small to train on")
        return shape

    @staticmethod
    def _parquet_shape(path: Path) -> tuple[int, int]:
        try:
            metadata = pq.read_metadata(path)
            schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise RequestError(f"{path}: is no Parquet file: {_line(error)}") from None
        for field in schema:
            if not _is_number(field.type):
                raise RequestError(f"{path}: column {field.name!r} is {field.type}, not a number")
        return metadata.num_rows, len(schema)

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        path = Path(self.name)
        self._file_shape()
        if path.suffix == ".npy":
            array = np.asarray(_open_npy(path))
        else:
            try:
                table = pq.ParquetFile(path).read()
            except (pa.ArrowException, OSError) as error:
                raise RequestError(f"{path}: cannot be read: {_line(error)}") from None
            array = np.column_stack(
                [c.cast(pa.float64()).to_numpy(zero_copy_only=False) for c in table.columns]
            )
        with np.errstate(over="ignore"):
            x = subset(array, samples, data_seed).astype(np.float32)
        bad = ~np.isfinite(x)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise RequestError(
                f"{path}: {int(bad.sum()):,} values are NaN, infinite or beyond float32, the first "
                f"in row {row}, column {column} of the samples"
            )
        return Raw(x, f"{path.name}: {x.shape[0]:,} x {x.shape[1]:,}", {"path": str(path)})


def _open_npy(path: Path) -> np.ndarray:
    try:
        # An object array would be unpickled, which can execute anything.
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError) as error:
        raise RequestError(f"{path}: cannot be read: {_line(error)}") from None


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
