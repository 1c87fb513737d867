"""Running a sweep from Python and from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparseae.cluster.executor import OnRay
from sparseae.errors import RequestError
from sparseae.sweep import runner
from sparseae.sweep.caller import as_it_was
from sparseae.sweep.config import Sweep
from sparseae.sweep.in_process import InProcess
from sparseae.sweep.job import Observer
from sparseae.sweep.runner import Results


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
        observer: is told how it goes on.

    Raises:
        RequestError: if the request is wrong; nothing has started then.
        StorageError: if the results cannot be written any more; the same call goes on later.
    """
    if address and in_process:
        raise RequestError("an address and training in process exclude each other")
    with as_it_was():
        return runner.run(
            source,
            results=results,
            set_values=set_values,
            overwrite=overwrite,
            observer=observer,
            executor=InProcess() if in_process else OnRay(address),
        )
