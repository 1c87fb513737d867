"""MLflow: an experiment of the sweep's name, where MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sparseae.results.location import Location
from sparseae.sweep.watching.tracker import Batch, Tracker, measurements

T = TypeVar("T")

#: What MLflow takes at once.
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100


class MLflow(Tracker):
    """Runs of an experiment; the verdicts are its description, files hang at its first run."""

    name: ClassVar[str] = "mlflow"

    def __init__(self, sweep: str, location: Location) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        self._sweep = sweep
        with patched("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"):  # a server that is away is said soon
            self._client.get_experiment_by_name(sweep)
        self._runs: dict[str, str] = {}
        self._first = ""

    @cached_property
    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._sweep)
        return self._client.create_experiment(self._sweep) if found is None else found.experiment_id

    def tell(self, batch: Batch) -> None:
        from mlflow.entities import Metric, Param

        run = self._run_of(batch)
        now = int(time.time() * 1000)
        if batch.begins:
            parameters = [Param(key, str(value)) for key, value in batch.parameters.items()]
            for part in _parts(parameters, _MOST_PARAMETERS):
                self._client.log_batch(run, params=part)
        metrics = [
            Metric(name, value, now, row["epoch"])
            for row in batch.rows
            for name, value in measurements(row).items()
        ]
        for part in _parts(metrics, _MOST_METRICS):
            self._client.log_batch(run, metrics=part)
        if batch.ends:
            if batch.status != "ok":
                self._client.set_tag(run, "status", batch.status)
            self._client.set_terminated(run)
            del self._runs[batch.run_id]

    def _run_of(self, batch: Batch) -> str:
        """The trial's run, where there is one already: it goes on."""
        if batch.run_id not in self._runs:
            found: list[Any] = []
            if not batch.begins:
                wanted = f"tags.`sparseae.run` = '{batch.run_id}'"
                found = list(self._client.search_runs([self._experiment], wanted, max_results=1))
            if found:
                run = found[0].info.run_id
                self._client.set_terminated(run, status="RUNNING")
            else:
                tags = {"sparseae.run": batch.run_id, "trial_id": batch.trial.trial_id}
                made = self._client.create_run(self._experiment, run_name=batch.title, tags=tags)
                run = made.info.run_id
            self._runs[batch.run_id] = run
            self._first = self._first or run
        return self._runs[batch.run_id]

    def attach(self, summary: str, files: Sequence[Path]) -> None:
        self._client.set_experiment_tag(self._experiment, "mlflow.note.content", summary)
        for file in files:
            if self._first:
                self._client.log_artifact(self._first, str(file))

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, status="KILLED")


@contextmanager
def patched(variable: str, value: str) -> Iterator[None]:
    """An environment variable that has this value here, unless it is set."""
    if variable in os.environ:
        yield
        return
    os.environ[variable] = value
    try:
        yield
    finally:
        del os.environ[variable]


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
