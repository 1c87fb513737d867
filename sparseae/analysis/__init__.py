"""The analysis: trends, predictions, figures and the report. Reads Parquet; no torch, no Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparseae.analysis.trends import trends
from sparseae.analysis.verdicts import check_predictions

if TYPE_CHECKING:
    from sparseae.analysis import plot

# They register their predictions, in this order.
for _name in ("predictions", "theory_predictions", "explanations"):
    import_module(f"sparseae.analysis.{_name}")

__all__ = ["check_predictions", "plot", "trends"]


def __getattr__(name: str) -> Any:
    if name == "plot":  # matplotlib takes a second to import
        return import_module("sparseae.analysis.plot")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
