"""sparseae: which regularizer, activation and constraint make an auto-encoder sparse?

The names below are loaded when first used, so that ``import sparseae`` needs neither torch nor
Ray, and loading and analysing results never do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sparseae.analysis import check_predictions, plot, trends
    from sparseae.api import run
    from sparseae.results import load, load_units, load_weights
    from sparseae.sweep import Sweep
    from sparseae.trained import TrainedModel, load_model

_HOME = {
    "Sweep": "sparseae.sweep",
    "run": "sparseae.api",
    "load": "sparseae.results",
    "load_units": "sparseae.results",
    "load_weights": "sparseae.results",
    "load_model": "sparseae.trained",
    "TrainedModel": "sparseae.trained",
    "trends": "sparseae.analysis",
    "check_predictions": "sparseae.analysis",
    "plot": "sparseae.analysis",
}

__all__ = [
    "Sweep",
    "TrainedModel",
    "check_predictions",
    "load",
    "load_model",
    "load_units",
    "load_weights",
    "plot",
    "run",
    "trends",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparseae' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
