"""What a tracker is, and the thread in which one is told, so that it never holds up training."""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from sparseae.errors import last_line
from sparseae.model.trial import AXES, TRAINING_TYPES, Trial
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Observer, Task

#: A trial's rows go to a tracker together, when it is finished or this many seconds after the last.
_SECONDS = 10.0

#: Which epochs a tracker has been told of, beside the results.
_TOLD = "watch-{}.json"

_NAMES = {"sweep", "trial_id", "status", "device", "epoch"}


@dataclass(frozen=True)
class Batch:
    """Epochs of one trial, of which a tracker has not heard.

    Attributes:
        trial: the trial.
        run_id: of the tracker's run: the same whenever this trial of these results goes on.
        rows: of the results, by rising epoch.
        begins: whether the tracker has not heard of the trial at all.
        ends: whether the trial is finished with them.
    """

    trial: Trial
    run_id: str
    rows: Sequence[Mapping[str, Any]]
    begins: bool
    ends: bool

    @property
    def title(self) -> str:
        """What people call the trial."""
        t = self.trial
        name = f"{t.model} {t.activation} {t.constraint} {t.dataset}"
        return f"{name} sigma2={t.sigma2:g} seed={t.seed}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Every axis and every key of training."""
        return self.trial.values()

    @property
    def status(self) -> str:
        """Of the last row: ``ok`` or ``diverged``."""
        return self.rows[-1]["status"]


def measurements(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that are no parameters; those that are null are left out."""
    left_out = {*AXES, *TRAINING_TYPES, *_NAMES}
    return {
        name: float(value)
        for name, value in row.items()
        if name not in left_out and value is not None
    }


class Tracker(ABC):
    """Where runs are shown. A subclass says how one is written.

    Args:
        sweep: its name, which groups the runs.
        location: of the results.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, sweep: str, location: Location) -> None:
        """Raise whatever says that it cannot be used: no key, no server."""

    @abstractmethod
    def tell(self, batch: Batch) -> None:
        """Write some epochs of a trial to its run."""

    @abstractmethod
    def attach(self, summary: str, files: Sequence[Path]) -> None:
        """Show how the sweep came out: a text in Markdown, and files."""

    @abstractmethod
    def close(self) -> None:
        """End what is open."""


@dataclass
class _Heard:
    """What is known of a trial in this run."""

    trial: Trial
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    sent: float = 0.0


class _Together:
    """Passes all that an observer hears on to several."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def __getattr__(self, name: str) -> Callable[..., None]:
        def heard(*arguments: Any, **named: Any) -> None:
            for observer in self._observers:
                getattr(observer, name)(*arguments, **named)

        return heard


def together(*observers: Observer) -> Observer:
    """One observer for several."""
    return observers[0] if len(observers) == 1 else cast(Observer, _Together(observers))


class Watcher(Observer):
    """Tells a tracker, in a thread of its own.

    What went wrong there is said in one line, and the tracker is left alone from then on: a sweep
    does not depend on who looks at it. Which epochs were told is written beside the results before
    they are told, so that none is told twice, whatever was killed in between.
    """

    def __init__(self, tracker: Tracker, location: Location) -> None:
        self._tracker = tracker
        self._file = location / _TOLD.format(tracker.name)
        self._jobs: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._heard: dict[str, _Heard] = {}
        self._told: dict[str, int] = {}
        self._results_id = ""
        self._latest: dict[str, int] = defaultdict(lambda: -1)
        self._trouble = ""

    def started(self, sweep: Sweep, left: Sequence[Trial], tasks: Sequence[Task]) -> None:
        self._heard |= {t.trial_id: _Heard(t) for t in left if t.trial_id not in self._heard}
        if self._thread is None:
            self._remember()
            self._thread = threading.Thread(target=self._work, name=self._tracker.name, daemon=True)
            self._thread.start()

    def rows(self, task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
        now = time.monotonic()
        last = task.trials[0].training.epochs
        for row in rows:
            trial_id, epoch = row["trial_id"], row["epoch"]
            if epoch <= self._latest[trial_id]:
                continue  # of a checkpoint that was gone on from
            self._latest[trial_id] = epoch
            heard = self._heard[trial_id]
            heard.sent = heard.sent or now
            heard.rows.append(row)
            if epoch == last or now - heard.sent > _SECONDS:
                self._send(heard, ends=epoch == last)
                heard.sent = now

    def failed(self, task: Task, message: str) -> None:
        for trial in task.trials:
            if (heard := self._heard[trial.trial_id]).rows:
                self._send(heard, ends=True)

    def _send(self, heard: _Heard, *, ends: bool) -> None:
        self._jobs.put(("tell", (heard.trial, heard.rows, ends)))
        heard.rows = []

    def finish(self, summary: str, files: Sequence[Path]) -> str:
        """Tell what is left and how it came out; wait for it.

        Returns:
            What went wrong with the tracker, in one line; empty if nothing did.
        """
        if self._thread is None:
            return ""
        for heard in self._heard.values():
            if heard.rows:
                self._send(heard, ends=False)
        if summary:
            self._jobs.put(("attach", (summary, files)))
        self._jobs.put(None)
        self._thread.join()
        return self._trouble

    def _remember(self) -> None:
        """Read which epochs were told by a run before."""
        known: dict[str, Any] = {}
        if self._file.exists():
            try:
                known = json.loads(self._file.read_bytes())
            except ValueError:
                known = {}
        self._results_id = known.get("results", uuid.uuid4().hex[:8])
        self._told = known.get("epochs", {})

    def _work(self) -> None:
        over = False
        while not over:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            over = jobs[-1] is None
            try:
                if not self._trouble:
                    self._do([job for job in jobs if job is not None])
            except Exception as error:
                self._trouble = f"watch: {self._tracker.name}: {last_line(error)}; left alone"
        try:
            self._tracker.close()
        except Exception as error:
            self._trouble = self._trouble or f"watch: {self._tracker.name}: {last_line(error)}"

    def _do(self, jobs: Sequence[tuple[str, Any]]) -> None:
        """Write down what will be told, then tell it."""
        batches = []
        for kind, arguments in jobs:
            if kind == "tell":
                batches += self._batch(*arguments)
        if batches:
            known = {"results": self._results_id, "epochs": self._told}
            self._file.write_bytes(json.dumps(known).encode())
        for batch in batches:
            self._tracker.tell(batch)
        for kind, arguments in jobs:
            if kind == "attach":
                self._tracker.attach(*arguments)

    def _batch(self, trial: Trial, rows: Sequence[Mapping[str, Any]], ends: bool) -> list[Batch]:
        """What is new of some rows."""
        before = self._told.get(trial.trial_id, -1)
        new = [row for row in rows if row["epoch"] > before]
        if not new:
            return []
        self._told[trial.trial_id] = new[-1]["epoch"]
        run_id = f"{self._results_id}-{trial.trial_id}"
        return [Batch(trial, run_id, new, before < 0, ends)]
