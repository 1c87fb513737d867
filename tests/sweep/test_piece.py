"""A piece of work: its time, its checkpoints, and what a checkpoint brings back."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import sparseae
from sparseae.engine.heldout import Quality
from sparseae.engine.stack import Stack
from sparseae.model.trial import Training, Trial
from sparseae.results.location import Location
from sparseae.results.schema import THEORY_UNIT_FIELDS, unit_schema
from sparseae.sweep.piece import (
    STATE_FILE,
    Checkpoint,
    DamagedCheckpointError,
    Piece,
    as_tensor,
)
from sparseae.theory.terms import Probe

CONFIG = {
    "name": "timed",
    "space": {
        "model": "cae",
        "activation": "sigmoid",
        "sigma2": [0, 0.25],
        "dataset": "digits",
        "seed": [0, 1],
    },
    "training": {"epochs": 10, "hidden_units": 4, "samples": 60},
}


def members(epochs: int = 4, seeds=(0, 1)) -> list[Trial]:
    training = Training(epochs=epochs, hidden_units=6, batch_size=10)
    return [
        Trial(model="dae", activation="relu", sigma2=0.25, constraint="none", dataset="d",
              seed=seed, training=training)
        for seed in seeds
    ]  # fmt: skip


def piece(trials=None, x=None, **options) -> Piece:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)) if x is None else x
    return Piece(trials or members(), x, torch.device("cpu"), "x", **options)


@pytest.fixture
def clock(monkeypatch):
    """The machine's clocks, which an epoch of training and a measurement move by hours."""
    moved = {"training": 8000.0, "measuring": 2000.0, "offset": 0.0}
    real = {name: getattr(time, name) for name in ("perf_counter", "monotonic")}
    for name, read in real.items():
        monkeypatch.setattr(time, name, lambda read=read: read() + moved["offset"])

    def moving(method, kind):
        def run(*arguments):
            moved["offset"] += moved[kind]
            return method(*arguments)

        return run

    monkeypatch.setattr(Stack, "train_epoch", moving(Stack.train_epoch, "training"))
    monkeypatch.setattr(Stack, "measure", moving(Stack.measure, "measuring"))
    return moved


def test_epoch_seconds_times_the_members_is_the_stacks_time(clock, tmp_path):
    sparseae.run(CONFIG, results=tmp_path, in_process=True)
    frame = sparseae.load(tmp_path / "timed")
    assert frame["epoch_seconds"].notna().all()
    taken = frame.groupby("epoch")["epoch_seconds"].sum()
    assert taken[0] == pytest.approx(2000, rel=0.01)  # nothing is trained before epoch 0
    assert taken[1:].to_numpy() == pytest.approx(8000 + 2000, rel=0.01)
    assert frame.groupby("epoch")["epoch_seconds"].nunique().eq(1).all()


def checkpoints(folder) -> list[int]:
    return sorted(int(file.parent.name.split("_")[1]) for file in folder.rglob(STATE_FILE))


def test_auto_saves_a_checkpoint_at_the_first_epoch_that_ends_a_minute_later(clock, tmp_path):
    """docs/reliability.md: a kill costs about a minute."""
    clock |= {"training": 20.0, "measuring": 5.0}
    sparseae.run(CONFIG | {"keep_checkpoints": "all"}, results=tmp_path, in_process=True)
    # Epoch 0 ends after 5 s, epoch 3 after 80 s, epoch 5 another 50 s later, epoch 6 75 s.
    assert checkpoints(tmp_path) == [3, 6, 9, 10]


def test_auto_saves_a_short_run_at_its_end_alone(tmp_path):
    sparseae.run(CONFIG | {"keep_checkpoints": "all"}, results=tmp_path, in_process=True)
    assert checkpoints(tmp_path) == [10]


def test_a_minute_is_more_than_60_seconds_since_the_last_one(monkeypatch, tmp_path):
    now = [500.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = advanced(piece(), 1)
    for later, due in ((560.0, False), (560.5, True)):
        now[0] = later
        assert one.checkpoint_due("auto") is due
    one.save(Location.of(str(tmp_path)))
    now[0] += 60.0
    assert not one.checkpoint_due("auto")
    assert advanced(one, 4).checkpoint_due("auto")  # the end


def test_each_epoch_but_0_may_save_one():
    one = piece()
    due = [advanced(one, epoch).checkpoint_due(1) for epoch in range(5)]
    assert due == [False, True, True, True, True]


def test_a_number_saves_each_so_many_epochs_and_the_end(tmp_path):
    every = CONFIG | {"checkpoint_every": 4, "keep_checkpoints": "all"}
    sparseae.run(every, results=tmp_path, in_process=True)
    assert checkpoints(tmp_path) == [4, 8, 10]


def test_as_many_checkpoints_stay_as_are_to_be_kept_the_latest(tmp_path):
    every = CONFIG | {"checkpoint_every": 1, "keep_checkpoints": 3}
    sparseae.run(every, results=tmp_path, in_process=True)
    assert checkpoints(tmp_path) == [8, 9, 10]


def advanced(one: Piece, epoch: int) -> Piece:
    for _ in range(epoch - one.epoch):
        one.advance()
    assert one.epoch == epoch
    return one


def loaded(folder, trials, epochs_of=None, **options) -> Piece:
    """A new piece of these trials that went on from the checkpoint in a folder."""
    checkpoint = Checkpoint.read(Location.of(str(folder)))
    other = piece(trials, **options)
    assert other.load({trial.trial_id: checkpoint for trial in trials}) == ""
    return other


def without_time(rows) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "epoch_seconds"} for row in rows]


def test_a_checkpoint_brings_back_epoch_rows_and_state(tmp_path):
    through, saved = advanced(piece(), 4), advanced(piece(), 2)
    saved.save(Location.of(str(tmp_path)))
    read = Checkpoint.read(Location.of(str(tmp_path)))
    assert (read.epoch, read.trial_ids) == (2, tuple(t.trial_id for t in members()))
    resumed = loaded(tmp_path, members())
    assert resumed.epoch == 2
    assert not resumed.finished
    assert {(row["trial_id"], row["epoch"]) for row in resumed.rows} == {
        (trial.trial_id, epoch) for trial in members() for epoch in range(3)
    }
    advanced(resumed, 4)
    assert resumed.finished
    assert torch.equal(resumed.stack.W, through.stack.W)
    assert torch.equal(resumed.stack.V, through.stack.V)
    key = ("trial_id", "epoch")
    ordered = [
        sorted(without_time(p.rows), key=lambda row: [row[k] for k in key])
        for p in (resumed, through)
    ]
    assert [{k: r[k] for k in ordered[1][0]} for r in ordered[0]] == ordered[1]
    assert resumed.units().equals(through.units())


def test_members_go_on_from_checkpoints_of_different_pieces(tmp_path):
    first, second = members()
    for name, trials in (("a", [first]), ("b", [second])):
        (tmp_path / name).mkdir()
        advanced(piece(trials), 2).save(Location.of(str(tmp_path / name)))
    read = {name: Checkpoint.read(Location.of(str(tmp_path / name))) for name in "ab"}
    both = piece([second, first])
    assert both.load({first.trial_id: read["a"], second.trial_id: read["b"]}) == ""
    assert {(row["trial_id"], row["epoch"]) for row in both.rows} == {
        (trial.trial_id, epoch) for trial in (first, second) for epoch in range(3)
    }
    through = advanced(piece([second, first]), 4)
    advanced(both, 4)
    assert torch.equal(both.stack.W, through.stack.W)


@pytest.mark.parametrize("where", [0, 3, 20, -9000, -1])
def test_a_changed_byte_is_noticed_and_the_trials_begin_anew(where, tmp_path):
    advanced(piece(), 1).save(Location.of(str(tmp_path)))
    file = tmp_path / STATE_FILE
    content = bytearray(file.read_bytes())
    content[where] ^= 0x10
    file.write_bytes(content)
    try:
        checkpoint = Checkpoint.read(Location.of(str(tmp_path)))
    except DamagedCheckpointError as error:
        assert str(tmp_path) in str(error)
        return
    other = piece()
    trouble = other.load({trial.trial_id: checkpoint for trial in members()})
    assert f"checkpoint {tmp_path} is damaged: its checksum differs; its" in trouble
    assert "2 trials begin anew" in trouble
    assert (other.epoch, other.rows) == (-1, [])


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_checkpoint_that_breaks_off_is_damaged(kept, tmp_path):
    advanced(piece(), 1).save(Location.of(str(tmp_path)))
    file = tmp_path / STATE_FILE
    whole = len(file.read_bytes())
    file.write_bytes(file.read_bytes()[:kept])
    why = f"it has {whole - 1} of {whole} bytes" if kept == -1 else ""
    with pytest.raises(DamagedCheckpointError, match=f"is damaged: .*{why}"):
        Checkpoint.read(Location.of(str(tmp_path)))


def test_a_checkpoint_of_other_data_is_not_gone_on_from(tmp_path):
    advanced(piece(), 1).save(Location.of(str(tmp_path)))
    checkpoint = Checkpoint.read(Location.of(str(tmp_path)))
    trouble = piece(x=torch.ones(40, 5)).load({t.trial_id: checkpoint for t in members()})
    assert f"{tmp_path} is damaged: it was trained on other data" in trouble


@pytest.mark.parametrize("how", ["another epoch", "other members"])
def test_a_checkpoint_that_was_written_anew_since_it_was_read_is_not_gone_on_from(how, tmp_path):
    one = advanced(piece(), 1)
    one.save(Location.of(str(tmp_path)))
    checkpoint = Checkpoint.read(Location.of(str(tmp_path)))
    anew = one if how == "another epoch" else piece(members()[::-1])
    advanced(anew, 2 if how == "another epoch" else 1).save(Location.of(str(tmp_path)))
    other = piece()
    trouble = other.load({trial.trial_id: checkpoint for trial in members()})
    assert trouble == (
        f"checkpoint {tmp_path} is damaged: it was written anew; its 2 trials begin anew"
    )
    assert (other.epoch, other.rows) == (-1, [])


def test_weights_are_kept_under_the_trials_id(tmp_path):
    from safetensors.torch import load_file

    one = advanced(piece(), 1)
    one.save_weights(Location.of(str(tmp_path)))
    for member, trial in enumerate(members()):
        kept = load_file(tmp_path / f"{trial.trial_id}.safetensors")
        assert torch.equal(kept["W"], one.stack.W[member])
        assert torch.equal(kept["b"], one.stack.b[member])


def test_a_changed_header_is_noticed(tmp_path):
    advanced(piece(), 1).save(Location.of(str(tmp_path)))
    file = tmp_path / STATE_FILE
    content = file.read_bytes()
    assert content.count(b'"epoch":"1"') == 1
    file.write_bytes(content.replace(b'"epoch":"1"', b'"epoch":"3"'))
    checkpoint = Checkpoint.read(Location.of(str(tmp_path)))
    other = piece()
    assert "checksum differs" in other.load({t.trial_id: checkpoint for t in members()})
    assert other.epoch == -1


def noise(samples: int) -> torch.Tensor:
    return torch.randn(samples, 5, generator=torch.Generator().manual_seed(2))


def test_a_row_holds_its_trial_and_what_was_measured_of_it():
    heldout = noise(30)
    one, twin = piece(heldout=heldout), Stack(members(), noise(40))
    twin.x.copy_(one.stack.x)
    for epoch in range(3):
        rows = one.advance()
        if epoch:
            twin.train_epoch(epoch)
        measured = twin.measure()
        quality = Quality(twin, heldout).columns(measured)
        assert [row["trial_id"] for row in rows] == [trial.trial_id for trial in members()]
        for member, (row, expected) in enumerate(zip(rows, measured.rows(), strict=True)):
            expected |= {name: values[member].item() for name, values in quality.items()}
            expected |= {"sweep": "x", "samples": 40, "epoch": epoch, "device": "cpu"}
            assert row == row | members()[member].values() | expected
    assert set(quality) == {"explained_variance", "l0", "heldout_explained_variance", "heldout_l0"}


def test_with_theory_a_row_has_its_terms_and_from_epoch_1_how_they_moved(tmp_path):
    one, twin = piece(theory=True), Stack(members(), noise(40))
    twin.x.copy_(one.stack.x)
    before = None
    for epoch in range(3):
        rows = one.advance()
        if epoch:
            twin.train_epoch(epoch)
        theory = Probe(twin).measure(epoch)
        for member, row in enumerate(rows):
            terms = {name: values[member] for name, values in theory.columns(before).items()}
            assert row == row | terms
            assert ("pre_activation_change" in row) == (epoch > 0)
        before = theory
    units = one.units()
    assert units.schema == unit_schema(theory=True)
    for field in THEORY_UNIT_FIELDS:
        expected = getattr(before.units, field.name).flatten()
        values = [v if math.isfinite(v) else None for v in expected.tolist()]
        assert units[field.name].to_pylist() == values
    one.save(Location.of(str(tmp_path)))
    resumed = loaded(tmp_path, members(), theory=True)
    assert resumed.units().equals(units)
    for row, again in zip(one.rows, resumed.rows, strict=True):
        assert {k: v for k, v in again.items() if v is not None} == {
            k: v for k, v in row.items() if v is not None
        }
    resumed = loaded(tmp_path, members(), theory=True)  # what epoch 2 was, it measures again
    assert without_time(resumed.advance()) == without_time(one.advance())


@pytest.mark.parametrize("theory", [False, True])
def test_of_a_diverged_member_all_is_null_and_of_its_neighbour_nothing(theory):
    calm, wild = members()
    wild = replace(wild, training=replace(wild.training, learning_rate=1e30))
    one = advanced(piece([wild, calm], heldout=noise(30), theory=theory), 1)
    alone = advanced(piece([calm], heldout=noise(30), theory=theory), 1)
    lost, kept = one.rows[2:]
    assert lost["status"] == "diverged"
    measured = set(without_time(alone.rows[-1:])[0]) - set(lost)
    assert measured >= {"loss", "l0", "heldout_l0", "explained_variance"}
    assert ("sigma_r" in measured) == theory
    assert without_time([kept]) == without_time(alone.rows[-1:])
    units = one.units().to_pylist()
    assert all(v is None for unit in units[:6] for v in list(unit.values())[2:])
    assert units[6:] == alone.units().to_pylist()


def test_units_may_be_asked_for_before_an_epoch_and_behind_a_checkpoint(tmp_path):
    (first, _) = members()
    assert piece([first]).units().equals(advanced(piece([first]), 0).units())
    begun = advanced(piece([first], theory=True), 0)
    begun.save(Location.of(str(tmp_path)))
    resumed = loaded(tmp_path, [first], theory=True)
    assert resumed.units().equals(begun.units())
    assert resumed.units().schema == unit_schema(theory=True)
    assert piece([first]).units().schema == unit_schema()


def test_a_piece_trains_as_it_is_told():
    assert not piece().stack.problem.tf32
    assert piece(tf32=True).stack.problem.tf32
    with pytest.raises(KeyError, match="no such routine"):
        advanced(piece(routine="no such routine"), 1)


def test_a_read_only_matrix_is_no_warning(monkeypatch):
    x = np.zeros((3, 2), np.float32)
    x.setflags(write=False)
    torch.set_warn_always(True)
    try:
        with pytest.warns(UserWarning, match="not writable"):
            torch.from_numpy(x)
        assert as_tensor(x).shape == (3, 2)
    finally:
        torch.set_warn_always(False)
