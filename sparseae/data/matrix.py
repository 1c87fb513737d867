"""A user's own matrix, by the path of a .npy or .parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparseae import paths
from sparseae.data.dataset import Raw, Source, subset
from sparseae.data.files import reading
from sparseae.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows checked at a time.
_BLOCK = 65_536


class Matrix(Source):
    """The samples in a file, one a row."""

    about = "your own .npy or .parquet matrix, by its path"

    def __init__(self, path: str) -> None:
        self.name = path  # type: ignore[misc]
        self._path = Path(paths.checked(path, "data set"))

    def check(self) -> None:
        self._open()

    def where(self) -> str:
        return self.name

    def fetch(self) -> str:
        self.check()
        return self.where()

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        rows, inputs = self._open().shape
        return min(samples, rows), inputs

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        path = self._path
        with reading(path):
            x = self._open().read()
        for start in range(0, x.shape[0], _BLOCK):
            with np.errstate(over="ignore"):  # of what is wider than float64
                block = np.asarray(x[start : start + _BLOCK], np.float64)
            # Written so that NaN fails too.
            good = np.abs(block) <= np.finfo(np.float32).max
            if not good.all():
                row, column = np.argwhere(~good)[0]
                raise RequestError(
                    f"{path}: row {start + row}, column {column} is {block[row, column]:g}: NaN, "
                    "infinite and beyond float32 are refused (both count from 0)"
                )
        used = subset(x, samples, data_seed)
        of = "" if len(used) == len(x) else f" of {len(x):,}"
        return Raw(
            used,
            f"{path.name}: {len(used):,}{of} rows, {x.shape[1]:,} inputs",
            {"path": str(path), "rows": len(x)},
        )

    def _open(self) -> _Npy | _Parquet:
        """The file, with everything checked that its header tells."""
        path = self._path
        if not path.is_file():
            raise RequestError(f"{path}: there is no such file")
        kinds = {".npy": _Npy, ".parquet": _Parquet}
        if path.suffix not in kinds:
            raise RequestError(f"{path}: is neither .npy nor .parquet")
        with reading(path):
            opened = kinds[path.suffix](path)
        rows, inputs = opened.shape
        if rows < 2 or inputs < 1:
            raise RequestError(f"{path}: is {rows} x {inputs}, too small to train on")
        return opened


class _Npy:
    def __init__(self, path: Path) -> None:
        # Never np.load: it opens archives and, told to, pickles; this maps plain arrays alone.
        self._array = np.lib.format.open_memmap(path, mode="r")
        if self._array.dtype.kind not in "fiub":
            raise RequestError(f"{path}: holds {self._array.dtype}, not numbers")
        if self._array.ndim != 2:
            raise RequestError(f"{path}: has {self._array.ndim} dimensions, a matrix has 2")
        self.shape: tuple[int, int] = self._array.shape

    def read(self) -> np.ndarray:
        """The matrix, mapped: a subset of its rows is all that is copied."""
        return self._array


class _Parquet:
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        # A data frame's index is stored as one more column, and is no input.
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        self._columns = [i for i, field in enumerate(schema) if field.name not in index]
        for i in self._columns:
            field = schema.field(i)
            if not _is_number(field.type):
                raise RequestError(f"{path}: column {field.name!r} is {field.type}, not a number")
        self.shape = (self._file.metadata.num_rows, len(self._columns))

    def read(self) -> np.ndarray:
        """The matrix in float64; a null is NaN."""
        import pyarrow as pa

        table = self._file.read().select(self._columns)
        # Integers above 2^53 are rounded, as they would be in float32 anyway.
        return np.column_stack(
            [column.cast(pa.float64(), safe=False).to_numpy() for column in table.columns]
        )


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
