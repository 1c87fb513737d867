"""Reading results: several files and folders as one table, and one line for what cannot be read."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import sparseae
from sparseae.errors import RequestError
from sparseae.model.trial import DEFAULTS, TRAINING_TYPES, Trial
from sparseae.results import provenance
from sparseae.results.location import Location
from sparseae.results.store import Store

METADATA = {
    "version": "0.1.0",
    "git_commit": "abc",
    "versions": json.dumps({"torch": "2.13.0"}),
    "datasets": json.dumps({"digits": {"fingerprint": "f00", "description": "digits"}}),
}


def trial(seed: int) -> Trial:
    return Trial(model="cae", activation="relu", sigma2=0.25, constraint="unit_norm",
                 dataset="digits", seed=seed)  # fmt: skip


def write(place, seeds=(0,), epochs=2, metadata=METADATA) -> None:
    """Results as the store writes them."""
    store = Store(Location.of(place), TRAINING_TYPES, metadata)
    for seed in seeds:
        one = trial(seed)
        about = {"sweep": "s", "trial_id": one.trial_id, "status": "ok", "activation_fraction": 0.3}
        store.add([one.values() | about | {"epoch": epoch} for epoch in range(epochs + 1)])
        store.flush()


def test_part_files_are_one_table(tmp_path):
    write(tmp_path / "s", seeds=(0, 1, 2))
    assert len(list((tmp_path / "s" / "epochs").glob("*.parquet"))) == 3
    frame = sparseae.load(tmp_path / "s")
    assert len(frame) == 9
    assert frame.groupby("trial_id")["epoch"].apply(list).tolist() == [[0, 1, 2]] * 3
    pd.testing.assert_frame_equal(
        frame.sort_values(["seed", "epoch"], ignore_index=True),
        pd.read_parquet(tmp_path / "s" / "epochs").sort_values(
            ["seed", "epoch"], ignore_index=True
        ),
        check_dtype=False,
    )


def test_rows_from_before_a_key_have_its_default(tmp_path):
    write(tmp_path / "s", seeds=(0, 1))
    first = sorted((tmp_path / "s" / "epochs").glob("*.parquet"))[0]
    table = pq.read_table(first)
    pq.write_table(table.drop_columns(["q", "gamma", "f"]), first)
    frame = sparseae.load(tmp_path / "s")
    assert frame["q"].dtype == "int64"
    for key in ("q", "gamma", "f"):
        assert set(frame[key]) == {DEFAULTS[key]}


def test_drafts_and_hidden_files_are_skipped(tmp_path):
    write(tmp_path / "s")
    for name in (".part-2.parquet", "_unreadable-part-3.parquet", "note.txt"):
        (tmp_path / "s" / "epochs" / name).write_bytes(b"no Parquet")
    assert len(sparseae.load(tmp_path / "s")) == 3


def test_a_url_is_a_folder(tmp_path):
    write(tmp_path / "s")
    assert len(sparseae.load((tmp_path / "s").as_uri())) == 3
    write("memory://bucket/s", seeds=(0, 1))
    assert len(sparseae.load("memory://bucket/s")) == 6


def test_folders_with_different_columns_are_one_table(tmp_path):
    write(tmp_path / "old")
    write(tmp_path / "new", seeds=(1,))
    (file,) = (tmp_path / "new" / "epochs").glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.append_column("theory", pa.array([1.0] * 3)), file)
    frame = sparseae.load([tmp_path / "old", tmp_path / "new"])
    assert frame.groupby("seed")["theory"].count().to_dict() == {0: 0, 1: 3}


def refused(*arguments, call=sparseae.load) -> str:
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_cannot_be_read_is_named_in_one_line(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")
    (tmp_path / "sweep.yaml").write_text("name: s")
    for call in (sparseae.load, sparseae.load_units):
        assert "sweep.yaml: is a file" in refused(tmp_path / "sweep.yaml", call=call)
    (tmp_path / "empty").mkdir()
    assert "epochs" in refused(tmp_path / "empty")
    (tmp_path / "hollow" / "epochs").mkdir(parents=True)
    assert "hollow" in refused(tmp_path / "hollow")
    assert "scheme" in refused("scheme://bucket/s")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 200 + b"PAR1", b"text"])
def test_a_corrupt_file_is_named(tmp_path, content):
    write(tmp_path / "s")
    (tmp_path / "s" / "epochs" / "part-9.parquet").write_bytes(content)
    assert "part-9.parquet" in refused(tmp_path / "s")


def test_a_truncated_file_is_named(tmp_path):
    write(tmp_path / "s")
    (file,) = (tmp_path / "s" / "epochs").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    assert file.name in refused(tmp_path / "s")


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path / "s")
    (file,) = (tmp_path / "s" / "epochs").glob("*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["status"]), file)
    assert "status" in refused(tmp_path / "s")


def test_provenance(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "s" / "sweep.yaml").write_text("name: s\nspace: {model: [cae]}\n")
    known = provenance(tmp_path / "s")
    assert known["version"] == "0.1.0"
    assert known["versions"] == {"torch": "2.13.0"}
    assert known["datasets"]["digits"]["fingerprint"] == "f00"
    assert known["configurations"] == [{"name": "s", "space": {"model": ["cae"]}}]


def test_weights(tmp_path):
    write(tmp_path / "s")
    name = trial(0).trial_id
    words = refused(tmp_path / "s", name, call=sparseae.load_weights)
    assert words.endswith(
        f"has no weights of trial {name}, neither kept (keep_weights: true) nor in a checkpoint"
    )
    (tmp_path / "s" / "weights").mkdir()
    file = tmp_path / "s" / "weights" / f"{name}.safetensors"
    save_file({"W": np.eye(3, 2, dtype=np.float32), "b": np.zeros(3, np.float32)}, file)
    weights = sparseae.load_weights(tmp_path / "s", name)
    assert (weights["W"].shape, weights["b"].shape) == ((3, 2), (3,))
    file.write_bytes(b"broken")
    words = refused(tmp_path / "s", name, call=sparseae.load_weights)
    assert name in words
    assert words.endswith("cannot be read: Error while deserializing: header too small")


def test_weights_are_those_of_the_furthest_checkpoint_that_has_the_trial(tmp_path):
    """Where none were kept; every member of a stack has a row of its own."""
    write(tmp_path / "s")
    name = trial(0).trial_id
    for place, epoch, members in (
        ("a", 9, ["x", name]), ("b/c", 10, [name, "x"]), ("d", 2, [name]), ("e", 11, ["x"]),
        ("f", 11, ["x"]), ("g", 11, ["x"]),
    ):  # fmt: skip
        W = (100.0 if place < "f" else 1.0) * epoch + np.arange(len(members) * 6).reshape(-1, 3, 2)
        tensors = {"W": W, "b": W[..., 0].copy(), "momentum": W}
        file = tmp_path / "s" / "checkpoints" / place / "state.safetensors"
        file.parent.mkdir(parents=True)
        save_file(tensors, file, {"epoch": str(epoch), "trial_ids": json.dumps(members)})
    save_file(tensors, tmp_path / "s" / "checkpoints" / "a" / "another.safetensors",
              {"epoch": "99", "trial_ids": json.dumps([name])})  # fmt: skip
    for place, header in (("h", b"{"), ("i", b"[1]"), ("j", b'{"__metadata__": 3}'), ("k", b"{}")):
        file = tmp_path / "s" / "checkpoints" / place / "state.safetensors"
        file.parent.mkdir()
        file.write_bytes(len(header).to_bytes(8, "little") + header)
    weights = sparseae.load_weights(tmp_path, name)
    assert list(weights) == ["W", "b"]
    assert weights["W"].tolist() == [[1000, 1001], [1002, 1003], [1004, 1005]]
    assert weights["b"].tolist() == [1000, 1002, 1004]
    assert sparseae.load_weights(tmp_path / "s", "x")["W"].tolist()[0] == [1100, 1101]


def test_units_before_any_trial_has_finished(tmp_path):
    write(tmp_path / "s")
    assert "units" in refused(tmp_path / "s", call=sparseae.load_units)


def test_a_part_that_was_copied_counts_once(tmp_path):
    write(tmp_path / "s", seeds=(0, 1))
    whole = sparseae.load(tmp_path / "s")
    part = next((tmp_path / "s" / "epochs").glob("*.parquet"))
    for name in ("part (conflicted copy 2026-01-01).parquet", "part (1).parquet"):
        shutil.copy(part, part.parent / name)
    pd.testing.assert_frame_equal(content(sparseae.load(tmp_path / "s")), content(whole))
    shutil.copytree(tmp_path / "s", tmp_path / "s (copy)")
    pd.testing.assert_frame_equal(content(sparseae.load(tmp_path)), content(whole))
    units = part.parents[1] / "units"
    units.mkdir()
    for name in ("a", "a (1)"):
        table = pa.table(
            {"trial_id": ["x", "x"], "unit": [0, 1], "activation_fraction": [0.1, 0.2]}
        )
        pq.write_table(table, units / f"{name}.parquet")
    assert len(sparseae.load_units(tmp_path / "s")) == 2


def content(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["trial_id", "epoch"], ignore_index=True)


@pytest.mark.parametrize("name", ["epochs", "units", "weights", "checkpoints", "report"])
def test_a_sweep_may_be_called_as_a_folder_in_it(tmp_path, name):
    write(tmp_path / name, seeds=(0, 1))
    write(tmp_path / "other", seeds=(2,))
    assert set(sparseae.load(tmp_path)["seed"]) == {0, 1, 2}
    assert set(sparseae.load(tmp_path / name)["seed"]) == {0, 1}


@pytest.mark.parametrize("text", ["[", "- 1", "", "name: !!binary x", "\x00"])
def test_a_record_that_is_none_is_one_line(tmp_path, text):
    write(tmp_path / "s")
    (tmp_path / "s" / "sweep.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"sweep\.yaml: (cannot be read|is not what)") as caught:
        provenance(tmp_path / "s")
    assert "overwrite" not in str(caught.value)


def test_no_folder_at_all_is_refused():
    with pytest.raises(RequestError, match="name at least one folder"):
        sparseae.load([])
