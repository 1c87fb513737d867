"""sparseae next: proposes, trains, looks again, and survives a kill."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import sparseae
from sparseae.cli import _deciding, main
from tests.faults.processes import wait_for

SWEEP = {
    "name": "open",
    "space": {
        "model": ["dae", "sae"],
        "activation": ["relu"],
        "sigma2": [0, 0.25, 1.0],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 8, "hidden_units": 16, "samples": 200, "learning_rate": 0.005},
}
TIMING = ["epoch_seconds", "epochs"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Path(sparseae.run(SWEEP, results=tmp_path_factory.mktemp("a"), in_process=True).place)


@pytest.fixture
def place(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "open"))


def rows(place) -> pd.DataFrame:
    frame = sparseae.load(place).drop(columns=TIMING)
    return frame.sort_values(["trial_id", "epoch"], ignore_index=True)


def decide(place, seconds=600.0) -> str:
    how = {"address": None, "in_process": True}
    return _deciding.decide(str(place), seconds, 1, lambda proposals: None, **how)


def test_it_trains_what_it_proposes_and_decides_most_of_it(place):
    proposals = _deciding.propose(str(place), 1)
    hopeful = [p for p in proposals if p.odds >= 0.5]
    assert hopeful
    before = rows(place)
    ended = decide(place)
    assert ended.startswith("ended after")
    after = rows(place)
    old = after[after["trial_id"].isin(before["trial_id"]) & (after["epoch"] <= 8)]
    pd.testing.assert_frame_equal(old.reset_index(drop=True), before)
    assert len(after) > len(before)
    left = {p.label for p in _deciding.propose(str(place), 1)}
    assert sum(p.label not in left for p in hopeful) > len(hopeful) / 2
    assert not (place / _deciding.STATE).exists()
    # What was asked for goes on, and finds all trained.
    again = sparseae.run(SWEEP, results=place.parent, in_process=True)
    assert again.trained == 0


@pytest.mark.parametrize("when", ["before training", "after training", "while it looks"])
def test_killed_anywhere_the_same_command_ends_with_the_same_rows(
    place, tmp_path, monkeypatch, when
):
    whole = Path(shutil.copytree(place, tmp_path / "whole" / "open"))
    decide(whole)
    train, propose = _deciding._train, _deciding.propose
    looked = []

    def killed(*arguments):
        if when != "before training":
            train(*arguments)
        if when != "while it looks":
            raise KeyboardInterrupt

    def look(*arguments):
        looked.append(None)
        if when == "while it looks" and len(looked) == 2:
            raise KeyboardInterrupt
        return propose(*arguments)

    monkeypatch.setattr(_deciding, "_train", killed)
    monkeypatch.setattr(_deciding, "propose", look)
    with pytest.raises(KeyboardInterrupt):
        decide(place)
    assert json.loads((place / _deciding.STATE).read_bytes())["rounds"] == 1
    monkeypatch.undo()
    decide(place)
    pd.testing.assert_frame_equal(rows(place), rows(whole))


@pytest.mark.slow
def test_killed_by_the_system_the_same_command_ends_with_the_same_rows(place, tmp_path):
    """SIGKILL, once what it trains has begun to arrive."""
    whole = Path(shutil.copytree(place, tmp_path / "whole" / "open"))
    parts = set((place / "epochs").iterdir())

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-m", "sparseae", "next", str(folder), "--run", "--in-process"]

    decide(whole)
    with subprocess.Popen(command(place), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: set((place / "epochs").iterdir()) - parts, "rows of the first look")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (place / _deciding.STATE).exists()
    subprocess.run(command(place), check=True, capture_output=True)
    pd.testing.assert_frame_equal(rows(place), rows(whole))
    assert not (place / _deciding.STATE).exists()


def test_without_time_nothing_is_trained(place):
    before = rows(place)
    assert "--hours" in decide(place, seconds=0.0)
    pd.testing.assert_frame_equal(rows(place), before)
    assert not (place / "asked.yaml").exists()


def test_the_command_proposes_in_80_columns_and_refuses_in_one_line(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", ["sparseae", "next", str(place), "--in-process"])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "more seed" in out
    assert max(len(line.replace(str(place), "DIR")) for line in out.splitlines()) <= 80
    other = place.rename(place.with_name("renamed"))
    monkeypatch.setattr("sys.argv", ["sparseae", "next", str(other), "--run", "--in-process"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
