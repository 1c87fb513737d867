"""Which of the checkpoints that there are a trial goes on from, and which are deleted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparseae.results.location import Location
from sparseae.sweep.checkpoints import CHECKPOINTS, INDEX_FILE, Checkpoints
from sparseae.sweep.config import Sweep
from sparseae.sweep.piece import STATE_FILE

SPACE = {"model": ["dae"], "activation": ["relu"], "sigma2": [0.1, 0.2, 0.3],
         "dataset": ["digits"]}  # fmt: skip


def sweep(epochs: int = 5, keep: object = 1) -> Sweep:
    return Sweep.load(
        {"name": "s", "space": SPACE, "training": {"epochs": epochs}, "keep_checkpoints": keep}
    )


A, B, C = (trial.trial_id for trial in sweep().trials())


def leave(folder: Path, name: str, epoch: int, *trials: str) -> Path:
    """A checkpoint as a run leaves it; its header is what is looked at."""
    state = folder / CHECKPOINTS / name / STATE_FILE
    state.parent.mkdir(parents=True, exist_ok=True)
    about = {"epoch": str(epoch), "trial_ids": json.dumps(trials)}
    save_file({"W": np.zeros(4, np.float32)}, state, metadata=about)
    return state


class Found:
    """The checkpoints of a folder, and what a run was told of them."""

    def __init__(self, folder: Path, made: Sweep | None = None, **how: bool) -> None:
        self.notes: list[str] = []
        self.folder = folder
        self.all = Checkpoints(Location.of(folder), made or sweep(), self.notes.append, **how)

    def best(self) -> dict[str, str]:
        places = self.all.best().items()
        return {trial: f"{c.location.name} at {c.epoch}" for trial, c in places}

    def there(self) -> set[str]:
        return {state.parent.name for state in (self.folder / CHECKPOINTS).rglob(STATE_FILE)}


def test_a_trial_goes_on_from_the_furthest_checkpoint_within_its_epochs(tmp_path):
    leave(tmp_path, "a", 3, A, B)
    leave(tmp_path, "b", 5, A)
    leave(tmp_path, "c", 6, A, B, "of another sweep")
    assert Found(tmp_path, sweep(5)).best() == {A: "b at 5", B: "a at 3"}
    leave(tmp_path, "d", 1, "of another sweep")
    assert Found(tmp_path, sweep(6, keep="all")).best() == {A: "c at 6", B: "c at 6"}


def test_what_no_trial_goes_on_from_is_deleted_where_the_latest_alone_are_kept(tmp_path):
    for name, epoch, trials in (("a", 3, (A, B)), ("b", 5, (A,)), ("c", 2, (A, B)), ("d", 1, (C,))):
        leave(tmp_path, name, epoch, *trials)
    assert Found(tmp_path, sweep(keep="all")).there() == {"a", "b", "c", "d"}
    assert Found(tmp_path, sweep(keep=2)).there() == {"a", "b", "c", "d"}
    assert Found(tmp_path).there() == {"a", "b", "d"}


def test_a_checkpoint_of_trials_that_the_sweep_has_no_more_stays(tmp_path):
    leave(tmp_path, "a", 9, "of another sweep")
    assert Found(tmp_path).there() == {"a"}


def test_of_equals_one_is_gone_on_from_and_kept(tmp_path):
    leave(tmp_path, "a", 3, A)
    leave(tmp_path, "b", 3, A)
    found = Found(tmp_path)
    assert (found.best(), found.there()) == ({A: "a at 3"}, {"a"})


def test_a_damaged_checkpoint_is_told_once_and_left(tmp_path):
    leave(tmp_path, "a", 3, A)
    for name in ("b", "c"):
        state = leave(tmp_path, name, 5, A)
        state.write_bytes(state.read_bytes()[:-1])
    found = Found(tmp_path)
    assert found.best() == {A: "a at 3"}
    assert [note.split(" is damaged")[0].rpartition("/")[2] for note in found.notes] == ["b", "c"]
    assert all(note.endswith("; its trials go back to an earlier one") for note in found.notes)
    found.all.refresh()
    assert len(found.notes) == 2
    assert found.there() == {"a", "b", "c"}


def test_where_nothing_is_left_to_train_nothing_is_looked_for(tmp_path):
    leave(tmp_path, "a", 3, A)
    assert Found(tmp_path, look=False).best() == {}


def test_a_checkpoint_that_this_run_writes_is_gone_on_from_until_it_is_gone(tmp_path):
    leave(tmp_path, "a", 3, A)
    found = Found(tmp_path)
    later = leave(tmp_path, "b", 4, A)
    there = Found(tmp_path, sweep(keep="all")).all.best()[A]
    found.all.saved(there)
    assert found.best() == {A: "b at 4"}
    assert found.there() == {"a", "b"}
    found.all.refresh()
    assert found.there() == {"b"}
    later.unlink()
    found.all.refresh()
    assert found.best() == {}


def index(folder: Path) -> list[dict]:
    return json.loads((folder / CHECKPOINTS / INDEX_FILE).read_text())


def test_the_index_says_what_is_in_each_with_its_size_and_time(tmp_path):
    leave(tmp_path, "old", 2, A)
    states = {"x/a": leave(tmp_path, "x/a", 3, A, B), "b": leave(tmp_path, "b", 5, C)}
    (tmp_path / CHECKPOINTS / "b" / "zzz").write_text("of Tune")
    Found(tmp_path).all.close()
    about = {"x/a": (3, [A, B]), "b": (5, [C])}
    assert index(tmp_path) == [
        {"path": path, "key": [states[path].stat().st_size, states[path].stat().st_mtime_ns],
         "epoch": about[path][0], "trial_ids": about[path][1]}
        for path in ("b", "x/a")
    ]  # fmt: skip


def test_what_the_index_says_is_believed_unless_the_file_is_another(tmp_path):
    for name, trial in (("a", A), ("b", B), ("c", C)):
        leave(tmp_path, name, 3, trial)
    Found(tmp_path).all.close()
    entries = index(tmp_path)
    for entry in entries:
        entry["epoch"] = 4  # who reads the header knows better
    (tmp_path / CHECKPOINTS / INDEX_FILE).write_text(json.dumps(entries))
    os.utime(tmp_path / CHECKPOINTS / "b" / STATE_FILE, ns=(1, 1))
    leave(tmp_path, "c", 5, C, "of another sweep")
    assert Found(tmp_path).best() == {A: "a at 4", B: "b at 3", C: "c at 5"}


def test_no_index_is_left_where_there_is_no_checkpoint_and_an_old_one_is_emptied(tmp_path):
    (tmp_path / CHECKPOINTS).mkdir()
    Found(tmp_path).all.close()
    assert not (tmp_path / CHECKPOINTS / INDEX_FILE).exists()
    state = leave(tmp_path, "a", 3, A)
    Found(tmp_path).all.close()
    state.unlink()
    Found(tmp_path).all.close()
    assert index(tmp_path) == []


@pytest.mark.parametrize("look", [True, False])
def test_closing_finds_what_this_run_left(tmp_path, look):
    found = Found(tmp_path, look=look)
    leave(tmp_path, "a", 3, A)
    found.all.close()
    assert [entry["path"] for entry in index(tmp_path)] == ["a"]
