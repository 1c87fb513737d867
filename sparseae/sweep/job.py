"""The words of a run, below those who run it: task, job, recorder, observer, executor.

A *task* is a piece of a stack to train, a *job* all tasks of a run. An *executor* trains a job,
in this process or on Ray, and tells the *recorder*, which takes the rows to the store and tells the
*observer*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from sparseae.model.trial import Trial
from sparseae.results.location import Location
from sparseae.results.store import Store
from sparseae.sweep.checkpoints import Checkpoints
from sparseae.sweep.config import Sweep
from sparseae.sweep.notify import Notifier
from sparseae.sweep.piece import Checkpoint
from sparseae.sweep.preparation import Preparation
from sparseae.sweep.routines import Choices, Measure, chosen_on_card


@dataclass(frozen=True)
class Task:
    """A piece to train: its trials, and the checkpoints they go on from (all of one epoch)."""

    index: int
    trials: tuple[Trial, ...]
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)

    @property
    def preparation(self) -> Preparation:
        """What prepares the data of all its trials."""
        return Preparation.of(self.trials[0])

    @property
    def label(self) -> str:
        """What its trials share, for people."""
        t = self.trials[0]
        return f"{t.model} {t.activation} {t.constraint} {t.dataset}"


class Observer:
    """Who wants to know how a run goes on; as it is, it hears and says nothing."""

    def started(self, sweep: Sweep, left: Sequence[Trial], tasks: Sequence[Task]) -> None:
        """Training begins; also called when nothing is left, and again for a second try."""

    def note(self, message: str) -> None:
        """Something that a person should know, in one line."""

    def stalled(self, message: str) -> None:
        """Nothing trains, in one line why; what was foretold of the end no longer holds."""
        self.note(message)

    def rows(self, task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
        """An epoch of a task was measured."""

    def finished(self, task: Task) -> None:
        """A task has trained all its epochs."""

    def failed(self, task: Task, message: str) -> None:
        """A task ends without its last epoch."""


class Recorder:
    """Takes what pieces report, to the store and to the observer."""

    def __init__(
        self, store: Store, observer: Observer, checkpoints: Checkpoints, notifier: Notifier
    ) -> None:
        self._store = store
        self._observer = observer
        self._checkpoints = checkpoints
        self._notifier = notifier
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

    def computed_by(self, routines: Choices) -> None:
        """The rows to come are computed by these."""
        self._store.describe("gemm", json.dumps(routines))

    def note(self, message: str) -> None:
        self._observer.note(message)

    def stalled(self, message: str) -> None:
        """Nothing trains."""
        self._observer.stalled(message)
        self._notifier.stalled(message)

    def saved(self, task: Task, checkpoint: Location, epoch: int) -> None:
        """A task has written a checkpoint of its trials."""
        trial_ids = tuple(trial.trial_id for trial in task.trials)
        self._checkpoints.saved(Checkpoint(checkpoint, epoch, trial_ids))

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
        self._notifier.failed(f"{task.label} ({len(task.trials)} trials) failed: {message}")


class Tasks(Protocol):
    """Cuts what is left of a sweep for the workers that there are, and tells the observer."""

    def __call__(self, workers: int, gpu: bool = False) -> Sequence[Task]: ...


@dataclass(frozen=True)
class Job:
    """All that an executor needs to train a sweep's tasks.

    Attributes:
        datasets: the prepared matrices, (N, n) each.
        heldout: of those that have samples to be measured only, these, (M, n) each.
        routines: what computes the steps of each shape.
        began: whether there were rows before this run.
    """

    sweep: Sweep
    location: Location
    tasks: Tasks
    datasets: Mapping[Preparation, np.ndarray]
    heldout: Mapping[Preparation, np.ndarray]
    routines: Choices
    began: bool
    recorder: Recorder

    def with_cards(self, tasks: Sequence[Task], measure: Measure) -> Job:
        """The same, with what a card does for the tasks' steps among its routines."""
        stacks = [(task.trials, self.datasets[task.preparation].shape[1]) for task in tasks]
        on_card = chosen_on_card(self.location, stacks, measure, began=self.began)
        routines = {**self.routines, **on_card}
        self.recorder.computed_by(routines)
        return replace(self, routines=routines)


class Executor(Protocol):
    """Trains jobs."""

    def threads(self, sweep: Sweep) -> int:
        """Threads that will compute a step."""
        ...

    def execute(self, job: Job) -> None:
        """Train a job's tasks and tell its recorder; one that fails leaves the others going on.

        Raises:
            OSError: if the results cannot be written.
            RequestError: if there is nothing to train on.
        """
        ...


def drop_older(kept: list[Location], keep: int | str) -> None:
    """Delete the oldest of a Tune trial's checkpoints beyond ``keep_checkpoints``."""
    if keep != "all" and len(kept) > int(keep):
        kept.pop(0).delete_folder()
