"""A user's own matrix: read as it is, or refused in one line that names the file."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparseae import data
from sparseae.data.dataset import standardized
from sparseae.errors import RequestError
from tests.data.small_files import refusal


def test_a_matrix_is_the_same_from_either_format(tmp_path):
    x = np.random.default_rng(0).standard_normal((30, 4))
    np.save(tmp_path / "x.npy", x)
    pd.DataFrame(x, columns=list("abcd")).to_parquet(tmp_path / "x.parquet")
    for file in ("x.npy", "x.parquet"):
        prepared = data.prepare(str(tmp_path / file), samples=100)
        np.testing.assert_array_equal(prepared.x, standardized(x))
        assert data.shape(str(tmp_path / file), samples=100) == (30, 4)
        assert prepared.description == f"{file}: 30 rows, 4 inputs"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint64", "float16", "float32", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_any_type_and_order_are_read(tmp_path, dtype, order):
    x = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(dtype, order=order)
    np.save(tmp_path / "x.npy", x)
    prepared = data.prepare(str(tmp_path / "x.npy"), samples=100)
    np.testing.assert_array_equal(prepared.x, standardized(x.astype(np.float64)))
    assert prepared.x.flags.c_contiguous


def test_columns_of_any_number_type_are_read_large_integers_too(tmp_path):
    columns = {
        "bool": pa.array([True, False, True]),
        "half": pa.array(np.array([1, 2, 4], np.float16)),
        "int": pa.array([2**62 + 1, 0, 5]),
        "uint": pa.array([2**64 - 1, 0, 5], pa.uint64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    x = np.array([[1, 1, 2**62 + 1, 2**64 - 1], [0, 2, 0, 0], [1, 4, 5, 5]], np.float64)
    prepared = data.prepare(str(tmp_path / "x.parquet"), samples=100)
    np.testing.assert_array_equal(prepared.x, standardized(x))


def test_the_index_of_a_data_frame_is_no_input(tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [0.0, 0, 1, 1]}, index=[9, 7, 5, 3])
    frame.to_parquet(tmp_path / "x.parquet")
    prepared = data.prepare(str(tmp_path / "x.parquet"), samples=100)
    np.testing.assert_array_equal(prepared.x, standardized(frame.to_numpy()))


def test_a_larger_matrix_gives_a_random_part_by_the_data_seed(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(200.0).reshape(100, 2))
    rows = [
        set(data.source(str(tmp_path / "x.npy")).load(10, seed, 0).x[:, 0]) for seed in (0, 0, 1)
    ]
    assert len(rows[0]) == 10
    assert rows[0] == rows[1] != rows[2]
    assert "10 of 100 rows" in data.prepare(str(tmp_path / "x.npy"), samples=10).description


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", np.eye(3))
    assert data.shape("~/x.npy", samples=10) == (3, 3)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[1.0, 2.0], [0.0, np.nan]]), "row 1, column 1 is nan"),
        (np.array([[1.0, -np.inf], [0.0, 1.0]]), "row 0, column 1 is -inf"),
        (np.array([[1.0, 1e300], [0.0, 1.0]]), "beyond float32"),
        (np.zeros(5), "1 dimensions"),
        (np.zeros((5, 2, 2)), "3 dimensions"),
        (np.array([[1, None], [2, 3]], dtype=object), "Python objects"),
        (np.array([["a", "b"], ["c", "d"]]), "not numbers"),
        (np.ones((3, 2), complex), "not numbers"),
        (np.zeros((3, 2), "datetime64[s]"), "not numbers"),
        (np.zeros((3, 2), [("a", "f4"), ("b", "f4")]), "not numbers"),
        (np.zeros((0, 4)), "too small"),
        (np.zeros((4, 0)), "too small"),
        (np.full((4, 2), 0.1), "no input varies"),
    ],
)
def test_a_useless_array_is_named(tmp_path, array, reason):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    message = refusal(str(tmp_path / "x.npy"))
    assert reason in message
    assert "x.npy" in message


def test_a_nan_is_refused_even_where_its_row_is_not_drawn(tmp_path):
    x = np.random.default_rng(0).standard_normal((1000, 2))
    x[777, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    assert "row 777, column 1" in refusal(str(tmp_path / "x.npy"), samples=2)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"a": [1, 2], "b": ["x", "y"]}, "column 'b' is"),
        ({"a": [[1.0], [2.0, 3.0]]}, "the lists of 'a' differ in length"),
        ({"a": [["x"], ["y"]]}, "column 'a' is list"),
        ({"a": [1, 2], "b": [1, None]}, "row 1, column 1 is nan"),
        ({"a": [True, None]}, "row 1, column 0 is nan"),
        ({"a": pa.array([], pa.float64())}, "too small"),
        ({}, "too small"),
    ],
)
def test_a_useless_table_is_named(tmp_path, columns, reason):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    message = refusal(str(tmp_path / "x.parquet"))
    assert reason in message
    assert "x.parquet" in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"1,2", "neither .npy nor .parquet"),
        ("x.npy", b"", "truncated or corrupt"),
        ("x.npy", b"PK\x03\x04 an archive", "truncated or corrupt"),
        ("x.npy", pickle.dumps([[1, 2], [3, 4]]), "truncated or corrupt"),
        ("x.parquet", b"PAR1", "truncated or corrupt"),
        ("x.parquet", None, "no such file"),
    ],
)
def test_a_file_of_another_kind_is_named_before_anything_starts(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=reason) as caught:
        data.check(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_matrix(tmp_path):
    (tmp_path / "x.npy").mkdir()
    assert "x.npy: is a folder without *.parquet" in refusal(str(tmp_path / "x.npy"))


@pytest.fixture(scope="module", params=["npy", "parquet"])
def whole(request, tmp_path_factory):
    """The name and bytes of a sound file."""
    file = tmp_path_factory.mktemp("whole") / f"x.{request.param}"
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((20, 5)), columns=list("abcde"))
    frame["f"] = np.arange(20)
    if request.param == "npy":
        np.save(file, frame.to_numpy())
    else:
        frame.to_parquet(file)
    return file.name, file.read_bytes()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draw=st.data())
def test_a_damaged_matrix_is_refused_or_read_never_a_traceback(tmp_path, whole, draw):
    name, sound = whole
    cut = draw.draw(st.one_of(st.none(), st.integers(0, len(sound))))
    # The headers are the delicate part: the first bytes of .npy, the last of Parquet.
    near = st.integers(0, 130)
    position = st.one_of(near, near.map(lambda back: -1 - back), st.integers(0, len(sound) - 1))
    content = bytearray(sound)[:cut]
    for at, change in draw.draw(
        st.lists(st.tuples(position, st.integers(1, 255)), max_size=3), label="changed"
    ):
        if -len(content) <= at < len(content):
            content[at] ^= change
    (tmp_path / name).write_bytes(bytes(content))
    try:
        data.check(str(tmp_path / name))
        prepared = data.prepare(str(tmp_path / name), samples=10)
    except RequestError as error:
        assert name in str(error)
        assert "\n" not in str(error)
    else:
        assert prepared.x.shape == data.shape(str(tmp_path / name), samples=10)
        assert np.isfinite(prepared.x).all()
