"""Running a sweep: what is left to do, the data, the pieces, and the results they leave."""

from __future__ import annotations

import html
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseae import data
from sparseae.errors import RequestError, StorageError, first_line
from sparseae.model.trial import TRAINING_TYPES, Trial
from sparseae.results.location import Location, below
from sparseae.results.lock import Check, only_run
from sparseae.results.store import Store
from sparseae.sweep.checkpoints import Checkpoints
from sparseae.sweep.config import Sweep, difference
from sparseae.sweep.deadline import deadline
from sparseae.sweep.extension import as_asked
from sparseae.sweep.job import Executor, Job, Observer, Recorder, Task
from sparseae.sweep.notify import Notifier, is_reference
from sparseae.sweep.overwrite import clear, require_ours
from sparseae.sweep.piece import Checkpoint
from sparseae.sweep.plan import StackPlan, cut, stacks
from sparseae.sweep.preparation import Preparation, described, prepared, require_same_data
from sparseae.sweep.provenance import provenance
from sparseae.sweep.routines import chosen, shape_of

if TYPE_CHECKING:
    import pandas as pd


#: Curves that a notebook shows of a sweep at its end.
_SHOWN = 48


@dataclass(frozen=True)
class Results:
    """What a run left behind.

    Attributes:
        place: the sweep's folder or URL, ``DIR/NAME``.
        trials: trials of the sweep.
        trained: trials that this run trained or went on with.
        failed: trials that did not finish, each with its reason.
        interrupted: the run was stopped before it was through.
        saved: trials that did not finish, and go on from a checkpoint when the sweep is run again.
    """

    place: str
    trials: int
    trained: int
    failed: Mapping[str, str]
    interrupted: bool = False
    saved: int = 0

    @property
    def frame(self) -> pd.DataFrame:
        """The epochs as a DataFrame (`sparseae.load`); without a row where every trial failed."""
        from sparseae.results.reader import has_epochs, load, no_epochs

        return load(self.place) if has_epochs(self.place) else no_epochs(TRAINING_TYPES)

    def _repr_html_(self) -> str:
        """In a notebook: what was trained, and the final activation fractions along sigma2."""
        last = self.last
        words = f"{self.trials:,} trials, {self.trained:,} trained now"
        words += f", {len(self.failed):,} failed" if self.failed else ""
        words += ", stopped before the end" if self.interrupted else ""
        head = f"<b>{html.escape(self.place)}</b>: {words}"
        if last.empty:
            return head
        wide = last.pivot_table(
            index=["dataset", "constraint", "activation", "model"],
            columns="sigma2",
            values="activation_fraction",
            aggfunc="mean",
        )
        note = "final activation fractions along sigma2, means over seeds"
        return f"{head}<br>{note}{wide.head(_SHOWN).to_html(float_format='{:.3f}'.format)}"

    @property
    def last(self) -> pd.DataFrame:
        """Of each trial the row of its last epoch, and no other in memory."""
        from sparseae.results.reader import has_epochs, load_last, no_epochs

        return load_last(self.place) if has_epochs(self.place) else no_epochs(TRAINING_TYPES)


def run(
    source: str | Path | Mapping[str, Any] | Sweep,
    *,
    results: str | Path = "results",
    set_values: Sequence[str] = (),
    overwrite: bool = False,
    observer: Observer | None = None,
    written: bytes | None = None,
    executor: Executor,
) -> Results:
    """Train what is left of a sweep and write its results under ``results/NAME``.

    Args:
        source: a configuration as a path, a mapping or a `Sweep`.
        results: a folder or the URL of one.
        set_values: ``KEY=VALUE`` changes to the configuration.
        overwrite: delete what a sweep of this name left before.
        observer: is told how it goes on.
        written: the configuration as its file has it, to be kept beside what it resolves to.
        executor: trains.

    Raises:
        RequestError: if the request is wrong; nothing has started then.
        StorageError: if the results cannot be written any more; the same call goes on later.
    """
    sweep = Sweep.load(source, set_values)
    place = below(results, sweep.name)
    location = Location.of(place)
    observer = observer or Observer()
    try:
        if overwrite:
            require_ours(location)
        else:
            sweep = as_asked(location, sweep)
            _require_continuable(location, sweep)
    except OSError as error:
        raise RequestError(f"{location}: cannot be read: {first_line(error)}") from None
    notifier = Notifier(sweep.notify, sweep.name, observer.note)
    datasets = prepared(sweep.trials())
    with (
        deadline(sweep.max_hours, observer.note),
        only_run(location, observer.note, sweep.storage_patience) as check,
    ):
        try:
            if overwrite:
                clear(location)
            else:
                _require_continuable(location, sweep)  # again: it may have run in the meantime
                require_same_data(location, described(datasets))
            if written is not None and (sweep.notify is None or is_reference(sweep.notify)):
                (location / "sweep.source.yaml").write_bytes(written)
            left = _train(sweep, place, datasets, observer, check, executor, notifier)
        except OSError as error:
            lost = StorageError(
                f"{location}: cannot be written ({first_line(error)}); "
                "once it can, the same command goes on"
            )
            notifier.ended(str(lost))
            raise lost from error
        except Exception as error:
            notifier.ended(f"stopped: {first_line(error)}")
            raise
    notifier.ended(_summary(left), trials=left.trials, unfinished=len(left.failed))
    return left


def _summary(results: Results) -> str:
    """How a run ended, in some words."""
    if not results.failed:
        return f"all {results.trials:,} trials are finished"
    words = "stopped with" if results.interrupted else "ended with"
    reason = "" if results.interrupted else f": {next(iter(results.failed.values()))}"
    return f"{words} {len(results.failed):,} of {results.trials:,} trials unfinished{reason}"


def _train(
    sweep: Sweep,
    place: str,
    datasets: Mapping[Preparation, data.Dataset],
    observer: Observer,
    check: Check,
    executor: Executor,
    notifier: Notifier,
) -> Results:
    """Train what is left; the request is known to be sound."""
    location = Location.of(place).patient(sweep.storage_patience)
    trials = sweep.trials()

    def inputs_of(trial: Trial) -> int:
        return datasets[Preparation.of(trial)].x.shape[1]

    shapes = {shape_of(t, inputs_of(t)) for t in trials}
    threads = executor.threads(sweep)
    began = (location / "epochs").exists()
    routines = chosen(location, shapes, threads, observer.note)
    origin = provenance(described(datasets), routines, sweep.tf32, threads)
    origin |= {"note": sweep.note, "tags": json.dumps(sweep.tags)}
    store = Store(location, TRAINING_TYPES, origin, check, theory=sweep.theory)
    (location / "sweep.yaml").write_bytes(sweep.text().encode())
    for name in store.put_aside:
        observer.note(f"{name} could not be read and was put aside; its rows are trained again")

    saved = _with_saved_weights(location) if sweep.keep_weights else {t.trial_id for t in trials}
    left = [
        t
        for t in trials
        if not store.is_complete(t.trial_id, t.training.epochs) or t.trial_id not in saved
    ]
    checkpoints = Checkpoints(location, sweep, observer.note, look=bool(left))
    found = checkpoints.best()

    def tasks(workers: int, gpu: bool = False) -> Sequence[Task]:
        made = _tasks(sweep, left, found, workers, gpu)
        observer.started(sweep, left, made)
        return made

    recorder = Recorder(store, observer, checkpoints, notifier)
    job = Job(
        sweep=sweep,
        location=location,
        tasks=tasks,
        datasets={preparation: d.x for preparation, d in datasets.items()},
        heldout={p: d.heldout for p, d in datasets.items() if d.heldout is not None},
        routines=routines,
        began=began,
        recorder=recorder,
    )
    interrupted = False
    try:
        if left:
            executor.execute(job)
            if recorder.too_large:
                executor.execute(_second_try(job, observer, checkpoints))
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
    if left:
        checkpoints.close()  # drops those that were gone on from
    missing = [t for t in left if not store.is_complete(t.trial_id, t.training.epochs)]
    unexplained = [t for t in missing if t.trial_id not in recorder.failures]
    resumable = checkpoints.best().keys()
    return Results(
        place=place,
        trials=len(trials),
        trained=len(left) - len(missing),
        failed={t.trial_id: recorder.failures.get(t.trial_id, "not finished") for t in missing},
        # Tune returns as if all were well after Ctrl-C.
        interrupted=interrupted or bool(unexplained),
        saved=sum(t.trial_id in resumable for t in missing),
    )


def _second_try(job: Job, observer: Observer, checkpoints: Checkpoints) -> Job:
    """The stacks that had no room, each in two parts, from their checkpoints."""
    large, job.recorder.too_large = job.recorder.too_large, []
    checkpoints.refresh()
    found = checkpoints.best()
    halves = [part.trials for task in large for part in StackPlan(task.trials).split(2)]
    observer.note(f"{len(large)} stacks were too large: tried again as {len(halves)} smaller ones")
    job.recorder.last_try = True
    tasks = [_task(index, trials, found) for index, trials in enumerate(halves)]
    return replace(job, tasks=lambda workers, gpu=False: tasks)


def _require_continuable(location: Location, sweep: Sweep) -> None:
    """Refuse to mix a sweep with the results of another one of its name."""
    file = location / "sweep.yaml"
    if not file.exists():
        return
    try:
        earlier = Sweep.recorded(file.read_bytes(), str(file))
    except RequestError as error:
        raise RequestError(
            f"{error}; that is the record of the sweep there: put back what it was, or give this "
            "sweep another name (--set name=NAME)"
        ) from None
    if changed := difference(earlier, sweep):
        raise RequestError(
            f"{location} holds another sweep of this name: {'; '.join(changed)}"
            f" (--set name={_free(location, sweep.name)} keeps both; --overwrite deletes it)"
        )


def _free(location: Location, name: str) -> str:
    """A name near this one that no sweep beside it has."""
    beside = Location(location.filesystem, location.path.rsplit("/", 1)[0])
    return next(n for i in itertools.count(2) if not (beside / (n := f"{name}-{i}")).exists())


def _with_saved_weights(location: Location) -> set[str]:
    """Trials whose final weights are kept."""
    suffix = ".safetensors"
    return {file.name.removesuffix(suffix) for file in (location / "weights").files(suffix)}


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
