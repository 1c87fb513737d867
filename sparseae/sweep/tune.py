"""The sweep on Ray Tune. The only module that imports Ray."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Before Ray is imported: it reads these once.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Results go to Parquet; Tune's own JSON, CSV and TensorBoard files would cost 1 s a trial.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# The view is ours; Tune's newer reporter prints its own even at verbose=0.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# A snapshot of the experiment holds every trial and grows with the sweep; we go on from the results
# and the checkpoints, so one at the beginning and one at the end are enough.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(10**9))

import ray
import torch
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import DONE, SHOULD_CHECKPOINT
from ray.tune.search import Searcher

from sparseae.errors import RequestError
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.piece import Checkpoint, Piece, as_tensor
from sparseae.sweep.routines import Choices, routine_of
from sparseae.sweep.runner import CHECKPOINTS, DataKey, Job, Recorder, Task, data_key
from sparseae.trial import AXES

#: Of a GPU, where ``gpu: auto`` finds one: several Tune trials share a card.
GPU_SHARE = 0.25


@dataclass(frozen=True)
class Shared:
    """What every Tune trial of a sweep needs, sent once through Ray's object store."""

    sweep: Sweep
    location: Location
    datasets: Mapping[DataKey, np.ndarray]
    routines: Choices
    tasks: _Packed


class _Packed:
    """Tasks as one array of bytes: Ray shares arrays between the processes of a node.

    In the Tune trials' configurations they would be copied, searched and written as JSON.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        parts = [pickle.dumps(task) for task in tasks]
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([0, *map(len, parts)])

    def __getitem__(self, index: int) -> Task:
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


class StackTrainable(tune.Trainable):
    """A Tune trial: one stack of trials, reporting every epoch. Reused from trial to trial."""

    _shared: Shared

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        if shared is not None:
            self._shared = shared
        resources = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        task, sweep = self._shared.tasks[config["piece"]], self._shared.sweep
        x = as_tensor(self._shared.datasets[data_key(task.trials[0])])
        routine = routine_of(self._shared.routines, task.trials[0], x.shape[1])
        self._piece = Piece(task.trials, x, _device(), sweep.name, routine, theory=sweep.theory)
        self._unreported: list[dict[str, Any]] = []
        if task.checkpoints:
            self._load(task.checkpoints)

    def _load(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        self._piece.load(checkpoints)
        # The driver may have died before it wrote these; it knows which it has.
        self._unreported = list(self._piece.rows)

    def step(self) -> dict[str, Any]:
        piece, shared = self._piece, self._shared
        rows = self._unreported + ([] if piece.finished else piece.advance())
        self._unreported = []
        measured = piece.rows[-len(piece.trials) :]
        result: dict[str, Any] = {
            "epoch": piece.epoch,
            **_means(measured),
            # A list: of each number in a dictionary Tune would keep a history of its own.
            "members": [
                {name: row.get(name) for name in ("trial_id", "activation_fraction", "dead_units")}
                for row in measured
            ],
            "rows": rows,
            SHOULD_CHECKPOINT: piece.checkpoint_due(shared.sweep.checkpoint_every),
        }
        if piece.finished:
            if shared.sweep.keep_weights:
                piece.save_weights(shared.location / "weights")
            result |= {"units": piece.units(), DONE: True}
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._piece.save(Location.of(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        saved = Checkpoint.read(Location.of(checkpoint))
        self._load(dict.fromkeys(saved.trial_ids, saved))


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the members that have not diverged, for Tune's own displays."""
    sound = [row for row in rows if row["status"] == "ok"]
    if not sound:
        return {"activation_fraction": float("nan"), "dead_units": float("nan")}
    return {
        name: sum(row[name] for row in sound) / len(sound)
        for name in ("activation_fraction", "dead_units")
    }


def _device() -> torch.device:
    if not ray.get_gpu_ids():
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    logging.getLogger(__name__).warning("Ray assigned a GPU that torch cannot use: training on CPU")
    return torch.device("cpu")


class _Pieces(Searcher):
    """Hands the planned pieces to Tune, in the plan's order: the longest first."""

    def __init__(self, configs: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self._waiting = list(reversed(configs))

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        return self._waiting.pop() if self._waiting else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is left is planned anew from the results."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Reports(Callback):
    """Passes what Tune hears on to the recorder."""

    def __init__(self, tasks: Sequence[Task], recorder: Recorder) -> None:
        self._tasks = tasks
        self._recorder = recorder
        self._errored: list[TuneTrial] = []
        self._checkpoints: dict[str, Location] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks to restore an experiment by itself; ours goes on from the
        # results and the checkpoints, and a recorder belongs to this process.
        return {}

    def _task(self, trial: TuneTrial) -> Task:
        return self._tasks[trial.config["piece"]]

    def on_trial_result(
        self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any
    ) -> None:
        # Taken out, because Tune keeps what is left for as long as it runs.
        self._recorder.rows(self._task(trial), result.pop("rows"), result.pop("units", None))

    def on_checkpoint(
        self, iteration: int, trials: list, trial: TuneTrial, checkpoint: Any, **info: Any
    ) -> None:
        # Not by Tune's `num_to_keep`, which would write a snapshot of the experiment each time.
        if (before := self._checkpoints.get(trial.trial_id)) is not None:
            before.delete_folder()
        self._checkpoints[trial.trial_id] = Location(checkpoint.filesystem, checkpoint.path)

    def on_trial_complete(
        self, iteration: int, trials: list, trial: TuneTrial, **info: Any
    ) -> None:
        self._recorder.finished(self._task(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._errored.append(trial)  # Tune stores the error only after it has told of it

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        for trial in list(self._errored):
            if (file := trial.error_file) is not None:  # it reaches the storage only later
                self._errored.remove(trial)
                with open(file) as stream:
                    self._recorder.failed(self._task(trial), _last_line(stream.read()))

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self.on_step_end(0, trials)
        for trial in self._errored:
            self._recorder.failed(self._task(trial), "no reason is known")


def _last_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def param_space(sweep: Sweep) -> dict[str, Any]:
    """Every axis for Tune: a grid search over the free ones, a list for the stacked ones."""
    return {
        axis: list(values) if axis in sweep.stack else tune.grid_search(list(values))
        for axis, values in sweep.space.items()
    }


def _config(task: Task, sweep: Sweep) -> dict[str, Any]:
    """A Tune trial's configuration: its point of `param_space`, and which task it is."""
    members = [trial.values() for trial in task.trials]
    point = {
        axis: sorted({m[axis] for m in members}) if axis in sweep.stack else members[0][axis]
        for axis in sweep.space
    }
    return point | {"piece": task.index}


def execute(job: Job, address: str | None) -> None:
    """Train the tasks of a job on a Ray cluster, or on this machine where none is named."""
    started = not ray.is_initialized()
    if started:
        _connect(address)
    try:
        _fit(job)
    finally:
        if started:
            ray.shutdown()


def _connect(address: str | None) -> None:
    try:
        ray.init(
            address=address or os.environ.get("RAY_ADDRESS", "local"),
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address is None else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RequestError(f"no Ray cluster at {address!r}: {_last_line(error)}") from None


def _fit(job: Job) -> None:
    sweep = job.sweep
    share, workers = _share(sweep)
    tasks = job.tasks(workers)
    shared = Shared(sweep, job.location, job.datasets, job.routines, _Packed(tasks))
    trainable = tune.with_resources(
        tune.with_parameters(StackTrainable, shared=shared), resources=share
    )
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(max(16, workers)))
    filesystem = None if job.location.is_local else job.location.filesystem
    tuner = tune.Tuner(
        trainable,
        param_space=param_space(sweep),
        tune_config=tune.TuneConfig(
            num_samples=len(tasks),
            search_alg=_Pieces([_config(task, sweep) for task in tasks]),
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=lambda trial: f"{_name(trial)}_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=CHECKPOINTS,
            storage_path=job.location.path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            callbacks=[_Reports(tasks, job.recorder)],
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    tuner.fit()


def _name(trial: TuneTrial) -> str:
    words = [str(trial.config[axis]) for axis in AXES if isinstance(trial.config[axis], str)]
    return "_".join(word.rsplit("/", 1)[-1] for word in words)


def _share(sweep: Sweep) -> tuple[dict[str, float], int]:
    """Resources of one Tune trial, and how many of them run at once."""
    cluster = ray.cluster_resources()
    cpus, gpus = cluster.get("CPU", 1), cluster.get("GPU", 0)
    wanted = sweep.resources
    gpu = (GPU_SHARE if gpus else 0.0) if wanted.gpu == "auto" else float(wanted.gpu)
    if wanted.cpu > cpus:
        raise RequestError(f"resources.cpu: {wanted.cpu} asked for, the machine has {cpus:g}")
    workers = cpus / wanted.cpu
    if gpu:
        workers = min(workers, gpus / gpu) if gpus else workers
    share = {"CPU": float(wanted.cpu)} | ({"GPU": gpu} if gpu else {})
    return share, max(1, int(workers))
