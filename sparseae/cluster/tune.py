"""The sweep on Ray Tune."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import NODE_IP, PID
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from sparseae.cluster.attempts import Attempts
from sparseae.cluster.cards import measured_there
from sparseae.cluster.connection import Connection, blamed, environment
from sparseae.cluster.placement import Cluster, Placement, nodes_of, place
from sparseae.cluster.ray_internals import prompt_tune
from sparseae.cluster.watching import Metrics
from sparseae.cluster.worker import Packed, Shared, StackTrainable
from sparseae.errors import RequestError, last_line
from sparseae.model.trial import AXES
from sparseae.sweep.checkpoints import CHECKPOINTS
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Job, Task
from sparseae.sweep.stop import Stop

#: Where `ray up` leaves a cluster's configuration on its head; the drivers of jobs run there.
_AUTOSCALER_FILE = "~/ray_bootstrap_config.yaml"


class _Tries(Searcher):
    """Hands the tries of pieces to Tune as CPUs and GPUs are to have them."""

    def __init__(self, configs: Sequence[dict[str, Any]], attempts: Attempts) -> None:
        super().__init__()
        self._configs = configs
        self._attempts = attempts

    @property
    def finished(self) -> bool:
        """Whether there is nothing to hand out, unless something fails."""
        return self._attempts.finished

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: Any
    ) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.finished or (config := self._attempts.next(trial_id)) is None:
            return None
        return self._configs[config["piece"]] | config

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        self._attempts.done(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is left is planned anew from the results."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Search(SearchGenerator):
    """Tune's search, which here may have to go on after it was through: when a try fails."""

    def __init__(self, tries: _Tries) -> None:
        super().__init__(tries)
        self._tries = tries
        self._ended = False

    def is_finished(self) -> bool:
        return self._ended or self._tries.finished

    def set_finished(self) -> None:
        self._ended = True


class _Stopper(tune.Stopper):
    """Ends each Tune trial with its next report, and all of them once those have saved."""

    def __init__(self, stop: Stop, attempts: Attempts) -> None:
        self._stop, self._attempts = stop, attempts

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._stop.asked

    def stop_all(self) -> bool:
        return self._attempts.settled


class _FirstCome(FIFOScheduler):
    """Tune's first come, first served, without a look at every trial of the sweep at every step.

    A trial that is chosen for a worker that is free loses the worker that was being started for
    it, and the start begins anew for another trial: where trials are short, forever. So those that
    a worker is being started for are left to it.

    Args:
        workers: how many are sure to start.
    """

    def __init__(self, workers: int, attempts: Attempts | None = None) -> None:
        super().__init__()
        self._attempts = attempts
        self._waiting: deque[TuneTrial] = deque()
        self._workers = workers
        self._started: set[tuple[str, int]] = set()

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._waiting.append(trial)
        if self._attempts is not None:
            self._attempts.controller = tune_controller

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


def param_space(sweep: Sweep) -> dict[str, Any]:
    """The axes as Tune writes them down: a grid of the free ones, a list of the stacked ones.

    Tune does not search it: `_Pieces` gives it the trials.
    """
    return {
        axis: list(values) if axis in sweep.stack else tune.grid_search(list(values))
        for axis, values in sweep.axes.items()
    }


def _config(task: Task, sweep: Sweep) -> dict[str, Any]:
    """A Tune trial's configuration: its point of `param_space`, and which task it is."""
    members = [trial.values() for trial in task.trials]
    point = {
        axis: sorted({m[axis] for m in members}) if axis in sweep.stack else members[0][axis]
        for axis in sweep.axes
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
    stop = Stop()
    # Where a card is yet to come, no CPU waits for it.
    if placement.gpu_workers and tasks and not (placement.waiting and placement.cpu_workers):
        with stop.listening(job.recorder.note):
            job = job.with_cards(tasks, measured_there(job, placement, stop))
    packed = Packed(tasks)
    local = connection.local
    shared = Shared(
        sweep, job.location, job.datasets, job.heldout, job.routines, packed, local=local
    )
    trainable = tune.with_resources(
        tune.with_parameters(StackTrainable, shared=shared), resources=_placement_group
    )
    attempts = Attempts(job, tasks, placement, stop)
    filesystem = None if job.location.is_local else job.location.filesystem
    with _tune_as_we_need_it(placement):
        tuner = tune.Tuner(
            trainable,
            param_space=param_space(sweep),
            tune_config=tune.TuneConfig(
                num_samples=len(tasks),
                search_alg=_Search(_Tries([_config(task, sweep) for task in tasks], attempts)),
                scheduler=_FirstCome(placement.cpu_workers if connection.private else 0, attempts),
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=lambda trial: f"{_name(trial)}_{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=CHECKPOINTS,
                storage_path=job.location.path,
                storage_filesystem=filesystem,
                stop=_Stopper(stop, attempts),
                # The last epoch asks for its checkpoint itself; a trial without memory has none.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[
                    Metrics(sweep.name, tasks),
                    # Last what takes the rows out of a report.
                    attempts,
                ],
                verbose=0,
            ),
        )
        with stop.listening(job.recorder.note), prompt_tune(private=connection.private):
            tuner.fit()
    # What is left there beside the trials' folders is Tune's own state, which nobody reads.
    for file in (job.location / CHECKPOINTS).files():
        file.delete()
    if stop.asked:
        raise KeyboardInterrupt


def _placement_group(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a try asks Ray for: its resources, on any node but those that it shall avoid."""
    if not config["avoid"]:
        return tune.PlacementGroupFactory([config["resources"]])
    nodes = {"ray.io/node-id": f"!in({','.join(config['avoid'])})"}
    return tune.PlacementGroupFactory([config["resources"]], bundle_label_selector=[nodes])


@contextmanager
def _tune_as_we_need_it(placement: Placement) -> Iterator[None]:
    """Tune's settings, which are of the whole process, for as long as a sweep trains."""
    at_once = max(16, placement.gpu_workers + placement.cpu_workers)
    settings = {
        "TUNE_MAX_PENDING_TRIALS_PG": os.environ.get("TUNE_MAX_PENDING_TRIALS_PG", str(at_once)),
        # A snapshot of the experiment holds every trial and grows with the sweep; we go on from the
        # results and the checkpoints, so one at the beginning and one at the end are enough.
        "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see `Stop`
    }
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    with environment(settings):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _name(trial: TuneTrial) -> str:
    """A name that any filesystem takes: a data set's may be as long as one can be."""
    words = [str(trial.config[axis]) for axis in AXES if isinstance(trial.config[axis], str)]
    return "_".join(re.sub(r"[^\w.+-]", "-", w.rsplit("/", 1)[-1], flags=re.A)[:40] for w in words)
