"""benchmarks/gpu.py on a CPU: everything but the capture itself runs."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import sparseae
from benchmarks import gpu

ROOT = Path(__file__).parents[2]

#: As on a machine that lacks these packages.
_BLOCKED = """
import runpy, sys
sys.modules |= dict.fromkeys({blocked})
sys.argv = ["gpu.py", "--device", "cpu", "--quick"] + {arguments}
runpy.run_path({script!r}, run_name="__main__")
"""
_ABSENT = ("ray", "pydantic", "pooch", "yaml", "pyarrow", "pandas", "rich", "typer", "safetensors")


def run(*arguments: str) -> str:
    code = _BLOCKED.format(
        blocked=_ABSENT, arguments=list(arguments), script=str(ROOT / "benchmarks" / "gpu.py")
    )
    without = ("SPARSEAE_DATA_DIR", "TRITON_INTERPRET")  # the interpreter takes its time
    environment = {k: v for k, v in os.environ.items() if k not in without}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_runs_with_torch_and_numpy_alone_and_finds_no_difference():
    printed = run()
    assert "WRONG" not in printed
    assert printed.count(" ok") == 5
    for title in ("the card", "a step of a stack and its share", "a member's step", "estimate"):
        assert title in printed


def test_what_it_trained_of_the_paper_can_be_analysed(tmp_path):
    run("--paper", "60", "--output", str(tmp_path))
    frame = pd.read_csv(tmp_path / "paper-epochs.csv")
    assert set(frame["status"]) == {"ok"}
    assert frame.groupby("trial_id")["epoch"].agg(list).map(len).eq(3).all()
    assert len(sparseae.trends(frame)) == frame.groupby(["model", "activation"]).ngroups


def test_its_stacks_are_those_of_the_paper():
    sweep = sparseae.Sweep.load(ROOT / "tune_configs" / "paper.yaml")
    ours = {trial.trial_id for stack in gpu.paper_stacks() for trial in stack}
    assert ours == {trial.trial_id for trial in sweep.trials()}
