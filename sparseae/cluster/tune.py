"""The sweep on Ray Tune."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch
import yaml
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import DONE, NODE_IP, PID, SHOULD_CHECKPOINT
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from sparseae.cluster.connection import Connection, blamed
from sparseae.cluster.placement import Cluster, Dispatch, Placement, nodes_of, place
from sparseae.cluster.watching import Metrics
from sparseae.errors import RequestError, last_line
from sparseae.model.trial import AXES
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import CHECKPOINTS, Job, Recorder, Task, drop_older
from sparseae.sweep.piece import Checkpoint, DamagedCheckpointError, Piece, as_tensor
from sparseae.sweep.plan import StackPlan, gpu_memory
from sparseae.sweep.preparation import Preparation
from sparseae.sweep.routines import Choices, routine_of

#: Where `ray up` leaves a cluster's configuration on its head; the drivers of jobs run there.
_AUTOSCALER_FILE = "~/ray_bootstrap_config.yaml"


@dataclass(frozen=True)
class Shared:
    """What every Tune trial of a sweep needs, sent once through Ray's object store."""

    sweep: Sweep
    location: Location
    datasets: Mapping[Preparation, np.ndarray]
    heldout: Mapping[Preparation, np.ndarray]
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
        self._device, self._warning = _device()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        task, sweep = self._shared.tasks[config["piece"]], self._shared.sweep
        x = as_tensor(self._shared.datasets[task.preparation])
        held = self._shared.heldout.get(task.preparation)
        routine = routine_of(self._shared.routines, task.trials[0], x.shape[1])
        self._unreported: list[dict[str, Any]] = []
        self._trouble, self._warning = self._warning, ""  # of the device once, not in every trial
        self._no_memory = ""
        self._drop()
        try:
            self._piece = Piece(
                task.trials,
                x,
                self._device,
                sweep.name,
                routine,
                theory=sweep.theory,
                tf32=sweep.tf32,
                heldout=None if held is None else as_tensor(held),
            )
            if task.checkpoints:
                self._load(task.checkpoints)
        except torch.OutOfMemoryError as error:
            self._no_memory = str(error)

    def _load(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        self._trouble = "; ".join(filter(None, [self._trouble, self._piece.load(checkpoints)]))
        # The driver may have died before it wrote these; it knows which it has.
        self._unreported = list(self._piece.rows)

    def _drop(self) -> None:
        """Let go of the piece before, and of its memory."""
        if hasattr(self, "_piece"):
            del self._piece
            if torch.cuda.is_available():
                gc.collect()  # a stack and its parts refer to each other
                torch.cuda.empty_cache()

    def step(self) -> dict[str, Any]:
        """Train and measure the next epoch; without room for it the trial ends, and says so."""
        try:
            if not self._no_memory:
                return self._advance()
        except torch.OutOfMemoryError as error:
            self._no_memory = str(error)
        self._drop()
        return {"rows": [], "no_memory": self._no_memory, SHOULD_CHECKPOINT: False, DONE: True}

    def _advance(self) -> dict[str, Any]:
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
            "trouble": self._trouble,
            SHOULD_CHECKPOINT: piece.checkpoint_due(shared.sweep.checkpoint_every),
        }
        self._trouble = ""
        if piece.finished:
            if shared.sweep.keep_weights:
                piece.save_weights(shared.location / "weights")
            result |= {"units": piece.units(), DONE: True}
        return result

    def save(self, checkpoint_dir: str | None = None) -> Any:
        saved = super().save(checkpoint_dir)
        # The driver has them; it would get them again, and keep them as long as the checkpoint.
        for name in ("rows", "units"):
            saved.metrics.pop(name, None)
        return saved

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._piece.save(Location.of(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        if self._no_memory:
            return
        try:
            saved = Checkpoint.read(Location.of(checkpoint))
        except DamagedCheckpointError as error:
            self._trouble = f"{error}; its {len(self._piece.trials)} trials begin anew"
        else:
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


def _device() -> tuple[torch.device, str]:
    """Where to train, and what is wrong with that."""
    if not ray.get_gpu_ids():
        return torch.device("cpu"), ""
    if torch.cuda.is_available():
        return torch.device("cuda"), ""
    node = ray.util.get_node_ip_address()
    return torch.device("cpu"), (
        f"{node}: Ray assigned a GPU that torch {torch.__version__} cannot use (is the driver too "
        "old?): it trains on the CPU"
    )


class _Pieces(Searcher):
    """Hands the planned pieces to Tune as CPUs and GPUs are to have them."""

    def __init__(
        self,
        configs: Sequence[dict[str, Any]],
        dispatch: Dispatch,
        placement: Placement,
        plans: Sequence[StackPlan],
    ) -> None:
        super().__init__()
        self._configs = configs
        self._dispatch = dispatch
        self._placement = placement
        self._plans = plans
        self._piece_of: dict[str, int] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if self._dispatch.finished:
            return Searcher.FINISHED
        if (taken := self._dispatch.next()) is None:
            return None
        piece, on_gpu = taken
        self._piece_of[trial_id] = piece
        memory = gpu_memory(self._plans[piece]) if on_gpu else 0
        request = self._placement.request(memory, on_gpu)
        return self._configs[piece] | {"resources": request}

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        self._dispatch.done(self._piece_of[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is left is planned anew from the results."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _FirstCome(FIFOScheduler):
    """Tune's first come, first served, without a look at every trial of the sweep at every step.

    A trial that is chosen for a worker that is free loses the worker that was being started for
    it, and the start begins anew for another trial: where trials are short, forever. So those that
    a worker is being started for are left to it.

    Args:
        workers: how many are sure to start.
    """

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._waiting: deque[TuneTrial] = deque()
        self._workers = workers
        self._started: set[tuple[str, int]] = set()

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._waiting.append(trial)  # also one that is tried again

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        self._started.add((result[NODE_IP], result[PID]))
        return super().on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        starting = max(0, self._workers - len(self._started))
        first = []
        while self._waiting and len(first) <= starting:
            trial = self._waiting.popleft()
            if trial.status == TuneTrial.PENDING:
                first.append(trial)
        self._waiting.extendleft(reversed(first))
        return first[-1] if first else None


class _Reports(Callback):
    """Passes what Tune hears on to the recorder."""

    def __init__(self, tasks: Sequence[Task], recorder: Recorder, keep: int | str) -> None:
        self._tasks = tasks
        self._recorder = recorder
        self._errored: list[TuneTrial] = []
        self._keep = keep
        self._checkpoints: dict[str, list[Location]] = defaultdict(list)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks to restore an experiment by itself; ours goes on from the
        # results and the checkpoints, and a recorder belongs to this process.
        return {}

    def _task(self, trial: TuneTrial) -> Task:
        return self._tasks[trial.config["piece"]]

    def on_trial_result(
        self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any
    ) -> None:
        task = self._task(trial)
        if result.get("no_memory"):
            self._recorder.out_of_memory(task, result["no_memory"])
        if result.get("trouble"):
            self._recorder.note(result["trouble"])
        # Taken out, because Tune keeps what is left for as long as it runs.
        self._recorder.rows(task, result.pop("rows"), result.pop("units", None))

    def on_checkpoint(
        self, iteration: int, trials: list, trial: TuneTrial, checkpoint: Any, **info: Any
    ) -> None:
        # Not by Tune's `num_to_keep`, which would write a snapshot of the experiment each time.
        kept = self._checkpoints[trial.trial_id]
        kept.append(Location(checkpoint.filesystem, checkpoint.path))
        drop_older(kept, self._keep)

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
                    self._recorder.failed(self._task(trial), last_line(stream.read()))

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self.on_step_end(0, trials)
        for trial in self._errored:
            self._recorder.failed(self._task(trial), "no reason is known")


def param_space(sweep: Sweep) -> dict[str, Any]:
    """The axes as Tune writes them down: a grid of the free ones, a list of the stacked ones.

    Tune does not search it: `_Pieces` gives it the trials.
    """
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


def execute(job: Job, connection: Connection) -> None:
    """Train the tasks of a job with the Ray of a connection."""
    connection.wait()
    try:
        _fit(job, connection)
    except (ValueError, TypeError) as error:
        if reason := blamed(last_line(error)):
            raise RequestError(f"Ray Tune: {reason}") from None
        raise


def look(address: str | None) -> Cluster:
    """What a Ray cluster has and may add, without running anything there.

    Raises:
        RequestError: where there is none.
    """
    with Connection(address) as connection:
        connection.wait()
        return _cluster(connection)


def _cluster(connection: Connection) -> Cluster:
    alive = [node for node in ray.nodes() if node["Alive"]]
    up = nodes_of([(node["Resources"], 1) for node in alive])
    if connection.local:
        return Cluster(up, local=True)
    return Cluster(up, nodes_of(_to_come(alive)))


def _to_come(alive: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, float], int]]:
    """Machines that the autoscaler may add, by kind: its file on the head tells."""
    try:
        config = yaml.safe_load(Path(_AUTOSCALER_FILE).expanduser().read_bytes())
        kinds, most = config["available_node_types"], config["max_workers"]
        head = config["head_node_type"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []
    running = Counter(node["Labels"].get("ray.io/node-group") for node in alive)
    return [
        (kind["resources"], max(0, min(kind.get("max_workers", most), most) - running[name]))
        for name, kind in kinds.items()
        if name != head
    ]


def _fit(job: Job, connection: Connection) -> None:
    sweep = job.sweep
    placement = place(sweep.resources, _cluster(connection))
    tasks = job.tasks(placement.workers, gpu=placement.gpu_workers > 0)
    if placement.waiting:
        job.recorder.note("no GPU is up yet: the Tune trials wait for one")
    shared = Shared(sweep, job.location, job.datasets, job.heldout, job.routines, _Packed(tasks))
    trainable = tune.with_resources(
        tune.with_parameters(StackTrainable, shared=shared),
        resources=lambda config: tune.PlacementGroupFactory([config["resources"]]),
    )
    plans = [StackPlan(task.trials) for task in tasks]
    dispatch = Dispatch([plan.flops for plan in plans], placement)
    configs = [_config(task, sweep) for task in tasks]
    os.environ.setdefault(
        "TUNE_MAX_PENDING_TRIALS_PG", str(max(16, placement.gpu_workers + placement.cpu_workers))
    )
    # A snapshot of the experiment holds every trial and grows with the sweep; we go on from the
    # results and the checkpoints, so one at the beginning and one at the end are enough.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
    filesystem = None if job.location.is_local else job.location.filesystem
    tuner = tune.Tuner(
        trainable,
        param_space=param_space(sweep),
        tune_config=tune.TuneConfig(
            num_samples=len(tasks),
            search_alg=_Pieces(configs, dispatch, placement, plans),
            scheduler=_FirstCome(placement.cpu_workers if connection.private else 0),
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=lambda trial: f"{_name(trial)}_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=CHECKPOINTS,
            storage_path=job.location.path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            # The last epoch asks for its checkpoint itself; a trial without memory has none.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[
                Metrics(sweep.name, tasks),
                # Last what takes the rows out of a report.
                _Reports(tasks, job.recorder, sweep.keep_checkpoints),
            ],
            verbose=0,
        ),
    )
    with _quiet("ray.tune", "ray.train"), _prompt_tune(private=connection.private):
        tuner.fit()
    # What is left there beside the trials' folders is Tune's own state, which nobody reads.
    for file in (job.location / CHECKPOINTS).files():
        file.delete()


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Some loggers say nothing."""
    loggers = [(log, log.level) for log in map(logging.getLogger, names)]
    try:
        for log, _ in loggers:
            log.setLevel(logging.CRITICAL)
        yield
    finally:
        for log, level in loggers:
            log.setLevel(level)


@contextmanager
def _prompt_tune(*, private: bool) -> Iterator[None]:
    """Tune without what delays its first trial; were its insides others, it would only be later.

    It counts callbacks for Ray's usage statistics, which are off, and imports MLflow and W&B for
    that where they are installed. And it starts trials with environment variables of its own, for
    other libraries, so that they cannot have the workers that Ray started with itself, which in a
    private Ray have the driver's environment anyway.
    """
    with ExitStack() as undo:
        with suppress(ImportError):
            from ray.air._internal import usage

            undo.enter_context(patch.object(usage, "tag_callbacks", lambda callbacks: False))
        with suppress(ImportError):
            from ray.tune.execution import class_cache

            if private:
                undo.enter_context(patch.object(class_cache, "DEFAULT_ENV_VARS", {}))
                undo.enter_context(patch.object(class_cache, "ENV_VARS_TO_PROPAGATE", set()))
        yield


def _name(trial: TuneTrial) -> str:
    """A name that any filesystem takes: a data set's may be as long as one can be."""
    words = [str(trial.config[axis]) for axis in AXES if isinstance(trial.config[axis], str)]
    return "_".join(re.sub(r"[^\w.+-]", "-", w.rsplit("/", 1)[-1], flags=re.A)[:40] for w in words)
