"""Running a sweep from Python and from the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from sparseae.cluster.executor import OnRay
from sparseae.errors import RequestError
from sparseae.results.location import Location, below
from sparseae.sweep import runner
from sparseae.sweep.caller import as_it_was
from sparseae.sweep.config import Sweep
from sparseae.sweep.in_process import InProcess, device_of
from sparseae.sweep.job import Observer
from sparseae.sweep.runner import Results
from sparseae.sweep.watching import Watcher, together, watchers


def run(
    source: str | Path | Mapping[str, Any] | Sweep,
    *,
    results: str | Path = "results",
    set_values: Sequence[str] = (),
    address: str | None = None,
    in_process: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Results:
    """Train what is left of a sweep and write its results under ``results/NAME``.

    Whatever it sets in this process (environment, loggers, signal handlers, random states) is as
    it was when it returns or raises.

    Args:
        source: a configuration as a path, a mapping or a `Sweep`.
        results: a folder or the URL of one.
        set_values: ``KEY=VALUE`` changes to the configuration.
        address: of a Ray cluster; without one Ray starts on this machine.
        in_process: train here, one piece after the other, without Ray.
        overwrite: delete what a sweep of this name left before.
        observer: is told how it goes on; without one a table in a notebook shows it, a live view
            at a terminal, and plain lines on stderr elsewhere. `Observer()` shows nothing.

    Raises:
        RequestError: if the request is wrong; nothing has started then.
        StorageError: if the results cannot be written any more; the same call goes on later.
    """
    if address and in_process:
        raise RequestError("an address and training in process exclude each other")
    sweep = Sweep.load(source, set_values)
    if in_process:
        device_of(sweep)
    watching = watchers(sweep, Location.of(below(results, sweep.name)))
    done = None
    with as_it_was(), _shown(observer) as heard:
        try:
            done = runner.run(
                sweep,
                results=results,
                overwrite=overwrite,
                observer=together(heard, *watching),
                written=_text(source),
                executor=InProcess() if in_process else OnRay(address),
            )
            return done
        finally:
            if watching:
                _finish(watching, heard, done)


@contextmanager
def _shown(observer: Observer | None) -> Iterator[Observer]:
    """Who shows the run: the one that is given, or what suits the place."""
    if observer is not None:
        yield observer
        return
    from sparseae.notebook import NotebookView, in_notebook

    if in_notebook():
        yield NotebookView()
        return
    from sparseae.cli._console import console
    from sparseae.cli._view import RunView

    with RunView(console(stderr=True)) as view:
        yield cast(Observer, view)


def _text(source: object) -> bytes | None:
    """The file that a configuration was read from; None where it was no file."""
    if isinstance(source, str | Path) and (file := Path(source)).is_file():
        return file.read_bytes()
    return None


def _finish(watching: Sequence[Watcher], observer: Observer, done: Results | None) -> None:
    """Tell the trackers what is left, and of a finished sweep how it came out."""
    summary, files = "", []
    with TemporaryDirectory() as scratch:
        if done is not None and done.trained and not done.interrupted:
            from sparseae.analysis.outcome import outcome

            try:
                summary, files = outcome(done.place, Path(scratch))
            except RequestError as error:  # the rows stay; so do the runs
                observer.note(str(error))
        for one in watching:
            if trouble := one.finish(summary, files):
                observer.note(trouble)
