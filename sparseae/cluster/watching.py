"""Watching a sweep from elsewhere: its totals as Ray's metrics.

Ray's metrics reach Prometheus and Grafana (https://docs.ray.io: "Collecting metrics"). There
they are called as here; Ray puts ``ray_`` before the names in the code:

    ray_sparseae_activation_fraction, ray_sparseae_dead_units
        means over the members of a Tune trial at their last epoch; labels sweep, model, activation,
        constraint, dataset
    ray_sparseae_trials_finished_total, ray_sparseae_epochs_total, ray_sparseae_samples_total
        labels sweep, model, activation, constraint, dataset; samples a second are
        rate(ray_sparseae_samples_total[1m])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.util.metrics import Counter, Gauge

from sparseae.sweep.job import Task

_TAGS = ("sweep", "model", "activation", "constraint", "dataset")


class Metrics(Callback):
    """Feeds Ray's metrics from what Tune hears."""

    def __init__(self, sweep: str, tasks: Sequence[Task]) -> None:
        self._sweep = sweep
        self._tasks = tasks
        self._active = Gauge("sparseae_activation_fraction", "Of the members, their mean", _TAGS)
        self._dead = Gauge("sparseae_dead_units", "Of the members, their mean", _TAGS)
        self._finished = Counter("sparseae_trials_finished", "Trials that have ended well", _TAGS)
        self._epochs = Counter("sparseae_epochs", "Epochs trained", _TAGS)
        self._samples = Counter("sparseae_samples", "Samples trained on", _TAGS)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to restore an experiment by itself; we do not

    def _of(self, trial: TuneTrial) -> tuple[Task, dict[str, str]]:
        task = self._tasks[trial.config["piece"]]
        first = task.trials[0]
        tags = {name: str(getattr(first, name)) for name in _TAGS[1:]}
        return task, {"sweep": self._sweep, **tags}

    def on_trial_result(
        self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any
    ) -> None:
        _, tags = self._of(trial)
        if (active := result.get("activation_fraction")) is not None and active == active:
            self._active.set(active, tags)
            self._dead.set(result["dead_units"], tags)
        trained = [row for row in result["rows"] if row["epoch"] > 0]
        if trained:
            self._epochs.inc(len(trained), tags)
            self._samples.inc(sum(row["samples"] for row in trained), tags)

    def on_trial_complete(
        self, iteration: int, trials: list, trial: TuneTrial, **info: Any
    ) -> None:
        task, tags = self._of(trial)
        self._finished.inc(len(task.trials), tags)
