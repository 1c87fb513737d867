"""Which checkpoints a resumed sweep opens."""

import pytest

import sparseae
from sparseae.sweep.checkpoints import INDEX_FILE
from sparseae.sweep.piece import Checkpoint

SMALL = {
    "name": "small",
    "space": {"model": ["dae", "cae", "mdae"], "activation": ["relu"], "sigma2": [0, 0.25],
              "dataset": ["digits"]},
    "training": {"epochs": 2, "hidden_units": 8, "samples": 50},
}  # fmt: skip


@pytest.fixture
def opened(monkeypatch):
    """The folders of the checkpoints whose headers are read."""
    found, read = [], Checkpoint.read
    monkeypatch.setattr(
        Checkpoint, "read", classmethod(lambda cls, place: found.append(place.path) or read(place))
    )
    return found


def run(tmp_path, *changes):
    return sparseae.run(SMALL, results=tmp_path, in_process=True, set_values=changes)


def test_new_trials_beside_finished_ones_open_no_checkpoint(tmp_path, opened):
    run(tmp_path)
    assert run(tmp_path, "space.sigma2=[0, 0.25, 1.0]").trained == 3
    assert opened == []


def test_more_epochs_go_on_without_a_look_at_headers(tmp_path, opened):
    run(tmp_path)
    assert run(tmp_path, "training.epochs=3").trained == 6
    assert opened == []
    states = list((tmp_path / "small" / "checkpoints").rglob("checkpoint_*"))
    assert {state.name for state in states} == {"checkpoint_000003"}


def test_without_an_index_each_is_opened_once(tmp_path, opened):
    run(tmp_path)
    (tmp_path / "small" / "checkpoints" / INDEX_FILE).unlink()
    assert run(tmp_path, "training.epochs=3").trained == 6
    assert len(opened) == len(set(opened)) == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '[{"path": 1}]', "null"])
def test_an_index_that_says_nothing_costs_only_time(tmp_path, text):
    run(tmp_path)
    (tmp_path / "small" / "checkpoints" / INDEX_FILE).write_text(text)
    assert run(tmp_path, "training.epochs=3").trained == 6
    assert len(sparseae.load(tmp_path / "small")) == 6 * 4
