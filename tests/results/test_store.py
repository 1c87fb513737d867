"""The store: what a kill, a lost answer or a damaged file leaves is sound."""

import re
import time
from datetime import UTC, datetime, timedelta

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import sparseae
from sparseae.model.trial import TRAINING_TYPES, Trial
from sparseae.results import patience
from sparseae.results.location import Location
from sparseae.results.schema import THEORY_UNIT_FIELDS, epoch_schema, unit_schema
from sparseae.results.store import Store

TRIAL = Trial(model="cae", activation="relu", sigma2=0.25, constraint="unit_norm",
              dataset="digits", seed=0)  # fmt: skip
ID = TRIAL.trial_id
PROVENANCE = {"git_commit": "abc", "python": "3.x"}


def opened(place, **options) -> Store:
    return Store(Location.of(place), TRAINING_TYPES, PROVENANCE, **options)


def rows(*epochs):
    about = {"sweep": "s", "trial_id": ID, "status": "ok", "loss": 1.0}
    return [TRIAL.values() | about | {"epoch": epoch} for epoch in epochs]


def units(bias: float) -> pa.Table:
    return pa.table({"trial_id": [ID, ID], "unit": [0, 1], "activation_fraction": [0.5, 0.5],
                     "pre_activation_mean": [0.0, 0.0], "bias": [bias, bias],
                     "weight_norm": [1.0, 1.0]})  # fmt: skip


def finish(place) -> None:
    store = opened(place)
    store.add(rows(0, 1), units(0.1))
    store.flush()


def parts(place, kind: str) -> list:
    return sorted((place / kind).glob("*.parquet"))


class Killed(BaseException):
    pass


def test_a_replayed_epoch_leaves_one_row(tmp_path):
    store = opened(tmp_path)
    store.add(rows(0, 1))
    store.add(rows(1, 2))
    store.flush()
    again = opened(tmp_path)
    again.add(rows(0, 1, 2, 3))
    again.flush()
    assert sorted(sparseae.load(tmp_path)["epoch"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("written", [False, True])
def test_a_replayed_last_epoch_leaves_its_units_once(tmp_path, written):
    store = opened(tmp_path)
    store.add(rows(0, 1), units(0.1))
    if written:
        store.flush()
    store.add(rows(1), units(0.2))
    store.flush()
    found = sparseae.load_units(tmp_path)
    assert found["unit"].tolist() == [0, 1]
    assert found["bias"].tolist() == [0.2, 0.2]


@pytest.mark.parametrize("when", range(4))
def test_killed_at_any_write_nothing_looks_complete_that_is_not(tmp_path, monkeypatch, when):
    """A trial goes on to more epochs: its old units go, the new ones and the last rows come."""
    finish(tmp_path)
    calls = []

    def killing(write):
        def call(file, *arguments):
            calls.append(file)
            if len(calls) > when:
                raise Killed
            return write(file, *arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "delete"):
            patch.setattr(Location, name, killing(getattr(Location, name)))
        store = opened(tmp_path)
        store.add(rows(2, 3), units(0.3))
        try:
            store.flush()
        except Killed:
            assert when < 3
    after = opened(tmp_path)
    assert after.is_complete(ID, 3) == (when == 3)
    after.add(rows(2, 3), units(0.3))
    after.flush()
    assert sorted(sparseae.load(tmp_path)["epoch"]) == [0, 1, 2, 3]
    assert sparseae.load_units(tmp_path)["bias"].tolist() == [0.3, 0.3]


def test_a_write_whose_answer_was_lost_is_not_doubled(tmp_path, monkeypatch):
    store = opened(tmp_path)
    store.add(rows(0))
    write = Location.write_bytes

    def lost(file, data):
        write(file, data)
        raise OSError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(Location, "write_bytes", lost)
        with pytest.raises(OSError, match="broke"):
            store.flush()
    store.add(rows(1))
    store.flush()
    assert sorted(pq.read_table(tmp_path / "epochs")["epoch"].to_pylist()) == [0, 1]


def test_rows_that_two_runs_left_twice_are_there_once_after_the_next(tmp_path):
    one, other = opened(tmp_path), opened(tmp_path)
    for store, epochs in ((one, (0, 1)), (other, (1, 2))):
        store.add(rows(*epochs), units(0.1))
        store.flush()
    assert len(pd.read_parquet(tmp_path / "epochs")) == 4
    assert opened(tmp_path).is_complete(ID, 2)
    assert sorted(sparseae.load(tmp_path)["epoch"]) == [0, 1, 2]
    assert len(sparseae.load_units(tmp_path)) == 2


@pytest.mark.parametrize("kind", ["epochs", "units"])
def test_a_flipped_bit_anywhere_in_the_pages_is_noticed(tmp_path, kind):
    finish(tmp_path)
    (part,) = (tmp_path / kind).glob("*.parquet")
    whole = part.read_bytes()
    for at in range(4, len(whole) // 2, 41):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        store = opened(tmp_path)
        if not store.put_aside:  # a bit that means nothing
            part.write_bytes(whole)
            assert store.is_complete(ID, 1)
            continue
        assert not store.is_complete(ID, 1)
        (aside,) = (tmp_path / kind).glob("_unreadable-*")
        aside.unlink()
        part.write_bytes(whole)


def test_a_storage_whose_error_has_no_words_is_tried_again(tmp_path, monkeypatch, caplog):
    class Silent(fs.FSSpecHandler):
        calls = 0

        def open_input_stream(self, path):
            self.calls += 1
            if self.calls == 1:
                raise TimeoutError
            return super().open_input_stream(path)

    (tmp_path / "file").write_bytes(b"there")
    handler = Silent(fsspec.filesystem("file"))
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.0)
    place = Location(fs.PyFileSystem(handler), str(tmp_path)).patient(10)
    assert (place / "file").read_bytes() == b"there"
    assert handler.calls == 2
    assert "(TimeoutError)" in caplog.text


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_trial_is_complete_with_every_epoch_from_0_and_its_units(tmp_path, missing):
    store = opened(tmp_path)
    assert not store.is_complete(ID, 0)
    store.add(rows(*(epoch for epoch in range(3) if epoch != missing)), units(0.1))
    store.flush()
    assert not store.is_complete(ID, 2)
    store.add(rows(missing))
    assert store.is_complete(ID, 2)
    assert store.is_complete(ID, 1)
    assert not store.is_complete(ID, 3)
    assert not store.is_complete("another", 0)


def test_trials_stay_complete_while_others_are_written(tmp_path):
    store = opened(tmp_path)
    names = ["a", "b", "c"]
    for name in names:
        store.add([row | {"trial_id": name} for row in rows(0, 1)], units_of(**{name: 0.1}))
        store.flush()
    assert all(store.is_complete(name, 1) for name in names)
    assert all(opened(tmp_path).is_complete(name, 1) for name in names)


def test_units_alone_are_no_trial(tmp_path):
    store = opened(tmp_path)
    store.add([], units(0.1))
    store.flush()
    assert not store.is_complete(ID, 0)
    assert not opened(tmp_path).is_complete(ID, 0)


def test_rows_alone_are_no_complete_trial(tmp_path):
    store = opened(tmp_path)
    store.add(rows(0))
    store.flush()
    assert not store.is_complete(ID, 0)
    assert not opened(tmp_path).is_complete(ID, 0)


@pytest.mark.parametrize("theory", [False, True])
def test_both_tables_have_their_columns_and_the_provenance(tmp_path, theory):
    measured = units(0.1)
    for field in THEORY_UNIT_FIELDS if theory else ():
        measured = measured.append_column(field, pa.array([0.5, 0.5]))
    store = opened(tmp_path, theory=theory)
    store.add(rows(0, 1), measured)
    store.flush()
    schemas = {
        "epochs": epoch_schema(TRAINING_TYPES, theory=theory),
        "units": unit_schema(theory=theory),
    }
    for kind, schema in schemas.items():
        (part,) = parts(tmp_path, kind)
        written = pq.read_schema(part)
        assert written.names == schema.names
        assert written.metadata[b"sparseae.git_commit"] == b"abc"


def test_what_is_said_anew_of_rows_is_said_of_those_to_come(tmp_path):
    store = opened(tmp_path)
    store.add(rows(0))
    store.flush()
    store.describe("git_commit", "def")
    store.add(rows(1))
    store.flush()
    said = [pq.read_schema(part).metadata for part in parts(tmp_path, "epochs")]
    assert [one[b"sparseae.git_commit"] for one in said] == [b"abc", b"def"]
    assert said[0].keys() == said[1].keys()
    assert said[1][b"sparseae.python"] == b"3.x"


def test_nothing_is_written_before_it_is_due_and_then_all_in_one_part(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store = opened(tmp_path)
    for step, epoch in enumerate(range(3)):
        now[0] = 1000.0 + 5 * step
        store.add(rows(epoch))
    assert parts(tmp_path, "epochs") == []  # the last is exactly ten seconds after the first
    now[0] = 1010.1
    store.add(rows(3))
    (part,) = parts(tmp_path, "epochs")
    assert pq.read_table(part)["epoch"].to_pylist() == [0, 1, 2, 3]
    now[0] = 1020.0
    store.add(rows(4))
    assert parts(tmp_path, "epochs") == [part]


def test_a_long_run_writes_a_fiftieth_of_its_time_apart(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store = opened(tmp_path)
    now[0] = 11_000.0
    store.add(rows(0))
    now[0] += 201.0  # of 10,201 s are a fiftieth 204 s
    store.add(rows(1))
    assert len(parts(tmp_path, "epochs")) == 1
    now[0] += 4.0
    store.add(rows(2))
    assert len(parts(tmp_path, "epochs")) == 2


def test_each_write_asks_first_whether_the_sweep_is_still_ours(tmp_path):
    def lost():
        raise RuntimeError("another run has it")

    store = opened(tmp_path, check=lost)
    store.add(rows(0))
    with pytest.raises(RuntimeError, match="another run"):
        store.flush()
    assert parts(tmp_path, "epochs") == []


def test_units_of_other_trials_stay_when_a_trial_goes_on(tmp_path):
    other = pa.table({**units(0.3).to_pydict(), "trial_id": ["other", "other"]})
    store = opened(tmp_path)
    store.add(rows(0, 1), pa.concat_tables([units(0.1), other]))
    store.flush()
    again = opened(tmp_path)
    again.add(rows(2), units(0.2))
    again.flush()
    found = sparseae.load_units(tmp_path)
    assert sorted(zip(found["trial_id"], found["bias"], strict=True)) == sorted(
        [(ID, 0.2), (ID, 0.2), ("other", 0.3), ("other", 0.3)]
    )
    assert opened(tmp_path).is_complete(ID, 2)


def test_a_part_without_rows_is_no_harm(tmp_path):
    finish(tmp_path)
    (part,) = parts(tmp_path, "epochs")
    pq.write_table(pq.read_table(part).slice(0, 0), part.with_name("part-empty.parquet"))
    assert opened(tmp_path).is_complete(ID, 1)
    assert parts(tmp_path, "epochs") == [part]


@pytest.mark.parametrize("kind", ["epochs", "units"])
@pytest.mark.parametrize("how", ["missing", "null", "type", "twice"])
def test_a_part_without_a_column_that_readers_need_is_put_aside_and_named(tmp_path, kind, how):
    finish(tmp_path)
    (part,) = parts(tmp_path, kind)
    table = pq.read_table(part)
    at = table.column_names.index("trial_id")
    null = pa.array([None, *table["trial_id"].to_pylist()[1:]], pa.string())
    table = {
        "missing": lambda: table.drop_columns("trial_id"),
        "null": lambda: table.set_column(at, "trial_id", null),
        "type": lambda: table.set_column(at, "trial_id", pa.array(range(table.num_rows))),
        "twice": lambda: table.append_column("trial_id", table["trial_id"]),
    }[how]()
    pq.write_table(table, part)
    store = opened(tmp_path)
    assert store.put_aside == [f"{kind}/{part.name}"]
    assert not store.is_complete(ID, 1)
    assert [file.name for file in (tmp_path / kind).iterdir()] == [f"_unreadable-{part.name}"]


def test_parts_are_named_by_the_time_of_their_writing_in_utc(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        store = opened(tmp_path)
        before = datetime.now(UTC)
        for epoch in range(3):
            store.add(rows(epoch))
            store.flush()
    finally:
        monkeypatch.undo()
        time.tzset()
    epochs = [pq.read_table(part)["epoch"].to_pylist() for part in parts(tmp_path, "epochs")]
    assert epochs == [[0], [1], [2]]  # the order of the names
    for part in parts(tmp_path, "epochs"):
        stamp = re.fullmatch(r"part-(\d{8}T\d{12})-[0-9a-f]{6}\.parquet", part.name)
        assert stamp, part.name
        written = datetime.strptime(stamp[1] + "+0000", "%Y%m%dT%H%M%S%f%z")
        assert before - timedelta(seconds=1) <= written <= datetime.now(UTC)


def test_a_part_of_which_every_row_stays_is_not_written_again(tmp_path, monkeypatch):
    store = opened(tmp_path)
    store.add(rows(0, 2, 3), units(0.1))  # with a gap
    store.flush()
    store.add(rows(5))
    store.flush()

    def refuse(*arguments):
        raise AssertionError("it was written")

    for name in ("write_bytes", "delete"):
        monkeypatch.setattr(Location, name, refuse)
    assert not opened(tmp_path).is_complete(ID, 1)


def units_of(**bias: float) -> pa.Table:
    """Two units of each trial by its name."""
    tables = [units(value) for value in bias.values()]
    names = pa.array([name for name in bias for _ in range(2)])
    return pa.concat_tables(tables).set_column(0, "trial_id", names)


def test_of_units_that_come_again_before_a_write_the_last_stay(tmp_path):
    store = opened(tmp_path)
    for bias in ({"a": 0.1, "b": 0.1}, {"b": 0.2}, {"c": 0.3}, {"a": 0.4, "d": 0.4}):
        store.add([], units_of(**bias))
    store.flush()
    assert len(parts(tmp_path, "units")) == 1
    found = sparseae.load_units(tmp_path).set_index(["trial_id", "unit"])["bias"]
    assert found.to_dict() == {
        (name, unit): bias
        for name, bias in {"a": 0.4, "b": 0.2, "c": 0.3, "d": 0.4}.items()
        for unit in range(2)
    }


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_trial_goes_on_where_the_part_with_its_units_is_gone_or_damaged(tmp_path, how):
    store = opened(tmp_path)
    store.add(rows(0), units(0.1))
    store.flush()
    (part,) = parts(tmp_path, "units")
    if how == "gone":
        part.unlink()
    else:
        part.write_bytes(b"no parquet")
    store.add(rows(1), units(0.2))
    store.flush()
    assert sparseae.load_units(tmp_path)["bias"].tolist() == [0.2, 0.2]
    assert store.put_aside == ([] if how == "gone" else [f"units/{part.name}"])
    assert part.with_name(f"_unreadable-{part.name}").exists() == (how == "damaged")
    assert store.is_complete(ID, 1)


@pytest.mark.parametrize("there", [[0, 1, 2] * 2, [0, 2], [0, 3], [0, 2, 3], [1, 2], [2, 0, 1]])
def test_of_a_part_with_gaps_or_rows_twice_each_row_is_there_once(tmp_path, there):
    values = [rows(epoch)[0] | {"loss": float(at)} for at, epoch in enumerate(there)]
    table = pa.Table.from_pylist(values, schema=epoch_schema(TRAINING_TYPES))
    (tmp_path / "epochs").mkdir()
    pq.write_table(table, tmp_path / "epochs" / "part-1.parquet")
    store = opened(tmp_path)
    store.add([], units(0.1))
    store.flush()
    assert store.is_complete(ID, 2) == ({0, 1, 2} <= set(there))
    store.add(rows(0, 1, 2, 3))
    store.flush()
    found = pq.read_table(tmp_path / "epochs").to_pylist()
    losses = {row["epoch"]: row["loss"] for row in found}
    assert len(found) == len(losses) == 4
    assert {e: losses[e] for e in there} == {e: float(there.index(e)) for e in there}


@pytest.mark.parametrize("seed", range(12))
def test_of_rows_that_stand_in_several_parts_the_first_stay_whatever_is_missing(tmp_path, seed):
    """Parts with runs of epochs, with gaps, with rows twice, and with some that are known."""
    random = np.random.default_rng(seed)
    schema = epoch_schema(TRAINING_TYPES)
    (tmp_path / "epochs").mkdir()
    (row,) = rows(0)
    first = {}
    for part in range(4):
        made = []
        for name in random.choice(list("abcd"), random.integers(1, 4), replace=False):
            low, high = sorted(random.integers(0, 7, 2))
            epochs = [e for e in range(low, high + 1) if random.random() < 0.9]
            made += [(str(name), e) for e in epochs * (1 + (random.random() < 0.1))]
        for pair in made:
            first.setdefault(pair, part)
        values = [row | {"trial_id": name, "epoch": e, "loss": float(part)} for name, e in made]
        table = pa.Table.from_pylist(values, schema=schema)
        pq.write_table(table, tmp_path / "epochs" / f"part-{part}.parquet")
    store = opened(tmp_path)
    left = pq.ParquetDataset(tmp_path / "epochs").read().to_pylist() if first else []
    assert {(r["trial_id"], r["epoch"]): int(r["loss"]) for r in left} == first
    assert len(left) == len(first)
    store.add([row | {"trial_id": name, "epoch": e} for name in "abcd" for e in range(7)])
    store.add([], units_of(a=0.1, b=0.1, c=0.1, d=0.1))
    store.flush()
    assert all(store.is_complete(name, 6) for name in "abcd")
    again = pq.read_table(tmp_path / "epochs").to_pylist()
    pairs = sorted((r["trial_id"], r["epoch"]) for r in again)
    assert pairs == [(name, e) for name in "abcd" for e in range(7)]
