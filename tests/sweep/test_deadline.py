"""`max_hours`: a run stops by itself, as after Ctrl-C, and the same command goes on."""

import signal

import pytest

import sparseae
from sparseae.errors import RequestError
from sparseae.results import load
from sparseae.sweep import deadline as d
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Observer

SWEEP = {
    "name": "long",
    "space": {"model": ["ae"], "activation": ["relu"], "sigma2": [0], "dataset": ["digits"]},
    "training": {"epochs": 1_000_000, "hidden_units": 8, "samples": 100},
}


class Listener(Observer):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_a_run_that_lasts_too_long_stops_and_keeps_its_rows(tmp_path, ctrl_c):
    before = signal.signal(signal.SIGINT, ctrl_c)
    try:
        _stops_and_goes_on(tmp_path)
        assert signal.getsignal(signal.SIGINT) == ctrl_c
    finally:
        signal.signal(signal.SIGINT, before)


def _stops_and_goes_on(tmp_path):
    heard = Listener()
    limited = SWEEP | {"max_hours": 2 / 3600}
    done = sparseae.run(limited, results=tmp_path, in_process=True, observer=heard)
    assert done.interrupted
    assert len([note for note in heard.notes if note.startswith("max_hours: ")]) == 1
    first = load(tmp_path / "long")
    assert 0 < len(first) < 1_000_000
    # The limit is no part of what the sweep is: with another one it is not refused.
    again = sparseae.run(SWEEP | {"max_hours": 1 / 3600}, results=tmp_path, in_process=True)
    assert again.interrupted


def test_nothing_stops_what_ends_in_time(tmp_path):
    short = SWEEP | {"training": {"epochs": 1, "hidden_units": 8, "samples": 100}}
    done = sparseae.run(short | {"max_hours": 1}, results=tmp_path, in_process=True)
    assert not done.interrupted
    for thread in d.threading.enumerate():
        if thread.name == "max_hours":
            thread.join(20)
            assert not thread.is_alive()


def test_a_job_that_does_not_stop_is_killed(monkeypatch):
    """Its driver hangs where Python hears no interrupt; a person at a terminal may wait."""
    killed = d.threading.Event()
    monkeypatch.setattr(d, "_GRACE_SECONDS", 0.01)
    monkeypatch.setattr(d._thread, "interrupt_main", lambda: None)
    monkeypatch.setattr(d.os, "_exit", lambda status: killed.set())
    monkeypatch.setenv("SPARSEAE_IN_JOB", "1")
    with d.deadline(1e-9, lambda note: None):
        assert killed.wait(20)


@pytest.mark.parametrize("hours", [0, -1, "long", True, float("inf")])
def test_hours_that_are_none_are_refused(hours):
    with pytest.raises(RequestError, match="max_hours: must be"):
        Sweep.load(SWEEP | {"max_hours": hours})
