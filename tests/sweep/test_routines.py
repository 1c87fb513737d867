"""The routines of a sweep: chosen at its start, recorded, kept on resume."""

import json

import pytest

import sparseae
from sparseae.engine.choice import Shape, decided, usable
from sparseae.engine.choice_on_cpu import VARIABLE
from sparseae.engine.products import TORCH
from sparseae.results import provenance
from sparseae.results.location import Location
from sparseae.sweep import routines
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Observer

SHAPE, OTHER = Shape(50, 64, 16), Shape(50, 64, 32)
ONEDNN = "onednn"
SWEEP = {
    "name": "small",
    "space": {"model": ["dae"], "activation": ["relu"], "sigma2": [0.25], "dataset": ["digits"],
              "seed": [0]},
    "training": {"epochs": 2, "hidden_units": 16, "samples": 120},
}  # fmt: skip


class Notes(Observer):
    def __init__(self):
        self.lines = []

    def note(self, message):
        self.lines.append(message)


def chosen(folder, *shapes, note=lambda line: None):
    return routines.chosen(Location.of(folder), shapes, 1, note)


def test_a_choice_is_recorded_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(routines, "choose", lambda shape, threads: ONEDNN)
    monkeypatch.setattr(routines, "usable", lambda name, shape: True)
    assert chosen(tmp_path, SHAPE) == {str(SHAPE): ONEDNN}
    monkeypatch.setattr(routines, "choose", lambda shape, threads: TORCH)
    assert chosen(tmp_path, SHAPE, OTHER) == {str(SHAPE): ONEDNN, str(OTHER): TORCH}


def test_results_older_than_the_choice_go_on_with_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(routines, "choose", lambda shape, threads: ONEDNN)
    (tmp_path / "epochs").mkdir()
    assert chosen(tmp_path, SHAPE) == {str(SHAPE): TORCH}


def test_a_recorded_routine_that_is_not_here_is_told_in_one_line(tmp_path):
    (tmp_path / "gemm.json").write_text(json.dumps({str(SHAPE): "vendor"}))
    lines = []
    choices = chosen(tmp_path, SHAPE, note=lines.append)
    assert len(lines) == 1
    assert "vendor" in lines[0]
    assert choices[str(SHAPE)] == TORCH
    # Where it is usable again, the record still holds.
    assert "vendor" in (tmp_path / "gemm.json").read_text()


def test_what_a_card_does_is_measured_once_a_shape_recorded_and_kept(tmp_path):
    (one,) = Sweep.load(SWEEP).trials()
    (other,) = Sweep.load(SWEEP | {"space": SWEEP["space"] | {"model": ["cae"]}}).trials()
    location, asked = Location.of(tmp_path), []

    def on_card(*stacks, says, began=False, at=location):
        def measure(new):
            asked.extend(new)
            return [says] * len(new)

        return routines.chosen_on_card(at, stacks, measure, began=began)

    chosen_first = on_card(((one,), 64), ((other,), 64), says="triton-b")
    assert chosen_first == {f"gpu {SHAPE}": "triton-b"}
    assert asked == [((one,), 64)]
    assert on_card(((other,), 64), says="") == chosen_first
    both = on_card(((other,), 64), ((one,), 192), says="triton-c")
    assert both == chosen_first | {f"gpu {routines.shape_of(one, 192)}": "triton-c"}
    assert [inputs for _, inputs in asked] == [64, 192]
    choices = {str(SHAPE): TORCH, **both}
    assert routines.routine_of(choices, other, 64) == "torch;triton-b"
    # A sweep that began without a record goes on as it began.
    there = Location.of(tmp_path / "other")
    assert on_card(((one,), 64), says="triton-b", began=True, at=there) == {}
    assert len(asked) == 2


def test_a_card_is_given_another_way_only_where_it_gains():
    assert decided({"": 430e-6}, plain="") == ""
    assert decided({"": 430e-6, "triton-a": 420e-6}, plain="") == ""
    assert decided({"": 430e-6, "triton-a": 300e-6, "triton-b": 232e-6}, plain="") == "triton-b"


@pytest.mark.parametrize("content", ["", "[1]", "7"])
def test_a_damaged_record_is_told(tmp_path, content):
    (tmp_path / "gemm.json").write_text(content)
    (tmp_path / "epochs").mkdir()
    lines = []
    assert chosen(tmp_path, SHAPE, note=lines.append) == {str(SHAPE): TORCH}
    assert "gemm.json" in lines[0]


@pytest.mark.skipif(not usable(ONEDNN, SHAPE), reason="this build of torch has no oneDNN")
def test_a_resumed_sweep_computes_as_it_began(tmp_path, monkeypatch):
    def run(folder, routine, epochs):
        monkeypatch.setenv(VARIABLE, routine)
        sparseae.run(SWEEP, results=tmp_path / folder, set_values=[f"training.epochs={epochs}"],
                     in_process=True)  # fmt: skip
        frame = sparseae.load(tmp_path / folder / "small").sort_values("epoch")
        return frame["reconstruction_error"].tolist()

    through = run("a", "onednn", 4)
    run("b", "onednn", 2)
    assert run("b", "torch", 4) == through
    recorded = provenance(tmp_path / "b" / "small")["gemm"]
    assert recorded == {str(SHAPE): ONEDNN}
