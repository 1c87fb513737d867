"""A sweep that runs in a notebook: one table that changes in its place. No widget is needed."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparseae.sweep.job import Observer

if TYPE_CHECKING:
    from sparseae.model.trial import Trial
    from sparseae.sweep.config import Sweep
    from sparseae.sweep.job import Task

#: Seconds between two pictures, and the Tune trials that one has.
_SECONDS, _SHOWN = 0.5, 12


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel, whose front end shows HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookView(Observer):
    """Shows a run: how far it is, and the pieces in flight."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._name = ""
        self._total = self._done = 0
        self._latest: dict[str, int] = {}
        self._in_flight: dict[int, tuple[Task, Sequence[Mapping[str, Any]]]] = {}
        self._notes: list[str] = []
        self._began = self._shown = time.monotonic()

    def started(self, sweep: Sweep, left: Sequence[Trial], tasks: Sequence[Task]) -> None:
        self._name, self._began = sweep.name, time.monotonic()
        self._total = sum(t.training.epochs + 1 for t in left)
        self._done = 0
        self._show(now=True)

    def note(self, message: str) -> None:
        self._notes.append(message)
        self._show(now=True)

    def rows(self, task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            before = self._latest.get(row["trial_id"], -1)
            self._done += max(0, row["epoch"] - before)
            self._latest[row["trial_id"]] = max(before, row["epoch"])
        if rows:
            self._in_flight[task.index] = (task, rows[-len(task.trials) :])
        self._show()

    def finished(self, task: Task) -> None:
        self._in_flight.pop(task.index, None)
        self._show(now=not self._in_flight)

    def failed(self, task: Task, message: str) -> None:
        self._in_flight.pop(task.index, None)
        self.note(f"failed: {task.label} ({len(task.trials)} trials): {message}")

    def _show(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._shown < _SECONDS:
            return
        self._shown = time.monotonic()
        from IPython.display import HTML, display

        picture = HTML(self._html())
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)

    def _html(self) -> str:
        share = self._done / self._total if self._total else 1.0
        elapsed = time.monotonic() - self._began
        left = f", {elapsed * (1 / share - 1):.0f} s left" if 0.02 < share < 1 else ""
        head = (
            f"<b>{html.escape(self._name)}</b>: {self._done:,}/{self._total:,} epochs "
            f"<progress value='{share:.3f}'></progress> {elapsed:.0f} s{left}"
        )
        rows = [
            (
                task.label,
                f"{len(task.trials)}",
                f"{measured[-1]['epoch']}/{task.trials[0].training.epochs}",
                _span([r["activation_fraction"] for r in measured if r["status"] == "ok"]),
            )
            for task, measured in list(self._in_flight.values())[:_SHOWN]
        ]
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self._notes[-5:])
        return (
            head + (table(("training", "trials", "epoch", "active"), rows) if rows else "") + notes
        )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML; its cells are text."""
    head = "".join(f"<th>{html.escape(h)}</th>" for h in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _span(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"
