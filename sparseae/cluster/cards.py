"""What a cluster's cards do for a sweep's steps, measured on one of them: a head has none."""

from __future__ import annotations

import sparseae.cluster.connection  # noqa: F401 (sets what Ray reads at import)

import ray  # isort: skip
import torch
from ray.exceptions import RayError

from sparseae.cluster.placement import Placement
from sparseae.errors import first_line
from sparseae.sweep.job import Job
from sparseae.sweep.routines import Measure, Stacks, measured_here
from sparseae.sweep.stop import Stop

#: Seconds between two looks at whether a stop was asked for.
_TURN = 0.5


@ray.remote(max_retries=2)
def _measured(stacks: Stacks, tf32: bool) -> list[str]:
    if not torch.cuda.is_available():  # what Ray was told is a card and is none
        return [""] * len(stacks)
    return list(measured_here(tf32)(stacks))


def measured_there(job: Job, placement: Placement, stop: Stop) -> Measure:
    """Measures on a card of the cluster, once one is up, as a Tune trial would have it.

    Where that fails torch makes the steps, which is said.
    """

    def measure(stacks: Stacks) -> list[str]:
        wanted = placement.request(on_gpu=True)
        asked = _measured.options(num_cpus=wanted["CPU"], num_gpus=wanted["GPU"]).remote(
            stacks, job.sweep.tf32
        )
        try:
            while not ray.wait([asked], timeout=_TURN)[0]:
                if stop.asked:
                    ray.cancel(asked, force=True)
                    raise KeyboardInterrupt
            return ray.get(asked)
        except RayError as error:
            why = first_line(error)
            job.recorder.note(f"torch makes the cards' steps: none could be measured ({why})")
            return [""] * len(stacks)

    return measure
