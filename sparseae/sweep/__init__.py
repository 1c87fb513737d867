"""Sweeps: configuration, plan, and training in process. No Ray."""

from sparseae.sweep.config import Sweep
from sparseae.sweep.runner import Results

__all__ = ["Results", "Sweep"]
