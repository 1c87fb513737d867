"""Ctrl-C and SIGTERM: what trains saves, also in the first minute; what is said of it is true."""

import os
import signal
import subprocess
import sys

import pytest
import yaml

import sparseae
from sparseae.sweep.job import Observer
from tests.faults.processes import wait_for

SWEEP = {
    "name": "stopped",
    "space": {"model": ["cae", "dae"], "activation": ["sigmoid"], "sigma2": [0, 0.25],
              "dataset": ["digits"]},
    "training": {"epochs": 100_000, "hidden_units": 16, "samples": 200},
}  # fmt: skip


def started(tmp_path, *options: str, **changes) -> subprocess.Popen:
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(SWEEP | changes))
    command = [sys.executable, "-m", "sparseae", "run", str(config), "--results", str(tmp_path)]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"COLUMNS": "200", "RAY_worker_niceness": "0"}, start_new_session=True,
        # Tests that a shell runs in the background ignore it, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def checkpoints(place) -> list:
    return list(place.glob("checkpoints/*/checkpoint_*"))


def said_until_training(process: subprocess.Popen) -> str:
    said = ""
    while "epochs (" not in said.partition("Tune trials")[2].partition("0 epochs")[2]:
        line = process.stdout.readline()
        assert line, said
        said += line
        if "trials in" in line:
            return said
    return said


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGINT, ["--in-process"]),
        (signal.SIGTERM, ["--in-process"]),
        # Both set the one flag that the process above shows; SIGTERM: cluster/test_stopping.py.
        pytest.param(signal.SIGINT, [], marks=pytest.mark.slow),
    ],
    ids=["SIGINT here", "SIGTERM here", "SIGINT on Ray"],
)
def test_a_stop_in_the_first_minute_saves(tmp_path, number, options):
    process = started(tmp_path, *options)
    said_until_training(process)
    place = tmp_path / "stopped"
    # The first rows are written ten seconds after the start: then it trains.
    wait_for(lambda: list(place.glob("epochs/*.parquet")), "the first rows", 300)
    assert not checkpoints(place)
    process.send_signal(number)
    rest = process.communicate(timeout=300)[0]
    assert process.returncode == 130, rest
    assert checkpoints(place), rest
    if options:  # one after the other: the second stack had not begun
        assert "goes on with 2 from checkpoints, and begins the others anew" in rest
    else:
        assert "goes on" in rest
    assert "Traceback" not in rest
    assert "***" not in rest  # how the stack that Ray prints begins
    if number == signal.SIGTERM:
        return  # what goes on from a checkpoint does not know how it was stopped
    again = started(tmp_path, *options)
    assert "go on from checkpoints" in said_until_training(again)
    again.send_signal(number)
    again.communicate(timeout=300)


def test_a_stop_while_rows_are_written_saves_too(tmp_path):
    class Stopping(Observer):
        asked = False

        def rows(self, task, rows) -> None:
            if not self.asked:
                self.asked = True
                signal.raise_signal(signal.SIGINT)

    results = sparseae.run(SWEEP, results=tmp_path, in_process=True, observer=Stopping())
    assert results.interrupted
    assert checkpoints(tmp_path / "stopped")


def test_a_stop_before_anything_is_trained_does_not_speak_of_checkpoints(tmp_path):
    large = {"training": {"epochs": 3, "hidden_units": 4000, "samples": 1797}, "stack": []}
    process = started(tmp_path, "--in-process", **large)
    said_until_training(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=300)[0]
    assert process.returncode == 130, rest
    assert "begins them anew: none had a checkpoint yet" in rest or "goes on" in rest
