"""The ways to read a sweep's epochs tell the same: whole, in part, part by part, the last alone."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import sparseae
from sparseae.errors import RequestError
from sparseae.model.trial import ADDED_KEYS, DEFAULTS, TRAINING_TYPES
from sparseae.results import provenance, reader
from sparseae.results.reader import has_epochs, load_last, load_parts, load_units, no_epochs
from sparseae.results.schema import ADDED_FIELDS
from tests.results.test_reader import METADATA, write


@pytest.fixture
def two(tmp_path):
    """Two sweeps in a folder, of which the second goes on with trials of the first."""
    write(tmp_path / "a", seeds=(0, 1, 2), epochs=2)
    write(tmp_path / "b", seeds=(2, 3), epochs=4)
    return tmp_path


def parts(place) -> list:
    return sorted((place / "epochs").glob("*.parquet"))


@pytest.mark.parametrize("waiting", [0, 4, 500_000])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_last_rows_are_those_of_the_whole_table(two, monkeypatch, waiting, backwards):
    monkeypatch.setattr(reader, "_MOST_WAITING", waiting)
    places = [two / "b", two / "a"] if backwards else [two / "a", two / "b"]
    last = load_last(places).sort_values("trial_id", ignore_index=True)
    whole = sparseae.load(places).sort_values("epoch", kind="stable")
    expected = whole.drop_duplicates("trial_id", keep="last").sort_values(
        "trial_id", ignore_index=True
    )
    assert last["epoch"].tolist() == expected["epoch"].tolist()
    assert sorted(zip(last["seed"], last["epoch"], strict=True)) == [(0, 2), (1, 2), (2, 4), (3, 4)]
    shared = expected.columns.intersection(last.columns)
    pd.testing.assert_frame_equal(last[shared], expected[shared])


def test_the_last_rows_may_be_asked_for_in_some_columns(two):
    last = load_last(two, columns=["seed"])
    assert list(last.columns) == ["trial_id", "epoch", "seed"]
    assert len(last) == 4


def test_of_a_sweep_that_has_begun_nothing_is_last(tmp_path):
    write(tmp_path / "s")
    for file in parts(tmp_path / "s"):
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert load_last(tmp_path / "s").empty
    assert sparseae.load(tmp_path / "s").empty


def test_parts_come_one_by_one_in_the_columns_that_they_have(two):
    columns = ["trial_id", "epoch", "no such column"]
    found = list(load_parts([two / "a", two / "b"], columns))
    assert [list(part.columns) for part in found] == [["trial_id", "epoch"]] * 5
    assert [len(part) for part in found] == [3, 3, 3, 5, 5]


def test_some_columns_and_some_epochs_are_those_of_the_whole_table(two):
    whole = sparseae.load(two)
    some = sparseae.load(two, columns=["seed", "activation_fraction"], epochs=[4, 1])
    assert list(some.columns) == ["sweep", "trial_id", "epoch", "seed", "activation_fraction"]
    expected = whole[whole["epoch"].isin([1, 4])]
    pd.testing.assert_frame_equal(
        some.reset_index(drop=True), expected[list(some.columns)].reset_index(drop=True)
    )
    assert len(some) == 4 + 2


def test_a_trial_of_two_sweeps_has_each_of_its_rows_once(two):
    frame = sparseae.load([two / "a", two / "b"])
    assert len(frame) == 3 * 3 + 5 + 2
    assert not frame.duplicated(["sweep", "trial_id", "epoch"]).any()
    assert frame.index.tolist() == list(range(len(frame)))


def test_columns_from_after_the_first_results_are_null_in_rows_from_before(tmp_path):
    write(tmp_path / "s")
    added = [field.name for field in ADDED_FIELDS]
    (file,) = parts(tmp_path / "s")
    pq.write_table(pq.read_table(file).drop_columns(added), file)
    assert sparseae.load(tmp_path / "s")[added].isna().all(axis=None)
    some = sparseae.load(tmp_path / "s", columns=["seed", "l0"])
    assert list(some.columns) == ["sweep", "trial_id", "epoch", "seed", "l0"]


def test_rows_from_before_a_key_have_its_default_in_its_type(tmp_path):
    write(tmp_path / "old")
    write(tmp_path / "new", seeds=(5,))
    (file,) = parts(tmp_path / "old")
    pq.write_table(pq.read_table(file).drop_columns(list(ADDED_KEYS)), file)
    frame = sparseae.load([tmp_path / "old", tmp_path / "new"])
    for key in ADDED_KEYS:
        assert set(frame[key]) == {DEFAULTS[key]}, key
        assert frame[key].dtype == np.dtype(TRAINING_TYPES[key]) or TRAINING_TYPES[key] is str


def test_a_sweep_has_epochs_once_it_has_a_part(tmp_path):
    (tmp_path / "s" / "epochs").mkdir(parents=True)
    assert not has_epochs(tmp_path / "s")
    assert not has_epochs(tmp_path / "none")
    write(tmp_path / "s")
    assert has_epochs(tmp_path / "s")
    empty = no_epochs(TRAINING_TYPES)
    assert empty.empty
    assert set(sparseae.load(tmp_path / "s").columns) <= set(empty.columns)


def test_no_place_is_refused():
    with pytest.raises(RequestError, match=r"^DIR: is empty: name at least one folder of a sweep$"):
        sparseae.load([])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "s: there is no such folder"),
        (lambda p: p.mkdir(), r"s: has no epochs/\*.parquet; is it the folder of a sweep\?"),
        (lambda p: p.write_text(""), "s: is a file, not the folder of a sweep"),
    ],
)
def test_what_is_no_sweep_is_named_with_what_is_wrong(tmp_path, make, words):
    make(tmp_path / "s")
    for read in (sparseae.load, load_last, lambda place: list(load_parts(place, ["epoch"]))):
        with pytest.raises(RequestError, match=f"{words}$"):
            read(tmp_path / "s")


def test_units_are_missed_by_their_own_name(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(RequestError, match=r"s: has no units/\*.parquet"):
        load_units(tmp_path / "s")


def test_columns_that_no_part_has_are_named_with_the_sweep(tmp_path):
    write(tmp_path / "s", seeds=(0, 1))
    first, second = parts(tmp_path / "s")
    pq.write_table(pq.read_table(first).drop_columns(["loss", "status"]), first)
    assert len(sparseae.load(tmp_path / "s")) == 6  # another part has them
    pq.write_table(pq.read_table(second).drop_columns(["loss", "status"]), second)
    with pytest.raises(RequestError, match=r"s: the epochs have no column status, loss$"):
        sparseae.load(tmp_path / "s")
    sparseae.load(tmp_path / "s", columns=["seed"])  # nor asked for
    with pytest.raises(RequestError, match=r"s: the epochs have no column loss$"):
        sparseae.load(tmp_path / "s", columns=["seed", "loss"])


def test_parts_and_folders_whose_columns_cannot_be_one_are_named(tmp_path):
    def in_words(file):
        table = pq.read_table(file)
        seed = table.column_names.index("seed")
        pq.write_table(table.set_column(seed, "seed", [["x"] * 3]), file)

    write(tmp_path / "a")
    write(tmp_path / "b", seeds=(1, 2))
    first, second = parts(tmp_path / "b")
    in_words(first)
    with pytest.raises(RequestError, match=r"b: epochs differ in their columns: .*seed"):
        sparseae.load(tmp_path / "b")
    in_words(second)
    with pytest.raises(RequestError, match=r"^the folders differ in their columns: .*seed"):
        sparseae.load([tmp_path / "a", tmp_path / "b"])


def test_a_folder_of_sweeps_is_its_sweeps_and_a_sweep_is_itself(two):
    (two / "notes").mkdir()
    assert len(sparseae.load(two)) == len(sparseae.load([two / "a", two / "b"]))
    assert len(sparseae.load([two, two / "a"])) == len(sparseae.load(two))


def test_where_rows_come_from_is_joined_over_parts_and_sweeps(tmp_path):
    kinds = [
        ("a", 0, {"processor": "one", "versions": json.dumps({"torch": "1"})}),
        ("a", 1, {"processor": "two", "versions": json.dumps({"numpy": "2"})}),
        ("b", 2, {"processor": "one", "git_commit": "def", "gemm": json.dumps({"1x1x1": "c"})}),
    ]
    for name, seed, changes in kinds:
        write(tmp_path / name, seeds=(seed,), metadata=METADATA | changes)
        (tmp_path / name / "sweep.yaml").write_text(f"name: {name}\n")
    known = provenance(tmp_path)
    assert sorted(known["processor"].split(" and ")) == ["one", "two"]
    assert known["versions"] == {"torch": "2.13.0", "numpy": "2"}
    assert known["git_commit"] == "def"
    assert known["gemm"] == {"1x1x1": "c"}
    assert known["datasets"] == json.loads(METADATA["datasets"])
    assert [c["name"] for c in known["configurations"]] == ["a", "b"]
    assert set(known) == {"configurations", "version", "git_commit", "versions", "datasets",
                          "processor", "gemm"}  # fmt: skip
    (tmp_path / "a" / "sweep.yaml").unlink()
    assert [c["name"] for c in provenance(tmp_path)["configurations"]] == ["b"]
