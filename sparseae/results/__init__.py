"""The results store: Parquet that pandas reads as one table. Neither torch nor Ray."""

from sparseae.results.reader import load, load_units, provenance
from sparseae.results.weights import load_weights

__all__ = ["load", "load_units", "load_weights", "provenance"]
