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


def begin(folder: Path, *words: str) -> subprocess.Popen:
    (folder / "sweep.yaml").write_text(SWEEP)
    command = [Path(sys.executable).parent / "sparseae", "run", "sweep.yaml", "--results", "out"]
    return subprocess.Popen(
        [*command, *words], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_sigterm_writes_what_there_is_and_leaves_the_checkpoints(tmp_path):
    run = begin(tmp_path)
    saved = tmp_path / "out" / "endless" / "checkpoints"
    wait_for(lambda: list(saved.rglob("*.safetensors")) or run.poll() is not None, "a checkpoint")
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


def test_the_limit_of_time_stops_it_too(tmp_path):
    said, _ = (run := begin(tmp_path, "--set", "max_hours=0.008")).communicate(timeout=300)
    assert run.returncode == 130, said
    words = " ".join(said.split())
    assert "max_hours: 0.008 h are over" in words
    assert re.search(r"Stopped with \d of 4 trials unfinished", words)
