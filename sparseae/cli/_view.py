"""What a person sees while a sweep runs: one bar and the trials in flight, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sparseae.cli._console import NARROWEST, one_line
from sparseae.sweep.progress import Outlook
from sparseae.sweep.progress import Progress as SweepProgress

if TYPE_CHECKING:
    from sparseae.model.trial import Trial
    from sparseae.sweep.config import Sweep
    from sparseae.sweep.job import Task

#: Tune trials shown at once; more than that is no longer read.
_SHOWN = 12

#: Without a terminal: a line at most this often.
_LINE_SECONDS = 10.0


class RunView:
    """Shows a run (`sparseae.sweep.job.Observer`). Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        wide = console.width >= NARROWEST
        self._terminal = console.is_terminal and not console.is_dumb_terminal and wide
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} epochs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False, compact=True),
            console=console,
            expand=True,
        )
        self._bar = self._progress.add_task("waiting", total=1)
        self._live: Live | None = None
        self._in_flight: dict[int, tuple[Task, Sequence[Mapping[str, Any]]]] = {}
        self._seen: dict[str, int] = {}
        self._diverged: set[str] = set()
        self._spoke = time.monotonic()
        self._outlook = Outlook(0)
        self._total = self._done = 0
        self._before = SweepProgress(0, 0, 0, 0)
        self._trials_done = 0

    def __enter__(self) -> RunView:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.update(self._progress)
            self._live.stop()

    def started(self, sweep: Sweep, left: Sequence[Trial], tasks: Sequence[Task]) -> None:
        total = len(sweep.trials())
        done = total - len(left)
        self._total = sum(trial.training.epochs + 1 for trial in left)
        self._done = self._trials_done = 0
        epochs = sum(trial.training.epochs + 1 for trial in sweep.trials())
        self._before = SweepProgress(done, total, epochs - self._total, epochs)
        if not left:
            self.note(f"{sweep.name}: all {total:,} trials are finished, nothing to train")
            self._say(self._before)
            return
        onward = sum(len(task.checkpoints) for task in tasks)
        found = [f"{done:,} of {total:,} finished before"] if done else []
        found += [f"{onward:,} go on from checkpoints"] if onward else []
        resumed = f" ({', '.join(found)})" if found else ""
        self.note(f"{sweep.name}: {len(left):,} trials in {len(tasks):,} Tune trials{resumed}")
        self._say(self._before)
        self._outlook = Outlook(self._total)
        self._progress.update(self._bar, total=self._total, description=sweep.name)
        if self._terminal:
            self._live = Live(self._progress, console=self._console, refresh_per_second=4)
            self._live.start()

    def _say(self, progress: SweepProgress) -> None:
        """Without a terminal, the line that `sparseae status` reads."""
        if not self._terminal:
            self.note(str(progress))

    def note(self, message: str, word: str = "", colour: str = "") -> None:
        """Print a line, with a coloured word before it."""
        line = Text.assemble((word, colour), one_line(message))
        self._console.print(line, soft_wrap=True)

    def stalled(self, message: str) -> None:
        if self._total:
            self._say(replace(self._progress_now(), seconds_left=None))
        self.note(message)

    def rows(self, task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            trial_id, epoch = row["trial_id"], row["epoch"]
            if epoch > self._seen.get(trial_id, -1):
                self._done += epoch - self._seen.get(trial_id, -1)
                self._seen[trial_id] = epoch
            if row["status"] == "diverged" and trial_id not in self._diverged:
                self._diverged.add(trial_id)
                where = f"sigma2={row['sigma2']:g} seed={row['seed']}"
                self.note(f" at epoch {epoch}: {task.label} {where}", "diverged", "yellow")
        self._outlook.reached(self._done)
        if rows:
            self._in_flight[task.index] = (task, rows[-len(task.trials) :])
        self._show()

    def finished(self, task: Task) -> None:
        self._in_flight.pop(task.index, None)
        self._trials_done += len(task.trials)
        self._show()

    def failed(self, task: Task, message: str) -> None:
        self._in_flight.pop(task.index, None)
        self.note(f": {task.label} ({len(task.trials)} trials): {message}", "failed", "red")
        self._show()

    def _show(self) -> None:
        self._progress.update(self._bar, completed=self._done)
        if self._live is not None:
            self._live.update(Group(self._table(), self._progress))
        elif self._total and (
            not self._in_flight or time.monotonic() - self._spoke > _LINE_SECONDS
        ):
            self._spoke = time.monotonic()
            self._say(self._progress_now())

    def _progress_now(self) -> SweepProgress:
        """Of the whole sweep, what was finished before this run included."""
        return replace(
            self._before,
            trials=self._before.trials + self._trials_done,
            epochs=self._before.epochs + self._done,
            seconds_left=self._outlook.seconds_left,
        )

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("training", no_wrap=True, ratio=1)
        table.add_column("trials", justify="right")
        table.add_column("epoch", justify="right")
        table.add_column("active", justify="right")
        table.add_column("dead units", justify="right")
        for task, rows in list(self._in_flight.values())[:_SHOWN]:
            sound = [row for row in rows if row["status"] == "ok"]
            epoch = f"{rows[-1]['epoch']}/{task.trials[0].training.epochs}"
            table.add_row(
                task.label,
                str(len(task.trials)),
                epoch,
                _span([row["activation_fraction"] for row in sound], "{:.3f}"),
                _span([row["dead_units"] for row in sound], "{:d}"),
            )
        if (more := len(self._in_flight) - _SHOWN) > 0:
            table.add_row(f"and {more} more", "", "", "", "")
        return table


def _span(values: Sequence[float], form: str) -> str:
    """The smallest and largest of the members' values."""
    if not values:
        return "-"
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
