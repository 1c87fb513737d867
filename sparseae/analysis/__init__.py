"""The analysis: trends, predictions, figures and the report. Reads Parquet; no torch, no Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparseae.analysis import theory_predictions  # noqa: F401 (it registers its predictions)
from sparseae.analysis.predictions import check_predictions
from sparseae.analysis.trends import trends

if TYPE_CHECKING:
    from sparseae.analysis import plot

__all__ = ["check_predictions", "plot", "trends"]


def __getattr__(name: str) -> Any:
    if name == "plot":  # matplotlib takes a second to import
        return import_module("sparseae.analysis.plot")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
