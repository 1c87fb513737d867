"""What stops a run on Ray: a signal, also twice, and its own limit of time."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparseae.results import load
from tests.faults.processes import wait_for

pytestmark = pytest.mark.slow

SWEEP = """
name: endless
space: {model: [dae, cae], activation: [relu], sigma2: [0, 0.25], dataset: [digits]}
training: {epochs: 1000000, hidden_units: 16, samples: 200}
checkpoint_every: 20
"""


@pytest.fixture
def begin(tmp_path):
    """Starts the sweep as a person does; it does not outlive the test."""
    started = []

    def call(*words: str) -> subprocess.Popen:
        (tmp_path / "sweep.yaml").write_text(SWEEP)
        command = [Path(sys.executable).parent / "sparseae", "run", "sweep.yaml"]
        started.append(
            subprocess.Popen(
                [*command, "--results", "out", *words], cwd=tmp_path,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield call
    for run in started:
        run.kill()
        run.communicate()


def test_sigterm_writes_what_there_is_and_leaves_the_checkpoints(begin, tmp_path):
    run = begin()
    saved = tmp_path / "out" / "endless" / "checkpoints"
    wait_for(
        lambda: list(saved.rglob("*.safetensors")) or run.poll() is not None, "a checkpoint", 400
    )
    assert run.poll() is None, run.communicate()[0]
    for _ in range(2):  # the whole group of a job gets it, and its leader passes it on
        run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "Stopped with 4 of 4 trials unfinished" in " ".join(said.split())
    frame = load(tmp_path / "out" / "endless")
    assert len(frame)
    assert not frame.duplicated(["trial_id", "epoch"]).any()
    assert list((tmp_path / "out").rglob("*.safetensors"))


def test_the_limit_of_time_stops_it_too(begin):
    said, _ = (run := begin("--set", "max_hours=0.008")).communicate(timeout=300)
    assert run.returncode == 130, said
    words = " ".join(said.split())
    assert "max_hours: 0.008 h are over" in words
    assert re.search(r"Stopped with \d of 4 trials unfinished", words)
