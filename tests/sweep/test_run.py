"""Runs end to end in one process: rows, resuming, refusals (on Ray: tests/cluster/test_tune.py)."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import sparseae
from sparseae.engine.stack import Stack
from sparseae.errors import RequestError
from sparseae.model.trial import TRAINING_TYPES
from sparseae.results.location import Location
from sparseae.results.schema import ADDED_FIELDS, EPOCH_FIELDS, UNIT_FIELDS
from sparseae.sweep import in_process
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Observer
from sparseae.sweep.piece import Checkpoint, Piece

SMALL = {
    "name": "small",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu"],
        "sigma2": [0, 0.25],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 3, "hidden_units": 16, "samples": 200},
}
TIMING = ["epoch_seconds", "device", "epochs"]


def content(frame: pd.DataFrame) -> pd.DataFrame:
    """All that must not depend on when and where a row was made."""
    ordered = frame.sort_values(["trial_id", "epoch"], ignore_index=True)
    return ordered.drop(columns=TIMING)


def run(tmp_path, *set_values, source=SMALL, folder="results", **options):
    return sparseae.run(
        source,
        results=tmp_path / folder,
        set_values=set_values,
        **{"in_process": True} | options,
    )


class Training(Observer):
    """Counts the trials that were trained."""

    def __init__(self):
        self.trained = set()

    def rows(self, task, rows):
        self.trained.update(row["trial_id"] for row in rows)


def test_every_trial_has_a_row_for_every_epoch(tmp_path):
    results = run(tmp_path)
    assert not results.failed
    frame = pd.read_parquet(tmp_path / "results" / "small" / "epochs")
    assert len(frame) == 8 * 4
    assert not frame.duplicated(["trial_id", "epoch"]).any()
    columns = {f.name for f in (*EPOCH_FIELDS, *ADDED_FIELDS)} | set(TRAINING_TYPES)
    assert set(frame.columns) == columns
    assert (frame["status"] == "ok").all()
    assert frame["dead_fraction"].equals(frame["dead_units"] / 16)
    assert frame.loc[frame["model"] == "dae", "regularization"].isna().all()
    cae = frame[frame["model"] == "cae"]
    np.testing.assert_allclose(cae["loss"], cae["reconstruction_error"] + cae["regularization"])
    assert results.frame.shape == frame.shape


def test_column_types_are_the_specifications(tmp_path):
    run(tmp_path)
    folder = tmp_path / "results" / "small"
    schema = pq.read_schema(next((folder / "epochs").glob("*.parquet")))
    for field in EPOCH_FIELDS:
        assert schema.field(field.name).type == field.type
    metadata = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    assert json.loads(metadata["sparseae.versions"])["torch"]
    (data,) = json.loads(metadata["sparseae.datasets"]).values()
    assert data["fingerprint"] == sparseae.data.prepare("digits", samples=200).fingerprint
    units = pq.read_schema(next((folder / "units").glob("*.parquet")))
    assert units.names == [field.name for field in UNIT_FIELDS]


def test_units_are_of_the_last_epoch(tmp_path):
    run(tmp_path)
    folder = tmp_path / "results" / "small"
    units = sparseae.load_units(folder)
    assert len(units) == 8 * 16
    last = sparseae.load(folder).query("epoch == 3").set_index("trial_id")
    means = units.groupby("trial_id")["activation_fraction"].mean()
    np.testing.assert_allclose(means, last.loc[means.index, "activation_fraction"])


def test_the_same_seed_gives_the_same_rows_bit_for_bit(tmp_path):
    one, other = run(tmp_path, folder="a"), run(tmp_path, folder="b")
    pd.testing.assert_frame_equal(content(one.frame), content(other.frame), check_exact=True)


def test_stacking_changes_no_number(tmp_path):
    stacked, alone = run(tmp_path, folder="a"), run(tmp_path, "stack=[]", folder="b")
    pd.testing.assert_frame_equal(content(stacked.frame), content(alone.frame), check_exact=True)


def test_a_finished_sweep_trains_nothing(tmp_path):
    run(tmp_path)
    watch = Training()
    assert run(tmp_path, observer=watch).trained == 0
    assert not watch.trained


def test_added_values_train_just_the_new_trials(tmp_path):
    first = {t.trial_id for t in Sweep.load(SMALL).trials()}
    run(tmp_path)
    watch = Training()
    results = run(tmp_path, "space.sigma2=[0,0.25,1.0]", observer=watch)
    assert len(watch.trained) == 4
    assert not watch.trained & first
    whole = run(tmp_path, "space.sigma2=[0,0.25,1.0]", folder="b")
    pd.testing.assert_frame_equal(content(results.frame), content(whole.frame), check_exact=True)


def test_more_epochs_go_on_from_the_last_checkpoint(tmp_path, monkeypatch):
    run(tmp_path)
    advanced = []
    advance = Piece.advance
    monkeypatch.setattr(Piece, "advance", lambda p: advanced.append(p.epoch) or advance(p))
    results = run(tmp_path, "training.epochs=5")
    assert set(advanced) == {3, 4}
    whole = run(tmp_path, "training.epochs=5", folder="b")
    pd.testing.assert_frame_equal(content(results.frame), content(whole.frame), check_exact=True)
    units = [sparseae.load_units(tmp_path / f / "small") for f in ("results", "b")]
    ordered = [u.sort_values(["trial_id", "unit"], ignore_index=True) for u in units]
    pd.testing.assert_frame_equal(*ordered, check_exact=True)


@pytest.mark.parametrize("when", [1, 3, 5, 6])
def test_a_crash_at_any_epoch_loses_and_doubles_nothing(tmp_path, monkeypatch, when):
    advance, calls = Piece.advance, []

    def crash(piece):
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return advance(piece)

    with monkeypatch.context() as patch:
        patch.setattr(Piece, "advance", crash)
        assert run(tmp_path, "checkpoint_every=1").interrupted
    results = run(tmp_path, "checkpoint_every=1")
    assert not results.failed
    assert not results.interrupted
    whole = run(tmp_path, folder="b")
    pd.testing.assert_frame_equal(content(results.frame), content(whole.frame), check_exact=True)


def test_an_unreadable_part_is_put_aside_and_its_rows_trained_again(tmp_path):
    run(tmp_path)
    folder = tmp_path / "results" / "small"
    (part,) = (folder / "epochs").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-100])
    results = run(tmp_path)
    whole = run(tmp_path, folder="b")
    pd.testing.assert_frame_equal(content(results.frame), content(whole.frame), check_exact=True)


class Notes(Observer):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def _truncated(state: bytes) -> bytes:
    return state[:-10]


def _flipped(state: bytes) -> bytes:
    return state[:-10] + bytes([state[-10] ^ 1]) + state[-9:]


def _header_only(state: bytes) -> bytes:
    return state[:40]


def _later(state: bytes) -> bytes:
    return state.replace(b'"epoch":"3"', b'"epoch":"4"')


def _empty(state: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("harm", [_truncated, _flipped, _header_only, _later, _empty])
def test_a_damaged_checkpoint_costs_only_time(tmp_path, harm):
    run(tmp_path)
    folder = tmp_path / "results" / "small"
    for state in (folder / "checkpoints").rglob("state.safetensors"):
        before = state.read_bytes()
        state.write_bytes(harm(before))
        assert state.read_bytes() != before
    watch = Notes()
    results = run(tmp_path, "training.epochs=5", observer=watch)
    assert not results.failed
    assert sum("is damaged" in note for note in watch.notes) == 2
    whole = run(tmp_path, "training.epochs=5", folder="b")
    pd.testing.assert_frame_equal(content(results.frame), content(whole.frame), check_exact=True)


def test_a_checkpoint_of_other_data_is_not_gone_on_from(tmp_path, monkeypatch):
    """Killed before the first rows were written, then the file under the same path changed."""
    rng, file = np.random.default_rng(0), tmp_path / "x.npy"
    options = (f"space.dataset=[{file}]", "checkpoint_every=1")
    np.save(file, rng.standard_normal((60, 5)))
    run(tmp_path, *options)
    for part in (tmp_path / "results" / "small").glob("*s/*.parquet"):
        part.unlink()
    np.save(file, rng.standard_normal((60, 5)))
    watch = Notes()
    results = run(tmp_path, *options, observer=watch)
    assert any("trained on other data" in note for note in watch.notes)
    whole = run(tmp_path, *options, folder="b")
    pd.testing.assert_frame_equal(content(results.frame), content(whole.frame), check_exact=True)


@pytest.mark.parametrize(("keep", "left"), [(1, {3}), (2, {2, 3}), ("all", {1, 2, 3})])
def test_the_latest_checkpoints_are_kept(tmp_path, keep, left):
    run(tmp_path, "checkpoint_every=1", f"keep_checkpoints={keep}", "space.model=[cae]")
    found = (tmp_path / "results" / "small" / "checkpoints").rglob("state.safetensors")
    assert {int(state.parent.name[-1]) for state in found} == left


def test_a_resumed_run_deletes_the_checkpoints_that_it_went_on_from(tmp_path):
    run(tmp_path)
    run(tmp_path, "training.epochs=5", "stack=[]")  # other pieces, so other folders
    epochs = [
        Checkpoint.read(Location.of(state.parent)).epoch
        for state in (tmp_path / "results" / "small" / "checkpoints").rglob("state.safetensors")
    ]
    assert epochs == [5] * 8


def test_weights_asked_for_later_come_from_the_last_checkpoints(tmp_path, monkeypatch):
    frame = run(tmp_path).frame
    monkeypatch.setattr(Piece, "advance", None)  # trains nothing
    results = run(tmp_path, "keep_weights=true")
    assert not results.failed
    assert len(list((tmp_path / "results" / "small" / "weights").glob("*.safetensors"))) == 8
    pd.testing.assert_frame_equal(content(results.frame), content(frame), check_exact=True)


@pytest.mark.parametrize(("fits", "failed"), [(4, 0), (2, 0), (1, 8)])
def test_a_stack_too_large_for_the_device_is_split_and_tried_once_more(
    tmp_path, monkeypatch, fits, failed
):
    train_epoch = Stack.train_epoch

    def limited(stack, epoch):
        if epoch == 2 and len(stack.trials) > fits:
            raise torch.OutOfMemoryError("no room")
        train_epoch(stack, epoch)

    monkeypatch.setattr(Stack, "train_epoch", limited)
    watch = Notes()
    results = run(tmp_path, "checkpoint_every=1", observer=watch)
    assert len(results.failed) == failed
    assert any("tried again as 4 smaller ones" in note for note in watch.notes) == (fits < 4)
    if not failed:
        whole = run(tmp_path, "stack=[]", folder="b")
        pd.testing.assert_frame_equal(
            content(results.frame), content(whole.frame), check_exact=True
        )


def test_another_sweep_of_the_same_name_is_refused_with_the_difference(tmp_path):
    before = run(tmp_path).frame
    with pytest.raises(RequestError, match=r"training.batch_size: 50 -> 64"):
        run(tmp_path, "training.batch_size=64")
    pd.testing.assert_frame_equal(sparseae.load(tmp_path / "results" / "small"), before)
    assert (run(tmp_path, "training.batch_size=64", overwrite=True).frame["batch_size"] == 64).all()


def test_two_runs_of_one_sweep_at_once_are_refused(tmp_path):
    class Second(Observer):
        refused = ""

        def started(self, sweep, left, tasks):
            with pytest.raises(RequestError) as caught:
                run(tmp_path, observer=Observer())
            Second.refused = str(caught.value)

    assert not run(tmp_path, observer=Second()).failed
    assert "is being run by process" in Second.refused
    assert not run(tmp_path).failed  # the lock went with the run


def test_other_data_under_the_same_path_are_refused(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "x.npy"
    np.save(file, rng.standard_normal((60, 5)))
    run(tmp_path, f"space.dataset=[{file}]")
    np.save(file, rng.standard_normal((60, 5)))
    with pytest.raises(RequestError, match="fingerprint"):
        run(tmp_path, f"space.dataset=[{file}]")


def test_a_diverged_trial_is_finished_and_says_so(tmp_path):
    results = run(tmp_path, "space.constraint=[none]", "space.learning_rate=[0.001, 1000.0]")
    assert not results.failed
    frame = results.frame
    assert len(frame) == 16 * 4
    wild = frame[(frame["learning_rate"] == 1000) & (frame["epoch"] > 0)]
    assert (wild["status"] == "diverged").all()
    assert wild[["activation_fraction", "dead_units", "loss"]].isna().all(axis=None)
    assert (frame.loc[frame["learning_rate"] == 0.001, "status"] == "ok").all()


def test_a_failing_stack_leaves_the_others_going_on(tmp_path, monkeypatch):
    advance = Piece.advance

    def fail(piece):
        if piece.trials[0].model == "dae":
            raise RuntimeError("no luck")
        return advance(piece)

    monkeypatch.setattr(in_process.Piece, "advance", fail)
    results = run(tmp_path)
    assert len(results.failed) == 4
    assert set(results.failed.values()) == {"RuntimeError: no luck"}
    assert len(results.frame) == 4 * 4


def test_where_every_trial_failed_there_is_an_empty_table(tmp_path, monkeypatch):
    def fail(piece):
        raise RuntimeError("no luck")

    monkeypatch.setattr(in_process.Piece, "advance", fail)
    results = run(tmp_path)
    assert len(results.failed) == 8
    frame = results.frame
    assert frame.empty
    assert set(frame.columns) == {f.name for f in (*EPOCH_FIELDS, *ADDED_FIELDS)} | set(
        TRAINING_TYPES
    )


def test_data_that_moved_are_named_and_nobody_is_told_to_overwrite(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60, 5)))
    run(tmp_path, f"space.dataset=[{tmp_path / 'x.npy'}]")
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    with pytest.raises(RequestError, match=r"x\.npy: there is no such file") as caught:
        run(tmp_path, f"space.dataset=[{tmp_path / 'x.npy'}]")
    assert "overwrite" not in str(caught.value)
    with pytest.raises(RequestError, match=r"space.dataset: \['.*x\.npy'\] -> \['.*y\.npy'\]"):
        run(tmp_path, f"space.dataset=[{tmp_path / 'y.npy'}]")


def test_a_record_that_is_damaged_is_named_and_nobody_is_told_to_overwrite(tmp_path):
    run(tmp_path)
    (tmp_path / "results" / "small" / "sweep.yaml").write_text("[")
    with pytest.raises(RequestError, match=r"sweep\.yaml: line 1: .* another name") as caught:
        run(tmp_path)
    assert "overwrite" not in str(caught.value)


def test_kept_weights_are_read_back(tmp_path):
    results = run(tmp_path, "keep_weights=true", "space.model=[cae]")
    folder = tmp_path / "results" / "small"
    for row in results.frame.query("epoch == 3").itertuples():
        weights = sparseae.load_weights(folder, row.trial_id)
        assert weights["W"].shape == (16, 64)
        assert weights["b"].mean() == pytest.approx(row.bias_mean, rel=1e-5)
    with pytest.raises(RequestError, match="keep_weights"):
        sparseae.load_weights(folder, "nobody")


def test_real_data_at_a_reduced_protocol(tmp_path, real_data):
    results = run(
        tmp_path, "space.dataset=[mnist, cifar10]", "training.epochs=2", "training.samples=500"
    )
    frame = results.frame
    assert len(frame) == 16 * 3
    assert set(frame["dataset"]) == {"mnist", "cifar10"}
    assert (frame["status"] == "ok").all()


@pytest.mark.slow
def test_digits_show_what_the_paper_predicts(tmp_path):
    """relu under unit_norm: cae is flat in sigma2, dae falls."""
    results = run(
        tmp_path,
        "space.sigma2=[0, 0.01, 0.09, 0.25, 0.49, 1.0]",
        "training={epochs: 30, hidden_units: 256}",
        "space.seed=[0]",
    )
    final = results.frame.query("epoch == 30").pivot_table(
        index="model", columns="sigma2", values="activation_fraction"
    )
    assert final.loc["cae"].max() - final.loc["cae"].min() < 0.02
    assert final.loc["dae", 0.0] - final.loc["dae", 1.0] > 0.2


def test_in_process_a_gpu_that_is_asked_for_is_refused_where_there_is_none(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match=r"resources\.gpu: 1: torch can use no GPU here"):
        run(tmp_path, "resources.gpu=1")
    assert list(tmp_path.iterdir()) == []
    assert not run(tmp_path, "resources.gpu=0").failed
