"""The command line as a user meets it: a process, its output and its exit status."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.test_console import called

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = REPOSITORY / "tune_configs" / "quickstart.yaml"
TINY = [
    argument
    for change in (
        "training={epochs: 1, samples: 100, hidden_units: 8}",
        "overrides=[]",
        "space.seed=[0]",
        "space.dataset=[digits]",
    )
    for argument in ("--set", change)
]


def sparseae(*arguments, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sparseae", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False, cwd=cwd,
    )  # fmt: skip


def test_run_ends_with_a_table_and_exit_0(tmp_path):
    done = sparseae("run", QUICKSTART, "--in-process", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"relu dae( +0\.\d{3}){6}", done.stdout)
    frame = pd.read_parquet(tmp_path / "results" / "quickstart" / "epochs")
    assert len(frame) == 4 * 2 * 6 * 2
    again = sparseae("run", QUICKSTART, "--in-process", *TINY, cwd=tmp_path)
    assert again.returncode == 0
    assert "all 48 trials are finished, nothing to train" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", QUICKSTART, "--set", "space.model=[dea]"], ["'dea'", "'dae'"]),
        (["run", QUICKSTART, "--set", "training.epohcs=1"], ["training.epohcs", "'epochs'"]),
        (["run", QUICKSTART, "--address", "ray://x", "--in-process"], ["--in-process"]),
        (["plan", QUICKSTART, "--set", "space.sigma2=[-1]"], ["space.sigma2[0]", "-1"]),
        (["data", "fetch", "mnits"], ["'mnits'", "'mnist'"]),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert called(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words)
    assert list(tmp_path.iterdir()) == []


def test_a_process_says_so_too(tmp_path):
    done = sparseae("run", "nowhere.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"sparseae: .*nowhere\.yaml.*No such file.*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_plan_says_what_would_run_and_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert called(monkeypatch, "plan", QUICKSTART) == 0
    assert re.search(r"trials +240", capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


def test_data_list_names_every_data_set(tmp_path):
    done = sparseae("data", "list", cwd=tmp_path)
    for name in ("mnist", "cifar10", "digits", "photo_patches", "gaussian"):
        assert name in done.stdout
