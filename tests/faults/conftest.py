"""Faults are real: processes are killed, nodes lost, servers stopped, disks filled.

Each test draws where its fault strikes from a seed that it prints; SPARSEAE_FAULT_SEED repeats it.
"""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

import sparseae
from sparseae.sweep.job import Observer

# Ray lets its workers wait for whatever else this machine does; a test shall not.
os.environ.setdefault("RAY_worker_niceness", "0")

#: Four stacks of four trials; a checkpoint after each epoch.
SWEEP = {
    "name": "faults",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu", "sigmoid"],
        "sigma2": [0, 0.25],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 12, "hidden_units": 96},
    "checkpoint_every": 1,
}
ROWS = 16 * 13
TIMING = ["epoch_seconds", "device"]


def content(place) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All of a sweep's rows and units that must not depend on when and where they were made."""
    rows = sparseae.load(place).drop(columns=TIMING)
    units = sparseae.load_units(place)
    return (
        rows.sort_values(["trial_id", "epoch"], ignore_index=True),
        units.sort_values(["trial_id", "unit"], ignore_index=True),
    )


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert not sparseae.run(SWEEP, results=folder, in_process=True).failed
    return content(folder / "faults")


@pytest.fixture
def is_exact(uninterrupted) -> Callable[[object], None]:
    """Asserts that results hold what a run without faults leaves: nothing lost, doubled, other."""

    def check(place) -> None:
        for found, expected in zip(content(place), uninterrupted, strict=True):
            pd.testing.assert_frame_equal(found, expected, check_exact=True)

    return check


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SPARSEAE_FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"SPARSEAE_FAULT_SEED={seed}")
    return random.Random(seed)


class Injector(Observer):
    """Does something once so many rows have come, and keeps the notes."""

    def __init__(self, after: int, fault: Callable[[], object]) -> None:
        self._after = after
        self._fault = fault
        self._rows = 0
        self.struck = False
        self.notes: list[str] = []

    def rows(self, task, rows) -> None:
        self._rows += len(rows)
        if self._rows >= self._after and not self.struck:
            self.struck = True
            self._fault()

    def note(self, message: str) -> None:
        self.notes.append(message)


def epochs_saved(place: Path) -> int:
    """How far the checkpoints of a local sweep have come, in epochs over its Tune trials."""
    latest: dict[Path, int] = {}
    for state in place.glob("checkpoints/*/checkpoint_*"):
        number = int(state.name.rsplit("_", 1)[1])
        latest[state.parent] = max(latest.get(state.parent, 0), number)
    return sum(latest.values())


class Command:
    """``sparseae run`` as a person starts it, in a process of its own."""

    def __init__(self, folder: Path, results: str | Path, *options: str, sweep=None) -> None:
        config = folder / "faults.yaml"
        config.write_text(yaml.safe_dump(sweep or SWEEP))
        self._command = [sys.executable, "-m", "sparseae", "run", str(config)]
        self._command += ["--results", str(results), *options]
        # A driver without its Ray waits a minute for it before it ends.
        quick = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
        self._environment = os.environ | {"COLUMNS": "200"} | quick

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self._environment, start_new_session=True,
        )  # fmt: skip

    def run(self) -> subprocess.CompletedProcess:
        return subprocess.run(
            self._command, capture_output=True, text=True, env=self._environment, timeout=400
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
