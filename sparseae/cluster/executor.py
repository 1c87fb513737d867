"""Training on Ray, without importing Ray before it is needed."""

from __future__ import annotations

from sparseae.sweep.caller import as_it_was
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Job


class OnRay:
    """An executor that trains on Ray Tune.

    Args:
        address: of a Ray cluster; without one Ray starts on this machine.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    def threads(self, sweep: Sweep) -> int:
        return max(1, int(sweep.resources.cpu))

    def execute(self, job: Job) -> None:
        from sparseae.cluster.connection import Connection

        with as_it_was(), Connection(self._address) as connection:  # of Ray's loggers too
            from sparseae.cluster.tune import execute  # while Ray starts

            execute(job, connection)
