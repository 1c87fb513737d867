"""A user's own matrix, by the path of a .npy or .parquet file, or of a folder of Parquet parts."""

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

    about = "your own .npy or .parquet matrix, or a folder of Parquet parts, by its path"

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
        if path.is_dir():
            with reading(path):
                opened: _Npy | _Parquet = _Parquet(path, _parts(path))
        elif not path.is_file():
            raise RequestError(f"{path}: there is no such file")
        elif path.name.endswith(".npy"):
            with reading(path):
                opened = _Npy(path)
        elif path.name.endswith(".parquet"):
            with reading(path):
                opened = _Parquet(path, [path])
        else:
            raise RequestError(f"{path}: is neither .npy nor .parquet")
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


def _parts(folder: Path) -> list[Path]:
    """The Parquet files of a folder, by name, without those that readers skip."""
    found = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith((".", "_")))
    if not found:
        raise RequestError(f"{folder}: is a folder without *.parquet")
    return found


class _Parquet:
    """Parts of one table: a column an input, or one column of lists, all of one length."""

    def __init__(self, path: Path, parts: list[Path]) -> None:
        self._path, self._parts = path, parts
        opened = [_Part(part) for part in parts]
        first = opened[0]
        for part in opened[1:]:
            if part.columns != first.columns or part.inputs != first.inputs:
                raise RequestError(
                    f"{part.path}: has other columns than {first.path.name}: the parts of a data "
                    "set have the same ones"
                )
        self.shape = (sum(part.rows for part in opened), first.inputs)

    def read(self) -> np.ndarray:
        """The matrix in float64; a null is NaN."""
        blocks = [_Part(part).read() for part in self._parts]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


class _Part:
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        # A data frame's index is stored as one more column, and is no input.
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        self._columns = [i for i, field in enumerate(schema) if field.name not in index]
        fields = [schema.field(i) for i in self._columns]
        self.columns = [field.name for field in fields]
        self.rows: int = self._file.metadata.num_rows
        self._is_list = len(fields) == 1 and _is_list(fields[0].type)
        if self._is_list:
            if not _is_number(fields[0].type.value_type):
                raise RequestError(f"{path}: column {fields[0].name!r} is {fields[0].type}")
            self.inputs = self._length()
            return
        for field in fields:
            if not _is_number(field.type):
                hint = "; a column of lists must be the only one" if _is_list(field.type) else ""
                raise RequestError(
                    f"{path}: column {field.name!r} is {field.type}, not a number{hint}"
                )
        self.inputs = len(fields)

    def _length(self) -> int:
        """Values of a list, as the file's metadata have them; `read` looks at each."""
        groups = self._file.metadata
        leaf = next(
            i for i in range(groups.num_columns)
            if groups.schema.column(i).path.startswith(f"{self.columns[0]}.")
        )  # fmt: skip
        values = sum(
            groups.row_group(g).column(leaf).num_values for g in range(groups.num_row_groups)
        )
        if self.rows == 0 or values % self.rows:
            raise RequestError(f"{self.path}: the lists of {self.columns[0]!r} differ in length")
        return values // self.rows

    def read(self) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self._file.read().select(self._columns)
        if not self._is_list:
            # Integers above 2^53 are rounded, as they would be in float32 anyway.
            return np.column_stack(
                [column.cast(pa.float64(), safe=False).to_numpy() for column in table.columns]
            )
        column = table.column(0)
        lengths = pc.call_function("list_value_length", [column]).fill_null(-1).to_numpy()
        if (bad := lengths != self.inputs).any():
            row = int(np.argmax(bad))
            has = "is null" if lengths[row] < 0 else f"has {lengths[row]} values"
            raise RequestError(
                f"{self.path}: row {row} of {self.columns[0]!r} {has}, others have {self.inputs}: "
                "a matrix has lists of one length"
            )
        values = pc.call_function("list_flatten", [column]).cast(pa.float64(), safe=False)
        return values.to_numpy().reshape(self.rows, self.inputs)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
