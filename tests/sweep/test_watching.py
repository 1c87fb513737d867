"""Trackers get one run a trial: read back by their own readers, against the Parquet."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import sparseae
from sparseae.model.trial import AXES
from sparseae.results.location import Location
from sparseae.results.store import Store
from sparseae.sweep.watching import Tracker, Watcher
from tests.cli.test_console import called

SWEEP = {
    "name": "watched",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu"],
        "sigma2": [0, 0.25],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 3, "hidden_units": 16, "samples": 200},
}
TRACKERS = ("tensorboard", "mlflow", "wandb")


def run(folder, *arguments, watch=TRACKERS, **environment) -> subprocess.CompletedProcess:
    """`sparseae run` with the trackers named, at home in ``folder``."""
    config = folder / "watched.yaml"
    config.write_text(yaml.safe_dump(SWEEP | {"watch": list(watch)}))
    variables = [f"HOME={folder}", *(f"{name}={value}" for name, value in environment.items())]
    command = [sys.executable, "-m", "sparseae", "run", config, "--results", folder / "results"]
    return subprocess.run(
        ["env", "-u", "WANDB_API_KEY", *variables, *command, *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def local(folder) -> dict[str, str]:
    """Trackers that keep what they hear in ``folder``."""
    return {
        "MLFLOW_TRACKING_URI": f"file://{folder}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "WANDB_MODE": "offline",
    }


Told = dict[str, dict[str, list[tuple[int, float]]]]


def of_mlflow(folder) -> tuple[Told, dict[str, dict[str, str]]]:
    """By trial_id: of each metric its (epoch, value), in order; and the parameters."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file://{folder}/mlruns")
    experiment = client.get_experiment_by_name("watched")
    assert experiment is not None
    assert "relu-flat" in experiment.tags["mlflow.note.content"]
    told, parameters = {}, {}
    for found in client.search_runs([experiment.experiment_id]):
        trial_id = found.data.tags["trial_id"]
        assert trial_id not in told
        assert found.info.status == "FINISHED"
        told[trial_id] = {
            name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
            for name in found.data.metrics
        }
        parameters[trial_id] = found.data.params
    return told, parameters


def of_tensorboard(folder) -> tuple[Told, dict[str, dict[str, str]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    told, parameters = {}, {}
    for place in (folder / "results" / "watched" / "tensorboard").iterdir():
        trial_id = place.name.rsplit("_", 1)[1]
        events = EventAccumulator(str(place)).Reload()
        told[trial_id] = {
            tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        hparams = HParamsPluginData.FromString(content).session_start_info.hparams
        parameters[trial_id] = {
            key: str(getattr(value, value.WhichOneof("kind"))) for key, value in hparams.items()
        }
    return told, parameters


def of_wandb(folder) -> tuple[Told, dict[str, dict[str, str]]]:
    from wandb.proto.wandb_internal_pb2 import Record

    told, parameters = {}, {}
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        config = {}
        for record in map(Record.FromString, _records(file.read_bytes())):
            if record.HasField("run"):
                assert record.run.run_group == "watched"
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            if record.HasField("history"):
                items = {
                    (i.key or ".".join(i.nested_key)): json.loads(i.value_json)
                    for i in record.history.item
                }
                for name, value in items.items():
                    if not name.startswith("_"):
                        history[name].append((items["_step"], value))
        trial_id = config["trial_id"]
        for name, values in history.items():
            told.setdefault(trial_id, {}).setdefault(name, []).extend(values)
        parameters[trial_id] = {key: str(value) for key, value in config.items()}
    return told, parameters


def _records(data: bytes) -> Iterator[bytes]:
    """The records of W&B's file: blocks of 32 KiB as LevelDB's log, after a header of 7 bytes."""
    place, record = 7, b""
    while place < len(data):
        if (left := -place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


READERS = {"mlflow": of_mlflow, "tensorboard": of_tensorboard, "wandb": of_wandb}


def assert_told_what_the_parquet_has(folder, tracker):
    told, parameters = READERS[tracker](folder)
    frame = sparseae.load(folder / "results" / "watched")
    assert set(told) == set(frame["trial_id"])
    for trial_id, rows in frame.groupby("trial_id"):
        for name in ("activation_fraction", "dead_units", "reconstruction_error", "l0"):
            epochs, values = zip(*sorted(told[trial_id][name]), strict=True)
            assert epochs == (0, 1, 2, 3)
            wanted = rows.sort_values("epoch")[name]
            assert values == pytest.approx(tuple(wanted), rel=1e-6)
        first = rows.iloc[0]
        for axis in AXES:
            value = parameters[trial_id][axis]
            plain = first[axis]
            assert float(value) == plain if not isinstance(plain, str) else value == plain
        assert float(parameters[trial_id]["hidden_units"]) == 16


@pytest.fixture(autouse=True)
def _file_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Stopped in the middle, gone on with, then trained to one epoch more in all."""
    folder = tmp_path_factory.mktemp("watched")
    done = run(folder, "--in-process", "--set", "training.epochs=2", **local(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    done = run(folder, "--in-process", **local(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "watch:" not in done.stdout
    return folder


@pytest.mark.parametrize("tracker", TRACKERS)
def test_each_trial_is_a_run_with_the_numbers_of_the_parquet_also_when_it_went_on(watched, tracker):
    assert_told_what_the_parquet_has(watched, tracker)


@pytest.mark.slow
def test_on_ray_the_trackers_hear_the_same(tmp_path):
    done = run(tmp_path, **local(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    for tracker in TRACKERS:
        assert_told_what_the_parquet_has(tmp_path, tracker)


def test_verdicts_and_page_hang_at_the_trackers(watched):
    files = {path.name for path in watched.glob("mlruns/*/*/artifacts/**/*") if path.is_file()}
    assert {"verdicts.parquet", "report.html"} <= files


def assert_refused(status: int, err: str, says: str, place: Path) -> None:
    """This was said in one line, and nothing started."""
    assert status == 2
    (line,) = [line for line in err.splitlines() if line.startswith("sparseae:")]
    assert re.search(says, line)
    assert "Traceback" not in err
    assert not list(place.rglob("*"))


def test_a_tracker_that_refuses_is_one_line_and_nothing_starts(tmp_path):
    done = run(tmp_path, watch=["wandb"])
    says = "watch: wandb: No W&B API key found"
    assert_refused(done.returncode, done.stderr, says, tmp_path / "results")


@pytest.mark.parametrize(
    ("uri", "says"), [("nowhere://x", ".*nowhere"), ("http://127.0.0.1:9", ".*")]
)
def test_a_server_that_is_not_there_refuses_too(tmp_path, monkeypatch, capsys, uri, says):
    (tmp_path / "watched.yaml").write_text(yaml.safe_dump(SWEEP | {"watch": ["mlflow"]}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = ("run", tmp_path / "watched.yaml", "--results", tmp_path / "results")
    status = called(monkeypatch, *words)
    says = f"watch: mlflow: {says}"
    assert_refused(status, capsys.readouterr().err, says, tmp_path / "results")


class Listening(Tracker):
    """Keeps what it is told in a list; from then on it fails where it is asked to."""

    name = "listening"

    def __init__(self, fails_at: int = 10**9) -> None:
        self.told: list[tuple[str, int]] = []
        self.attached = 0
        self._fails_at = fails_at

    def tell(self, batch):
        if len(self.told) >= self._fails_at:
            raise ConnectionError("the server is gone")
        self.told += [(batch.run_id, row["epoch"]) for row in batch.rows]

    def attach(self, summary, files):
        self.attached += 1

    def close(self):
        pass


def listen(folder, tracker, **changes):
    location = Location.of(folder / "watched")
    watcher = Watcher(tracker, location)
    config = SWEEP | {"training": SWEEP["training"] | changes}
    done = sparseae.run(config, results=folder, in_process=True, observer=watcher)
    return done, watcher.finish("", [])


def test_a_tracker_that_fails_is_one_line_and_the_sweep_ends_as_ever(tmp_path):
    tracker = Listening(fails_at=5)
    done, trouble = listen(tmp_path, tracker)
    assert not done.failed
    assert len(done.frame) == 8 * 4
    assert trouble == "watch: listening: the server is gone; left alone"
    assert len(tracker.told) < 8 * 4


def test_a_sweep_that_is_trained_again_tells_no_epoch_twice(tmp_path, monkeypatch):
    """Killed after telling and before writing: the rows come again, the tracker has them."""
    first = Listening()
    with monkeypatch.context() as killed:
        killed.setattr(Store, "flush", lambda self: None)  # nothing reaches the disk
        listen(tmp_path, first)
    second = Listening()
    listen(tmp_path, second)
    told = [*first.told, *second.told]
    assert len(told) == len(set(told)) == 8 * 4


def test_what_is_told_holds_no_nan_and_no_null(tmp_path):
    from sparseae.sweep.watching.tracker import measurements

    row = {"epoch": 1, "status": "ok", "sigma2": 0.1, "loss": 2, "regularization": None}
    assert measurements(row) == {"loss": 2.0}
    assert not any(math.isnan(v) for v in measurements(row).values())


def test_every_tracker_of_the_configuration_is_one(tmp_path):
    from typing import get_args

    from sparseae.sweep.config import Sweep
    from sparseae.sweep.watching import TRACKERS as known

    annotation = Sweep.model_fields["watch"].annotation
    assert set(get_args(get_args(annotation)[0])) == set(known)
    assert all(Path(str(place).replace(".", "/")).name for place, _ in known.values())
