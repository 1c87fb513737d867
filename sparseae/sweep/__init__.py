"""Sweeps: configuration, plan and run. Only `sparseae.sweep.tune` imports Ray."""

from sparseae.sweep.config import Sweep
from sparseae.sweep.runner import Results, run

__all__ = ["Results", "Sweep", "run"]
