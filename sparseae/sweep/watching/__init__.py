"""Trackers that a configuration names under ``watch:`` get one run a trial, whoever trains it.

What they hear is the rows that the recorder gets, in the process that started the sweep, so that a
stack of 36 trials is 36 runs, on Ray as without it. A new tracker is a `Tracker` in a file here,
named in `TRACKERS`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from sparseae.errors import RequestError, last_line
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.watching.tracker import Tracker, Watcher, together

__all__ = ["TRACKERS", "Tracker", "Watcher", "together", "watchers"]

#: The tracker's name in a configuration to the class that it is, and the package that it needs.
TRACKERS: dict[str, tuple[str, str]] = {
    "tensorboard": ("sparseae.sweep.watching.tensorboard.TensorBoard", "tensorboardX"),
    "mlflow": ("sparseae.sweep.watching.mlflow.MLflow", "mlflow"),
    "wandb": ("sparseae.sweep.watching.wandb.WandB", "wandb"),
}


def watchers(sweep: Sweep, location: Location) -> list[Watcher]:
    """One for each tracker that the configuration names, ready to hear.

    Args:
        sweep: the configuration.
        location: the sweep's folder, ``DIR/NAME``.

    Raises:
        RequestError: where one of them is not installed, or refuses: no key, no server.
    """
    return [_ready(name, sweep, location) for name in sweep.watch]


def _ready(name: str, sweep: Sweep, location: Location) -> Watcher:
    place, package = TRACKERS[name]
    if find_spec(package) is None:
        raise RequestError(
            f"watch: {name} is not installed where the sweep runs: pip install 'sparseae[{name}]'"
        )
    module, kind = place.rsplit(".", 1)
    try:
        tracker: Tracker = getattr(import_module(module), kind)(sweep.name, location)
    except Exception as error:  # whatever the tracker's own library raises
        raise RequestError(f"watch: {name}: {last_line(error)}") from None
    return Watcher(tracker, location)
