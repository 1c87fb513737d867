"""Sweeps: configuration, plan and run.

Only `connection`, `tune`, `watching`, `jobs` and `aws` import Ray.
"""

from sparseae.sweep.config import Sweep
from sparseae.sweep.runner import Results, run

__all__ = ["Results", "Sweep", "run"]
