"""Running a sweep: what is left to do, the data, the pieces, and the results they leave."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import sparseae
from sparseae import data
from sparseae.errors import RequestError, StorageError, first_line
from sparseae.model.trial import TRAINING_TYPES, Trial
from sparseae.results.location import Location, below
from sparseae.results.lock import Check, only_run
from sparseae.results.store import Store
from sparseae.sweep.config import Sweep, difference
from sparseae.sweep.piece import STATE_FILE, Checkpoint, DamagedCheckpointError
from sparseae.sweep.plan import StackPlan, cut, stacks
from sparseae.sweep.routines import Choices, chosen, shape_of

if TYPE_CHECKING:
    import pandas as pd

#: The folder of checkpoints under ``DIR/NAME``; Tune's own storage too.
CHECKPOINTS = "checkpoints"

#: What prepares a data set: its name and the training keys that it depends on.
DataKey = tuple[str, int, bool, int, int]


def data_key(trial: Trial) -> DataKey:
    """Trials with the same key train on the same matrix."""
    t = trial.training
    return (trial.dataset, t.samples, t.whiten, t.data_seed, t.gaussian_inputs)


@dataclass(frozen=True)
class Task:
    """A piece to train: its trials, and the checkpoints they go on from (all of one epoch)."""

    index: int
    trials: tuple[Trial, ...]
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What its trials share, for people."""
        t = self.trials[0]
        return f"{t.model} {t.activation} {t.constraint} {t.dataset}"


class Observer(Protocol):
    """Who wants to know how a run goes on."""

    def started(self, sweep: Sweep, left: Sequence[Trial], tasks: Sequence[Task]) -> None: ...
    def note(self, message: str) -> None: ...
    def rows(self, task: Task, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def finished(self, task: Task) -> None: ...
    def failed(self, task: Task, message: str) -> None: ...


class Quiet:
    """An observer that says nothing."""

    def started(self, sweep: Sweep, left: Sequence[Trial], tasks: Sequence[Task]) -> None:
        pass

    def note(self, message: str) -> None:
        pass

    def rows(self, task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def finished(self, task: Task) -> None:
        pass

    def failed(self, task: Task, message: str) -> None:
        pass


class Recorder:
    """Takes what pieces report, to the store and to the observer."""

    def __init__(self, store: Store, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        #: Why trials failed, by trial_id.
        self.failures: dict[str, str] = {}
        #: What did not fit the device's memory.
        self.too_large: list[Task] = []
        self.last_try = False

    def rows(
        self, task: Task, rows: Sequence[Mapping[str, Any]], units: pa.Table | None = None
    ) -> None:
        self._store.add(rows, units)
        self._observer.rows(task, rows)

    def note(self, message: str) -> None:
        self._observer.note(message)

    def finished(self, task: Task) -> None:
        if task not in self.too_large and task.trials[0].trial_id not in self.failures:
            self._observer.finished(task)

    def out_of_memory(self, task: Task, message: str) -> None:
        """The device has no room for a stack: it waits for a second try, in two parts."""
        if self.last_try:
            self.failed(task, f"out of memory, also in a smaller stack: {message}")
        else:
            self.too_large.append(task)
            self.note(f"out of memory: {task.label} ({len(task.trials)} trials): {message}")

    def failed(self, task: Task, message: str) -> None:
        self.failures |= dict.fromkeys((t.trial_id for t in task.trials), message)
        self._observer.failed(task, message)


@dataclass(frozen=True)
class Job:
    """All that an executor needs to train a sweep's tasks."""

    sweep: Sweep
    location: Location
    tasks: Callable[..., Sequence[Task]]  # (workers, gpu=False)
    datasets: Mapping[DataKey, Any]  # numpy arrays (N, n)
    routines: Choices
    recorder: Recorder


@dataclass(frozen=True)
class Results:
    """What a run left behind.

    Attributes:
        place: the sweep's folder or URL, ``DIR/NAME``.
        trials: trials of the sweep.
        trained: trials that this run trained or went on with.
        failed: trials that did not finish, each with its reason.
        interrupted: the run was stopped before it was through.
    """

    place: str
    trials: int
    trained: int
    failed: Mapping[str, str]
    interrupted: bool = False

    @property
    def frame(self) -> pd.DataFrame:
        """The epochs as a DataFrame (`sparseae.load`)."""
        from sparseae.results import load

        return load(self.place)


def run(
    source: str | Path | Mapping[str, Any] | Sweep,
    *,
    results: str | Path = "results",
    set_values: Sequence[str] = (),
    address: str | None = None,
    in_process: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Results:
    """Train what is left of a sweep and write its results under ``results/NAME``.

    Args:
        source: a configuration as a path, a mapping or a `Sweep`.
        results: a folder or the URL of one.
        set_values: ``KEY=VALUE`` changes to the configuration.
        address: of a Ray cluster; without one Ray starts on this machine.
        in_process: train here, one piece after the other, without Ray.
        overwrite: delete what a sweep of this name left before.
        observer: is told how it goes on.

    Raises:
        RequestError: if the request is wrong; nothing has started then.
        StorageError: if the results cannot be written any more; the same call goes on later.
    """
    sweep = Sweep.load(source, set_values)
    place = below(results, sweep.name)
    location = Location.of(place)
    observer = observer or Quiet()
    try:
        if not overwrite:
            _require_continuable(location, sweep)
    except OSError as error:
        raise RequestError(f"{location}: cannot be read: {first_line(error)}") from None
    prepared = _prepare(sweep)
    with only_run(location, observer.note) as check:
        try:
            if overwrite:
                _clear(location)
            else:
                _require_continuable(location, sweep)  # again: it may have run in the meantime
                _require_same_data(location, _described(prepared))
            return _train(sweep, place, prepared, observer, check, in_process, address)
        except OSError as error:
            raise StorageError(
                f"{location}: cannot be written ({first_line(error)}); "
                "once it can, the same command goes on"
            ) from error


def _train(
    sweep: Sweep,
    place: str,
    prepared: Mapping[DataKey, data.Dataset],
    observer: Observer,
    check: Check,
    in_process: bool,
    address: str | None,
) -> Results:
    """Train what is left; the request is known to be sound."""
    location = Location.of(place).patient(sweep.storage_patience)
    trials = sweep.trials()
    routines = _routines(location, trials, prepared, observer, None if in_process else sweep)
    provenance = _provenance(_described(prepared), routines, sweep.tf32)
    store = Store(location, TRAINING_TYPES, provenance, check, theory=sweep.theory)
    (location / "sweep.yaml").write_bytes(sweep.text().encode())
    for name in store.put_aside:
        observer.note(f"{name} could not be read and was put aside; its rows are trained again")

    weighed = _weighed(location) if sweep.keep_weights else {t.trial_id for t in trials}
    left = [
        t
        for t in trials
        if not store.is_complete(t.trial_id, t.training.epochs) or t.trial_id not in weighed
    ]
    found = _checkpoints(location, sweep, observer) if left else {}

    def tasks(workers: int, gpu: bool = False) -> Sequence[Task]:
        made = _tasks(sweep, left, found, workers, gpu)
        observer.started(sweep, left, made)
        return made

    recorder = Recorder(store, observer)
    job = Job(
        sweep=sweep,
        location=location,
        tasks=tasks,
        datasets={key: d.x for key, d in prepared.items()},
        routines=routines,
        recorder=recorder,
    )
    interrupted = False
    try:
        if left:
            _execute(job, in_process=in_process, address=address)
            if recorder.too_large:
                _execute(_second_try(job, observer), in_process=in_process, address=address)
            if found:
                _checkpoints(location, sweep, observer)  # drops those that were gone on from
        else:
            tasks(1)
    except KeyboardInterrupt:
        interrupted = True
    except OSError:
        raise  # and no further try to write
    except BaseException:
        store.flush()
        raise
    store.flush()
    missing = [t for t in left if not store.is_complete(t.trial_id, t.training.epochs)]
    unexplained = [t for t in missing if t.trial_id not in recorder.failures]
    return Results(
        place=place,
        trials=len(trials),
        trained=len(left) - len(missing),
        failed={t.trial_id: recorder.failures.get(t.trial_id, "not finished") for t in missing},
        # Tune returns as if all were well after Ctrl-C.
        interrupted=interrupted or bool(unexplained),
    )


def drop_older(kept: list[Location], keep: int | str) -> None:
    """Delete the oldest of a Tune trial's checkpoints beyond ``keep_checkpoints``."""
    if keep != "all" and len(kept) > int(keep):
        kept.pop(0).delete_folder()


def _second_try(job: Job, observer: Observer) -> Job:
    """The stacks that had no room, each in two parts, from their checkpoints."""
    large, job.recorder.too_large = job.recorder.too_large, []
    found = _checkpoints(job.location, job.sweep, observer)
    halves = [part.trials for task in large for part in StackPlan(task.trials).split(2)]
    observer.note(f"{len(large)} stacks were too large: tried again as {len(halves)} smaller ones")
    job.recorder.last_try = True
    tasks = [_task(index, trials, found) for index, trials in enumerate(halves)]
    return replace(job, tasks=lambda workers, gpu=False: tasks)


def _execute(job: Job, *, in_process: bool, address: str | None) -> None:
    if in_process:
        from sparseae.sweep.in_process import execute

        execute(job)
    else:
        from sparseae.cluster.connection import Connection

        with Connection(address) as connection:
            from sparseae.cluster.tune import execute as execute_with_tune  # while Ray starts

            execute_with_tune(job, connection)


def _require_continuable(location: Location, sweep: Sweep) -> None:
    """Refuse to mix a sweep with the results of another one of its name."""
    file = location / "sweep.yaml"
    if not file.exists():
        return
    try:
        earlier = Sweep.load(yaml.safe_load(file.read_bytes()))
    except (yaml.YAMLError, RequestError) as error:
        raise RequestError(
            f"{file} is no longer a valid configuration ({error}); --overwrite deletes the sweep"
        ) from None
    if changed := difference(earlier, sweep):
        raise RequestError(
            f"{location} holds another sweep of this name: {'; '.join(changed)}"
            " (--overwrite deletes it; another name keeps both)"
        )


def _clear(location: Location) -> None:
    """Delete what a sweep left, the lock apart."""
    for folder in ("epochs", "units", "weights", "report", CHECKPOINTS):
        if (location / folder).exists():
            (location / folder).delete_folder()
    for file in location.files():
        file.delete()


def _prepare(sweep: Sweep) -> dict[DataKey, data.Dataset]:
    """Every data set of the sweep, once."""
    return {
        key: data.prepare(
            key[0], samples=key[1], whiten=key[2], data_seed=key[3], gaussian_inputs=key[4]
        )
        for key in dict.fromkeys(map(data_key, sweep.trials()))
    }


def _described(prepared: Mapping[DataKey, data.Dataset]) -> dict[str, dict[str, Any]]:
    """The data sets for the provenance, by a label that names what prepared them."""
    return {
        _data_label(key): {
            "fingerprint": d.fingerprint,
            "description": d.description,
            "samples": d.x.shape[0],
            "inputs": d.x.shape[1],
            **d.details,
        }
        for key, d in prepared.items()
    }


def _require_same_data(location: Location, datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """A sweep goes on with the data that it began with."""
    for file in (location / "epochs").files(".parquet")[-1:]:
        try:
            metadata = pq.read_schema(file.path, filesystem=file.filesystem).metadata or {}
            known = json.loads(metadata.get(b"sparseae.datasets", b"{}"))
        except (pa.ArrowException, OSError, ValueError):
            return  # the store puts an unreadable file aside
        for label, now in datasets.items():
            before = known.get(label, now)
            if before["fingerprint"] != now["fingerprint"]:
                raise RequestError(
                    f"data set {label!r} is not what {location} began with: fingerprint "
                    f"{now['fingerprint']} ({now['description']}), before "
                    f"{before['fingerprint']} ({before['description']})"
                )


def _data_label(key: DataKey) -> str:
    name, samples, whiten, data_seed, gaussian_inputs = key
    parts = [f"samples={samples}"]
    if whiten:
        parts.append("whitened")
    if data_seed:
        parts.append(f"data_seed={data_seed}")
    if name == "gaussian":
        parts.append(f"inputs={gaussian_inputs}")
    return f"{name} ({', '.join(parts)})"


def _routines(
    location: Location,
    trials: Sequence[Trial],
    prepared: Mapping[DataKey, data.Dataset],
    observer: Observer,
    on_workers: Sweep | None,
) -> Choices:
    """The routine of each shape of a step, measured with the threads that will compute it."""
    import torch

    threads = torch.get_num_threads() if on_workers is None else int(on_workers.resources.cpu)
    shapes = {shape_of(t, prepared[data_key(t)].x.shape[1]) for t in trials}
    return chosen(location, shapes, max(1, threads), observer.note)


def _provenance(datasets: Mapping[str, Any], routines: Choices, tf32: bool) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("torch", "ray", "numpy", "pyarrow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "version": sparseae.__version__,
        "git_commit": git_commit(),
        "versions": json.dumps(versions),
        "datasets": json.dumps(datasets),
        "gemm": json.dumps(routines),
        "tf32": json.dumps(tf32),
    }


def git_commit() -> str:
    """The commit of this code, with ``+`` where files were changed; empty where it is not known.

    Code that was sent to a cluster is no checkout: who sent it says what it was.
    """
    if (sent := os.environ.get("SPARSEAE_GIT_COMMIT")) is not None:
        return sent
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _weighed(location: Location) -> set[str]:
    """Trials whose final weights are kept."""
    suffix = ".safetensors"
    return {file.name.removesuffix(suffix) for file in (location / "weights").files(suffix)}


def _checkpoints(location: Location, sweep: Sweep, observer: Observer) -> dict[str, Checkpoint]:
    """The furthest usable checkpoint of each trial; of runs before, the others are deleted."""
    epochs = {trial.trial_id: trial.training.epochs for trial in sweep.trials()}
    best: dict[str, Checkpoint] = {}
    read = []
    for file in (location / CHECKPOINTS).files(STATE_FILE, recursive=True):
        try:
            checkpoint = Checkpoint.read(Location(file.filesystem, file.path.rsplit("/", 1)[0]))
        except DamagedCheckpointError as error:
            observer.note(f"{error}; its trials go back to an earlier one")
            continue
        read.append(checkpoint)
        for trial_id in checkpoint.trial_ids:
            if checkpoint.epoch <= epochs.get(trial_id, -1) and (
                trial_id not in best or best[trial_id].epoch < checkpoint.epoch
            ):
                best[trial_id] = checkpoint
    if sweep.keep_checkpoints == 1:
        for checkpoint in read:
            if all(
                best.get(trial_id, checkpoint) is not checkpoint
                for trial_id in checkpoint.trial_ids
            ):
                checkpoint.location.delete_folder()
    return best


def _tasks(
    sweep: Sweep,
    left: Sequence[Trial],
    found: Mapping[str, Checkpoint],
    workers: int,
    gpu: bool,
) -> list[Task]:
    """Stacks of trials that begin at the same epoch, cut so that no worker idles."""
    by_epoch: dict[int, list[Trial]] = defaultdict(list)
    for trial in left:
        checkpoint = found.get(trial.trial_id)
        by_epoch[-1 if checkpoint is None else checkpoint.epoch].append(trial)
    whole = [plan for trials in by_epoch.values() for plan in stacks(sweep, trials)]
    pieces: list[StackPlan] = cut(whole, workers, gpu=gpu) if whole else []
    return [_task(index, piece.trials, found) for index, piece in enumerate(pieces)]


def _task(index: int, trials: tuple[Trial, ...], found: Mapping[str, Checkpoint]) -> Task:
    return Task(
        index, trials, {t.trial_id: found[t.trial_id] for t in trials if t.trial_id in found}
    )
