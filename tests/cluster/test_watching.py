"""Trackers hear of every epoch: TensorBoard, MLflow and W&B as installed, with local stores."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from sparseae.results import load

SWEEP = {
    "name": "watched",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu"],
        "sigma2": [0, 0.25],
        "dataset": ["digits"],
    },
    "training": {"epochs": 3, "hidden_units": 32, "samples": 500},
}


def run(folder, *watch: str, **environment: str) -> subprocess.CompletedProcess:
    """`sparseae run` with the trackers named, at home in ``folder``."""
    config = folder / "watched.yaml"
    config.write_text(yaml.safe_dump(SWEEP | {"watch": list(watch)}))
    variables = [f"HOME={folder}", *(f"{name}={value}" for name, value in environment.items())]
    command = [sys.executable, "-m", "sparseae", "run", config, "--results", folder / "results"]
    return subprocess.run(
        ["env", "-u", "WANDB_API_KEY", *variables, *command],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    done = run(
        folder, "tensorboard", "mlflow", "wandb",
        MLFLOW_TRACKING_URI=f"file://{folder}/mlruns", MLFLOW_ALLOW_FILE_STORE="true",
        WANDB_MODE="offline",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_mlflow_has_what_the_results_have(watched):
    frame = load(watched / "results" / "watched")
    expected = {
        model: list(rows.groupby("epoch")["activation_fraction"].mean())
        for model, rows in frame.groupby("model")
    }
    heard = {}
    for model in watched.glob("mlruns/*/*/params/model"):
        lines = (model.parents[1] / "metrics" / "activation_fraction").read_text().splitlines()
        heard[model.read_text()] = [float(line.split()[1]) for line in lines]
    assert heard.keys() == expected.keys()
    for model, values in expected.items():
        assert heard[model] == pytest.approx(values)


@pytest.mark.slow
def test_tensorboard_and_wandb_have_a_run_for_each_tune_trial(watched):
    checkpoints = watched / "results" / "watched" / "checkpoints"
    trials = {path.parent.name for path in checkpoints.glob("*/checkpoint_*")}
    assert len(trials) == 2
    assert {path.parent.name for path in checkpoints.glob("*/events.out.*")} == trials
    # Offline, W&B keeps its runs where the driver works; a server has them at once.
    folders = {path.parents[2].name for path in checkpoints.glob("*/wandb/offline-run-*/*.wandb")}
    assert folders
    assert folders <= trials


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracker", "environment", "says"),
    [
        ("wandb", {}, r"watch: wandb: No W\w+ API key found"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "nowhere://x"}, r"watch: mlflow: .*nowhere"),
    ],
)
def test_a_tracker_that_refuses_is_one_line_and_nothing_starts(
    tmp_path, tracker, environment, says
):
    done = run(tmp_path, tracker, **environment)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("sparseae:")]
    assert re.search(says, line)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "results").rglob("*.parquet"))
