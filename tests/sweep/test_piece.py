"""A piece of work: its time, its checkpoints, and what a checkpoint brings back."""

import time

import pytest
import torch

import sparseae
from sparseae.engine.stack import Stack
from sparseae.model.trial import Training, Trial
from sparseae.results.location import Location
from sparseae.sweep.piece import STATE_FILE, Checkpoint, DamagedCheckpointError, Piece

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
    assert "is damaged" in trouble
    assert "2 trials begin anew" in trouble
    assert (other.epoch, other.rows) == (-1, [])


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_checkpoint_that_breaks_off_is_damaged(kept, tmp_path):
    advanced(piece(), 1).save(Location.of(str(tmp_path)))
    file = tmp_path / STATE_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DamagedCheckpointError, match="damaged"):
        Checkpoint.read(Location.of(str(tmp_path)))


def test_a_checkpoint_of_other_data_is_not_gone_on_from(tmp_path):
    advanced(piece(), 1).save(Location.of(str(tmp_path)))
    checkpoint = Checkpoint.read(Location.of(str(tmp_path)))
    trouble = piece(x=torch.ones(40, 5)).load({t.trial_id: checkpoint for t in members()})
    assert "other data" in trouble


def test_weights_are_kept_under_the_trials_id(tmp_path):
    from safetensors.torch import load_file

    one = advanced(piece(), 1)
    one.save_weights(Location.of(str(tmp_path)))
    for member, trial in enumerate(members()):
        kept = load_file(tmp_path / f"{trial.trial_id}.safetensors")
        assert torch.equal(kept["W"], one.stack.W[member])
        assert torch.equal(kept["b"], one.stack.b[member])
