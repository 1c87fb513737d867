"""A folder of Parquet parts, a column of lists, and data that no memory holds."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparseae import data
from sparseae.data import dataset
from sparseae.errors import RequestError


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((30, 4))


def columns(x: np.ndarray) -> pa.Table:
    return pa.table({f"x{i}": x[:, i] for i in range(x.shape[1])})


def fingerprint(path) -> str:
    return data.prepare(str(path), samples=100).fingerprint


def test_a_folder_of_parts_is_their_rows_by_name(tmp_path, x):
    np.save(tmp_path / "whole.npy", x)
    for folder in ("parts", "parts.parquet"):  # as Spark calls them
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "_SUCCESS").touch()
        for i, part in enumerate(np.array_split(x, 3)):
            pq.write_table(columns(part), tmp_path / folder / f"part-{i}.parquet")
        assert data.shape(str(tmp_path / folder), samples=100) == (30, 4)
        assert fingerprint(tmp_path / folder) == fingerprint(tmp_path / "whole.npy")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 4)]
)
def test_a_column_of_lists_of_one_length_is_a_matrix(tmp_path, x, kind):
    x = x.astype(np.float32)
    pq.write_table(pa.table({"a.b": pa.array(list(x), kind)}), tmp_path / "lists.parquet")
    np.save(tmp_path / "whole.npy", x.astype(np.float64))
    assert data.shape(str(tmp_path / "lists.parquet"), samples=100) == (30, 4)
    assert fingerprint(tmp_path / "lists.parquet") == fingerprint(tmp_path / "whole.npy")


def test_a_column_of_lists_beside_a_pandas_index(tmp_path, x):
    frame = pd.DataFrame({"v": list(x)}, index=np.arange(30) * 2)
    frame.to_parquet(tmp_path / "f.parquet")
    assert data.shape(str(tmp_path / "f.parquet"), samples=100) == (30, 4)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[1.0, 2.0], [3.0], [4.0, 5.0]], "differ in length"),
        ([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]], "row 1 of 'v' has 1 values, others have 2"),
        ([[1.0, 2.0], None, [4.0, 5.0, 6.0]], "row 1 of 'v' is null"),
        ([[1.0, 2.0], [3.0, None], [4.0, 5.0]], "row 1, column 1 is nan"),
        ([["a", "b"]] * 3, "column 'v' is list"),
        ([[1.0, float("inf")], [3.0, 1.0]], "row 0, column 1 is inf"),
    ],
)
def test_lists_that_are_no_matrix_are_refused(tmp_path, lists, words):
    pq.write_table(pa.table({"v": lists}), tmp_path / "v.parquet")
    with pytest.raises(RequestError, match=r"v\.parquet") as caught:
        data.prepare(str(tmp_path / "v.parquet"), samples=9)
    assert words in str(caught.value)


def test_parts_that_do_not_fit_together_are_refused(tmp_path, x):
    with pytest.raises(RequestError, match=r"is a folder without \*\.parquet"):
        data.check(f"{tmp_path}/")
    pq.write_table(columns(x), tmp_path / "a.parquet")
    pq.write_table(columns(x[:, :3]), tmp_path / "b.parquet")
    with pytest.raises(RequestError, match=r"b\.parquet: has other columns than a\.parquet"):
        data.check(f"{tmp_path}/")
    pq.write_table(pa.table({"v": list(x), "w": x[:, 0]}), tmp_path / "c.parquet")
    with pytest.raises(RequestError, match="a column of lists must be the only one"):
        data.check(str(tmp_path / "c.parquet"))


def test_a_folder_here_is_named_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").mkdir()
    with pytest.raises(RequestError, match=r"the file or folder here is \./parts"):
        data.check("parts")


def test_what_no_memory_holds_is_counted_and_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "wide.npy", np.zeros((3, 200_000), np.float32))
    wide = data.source(str(tmp_path / "wide.npy"))
    assert wide.memory(9, 64, whiten=True) > 298 * 2**30
    assert wide.memory(9, 64, whiten=False) < 10**8
    monkeypatch.setattr(dataset, "available_memory", lambda: 64 * 10**9)
    with pytest.raises(RequestError, match=r"to whiten 200,000 inputs takes 1,600 GB"):
        data.prepare(str(tmp_path / "wide.npy"), samples=9, whiten=True)
    with pytest.raises(RequestError, match=r"gaussian: .* to whiten 200,000 inputs"):
        data.prepare("gaussian", samples=300_000, gaussian_inputs=200_000)
    with pytest.raises(RequestError, match=r"photo_patches: .* to prepare takes"):
        data.prepare("photo_patches", samples=10**12)


def test_the_free_memory_is_a_part_of_the_machine():
    assert 0 < dataset.available_memory() < 2**50
