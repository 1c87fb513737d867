"""Training without Ray: one piece after the other in this process."""

from __future__ import annotations

import torch

from sparseae.errors import RequestError
from sparseae.results.location import Location
from sparseae.sweep.checkpoints import CHECKPOINTS
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Job, Task, drop_older
from sparseae.sweep.piece import Piece, as_tensor
from sparseae.sweep.routines import measured_here, routine_of
from sparseae.sweep.stop import Stop


class InProcess:
    """An executor that trains one piece after the other in this process."""

    def threads(self, sweep: Sweep) -> int:
        return torch.get_num_threads()

    def execute(self, job: Job) -> None:
        stop = Stop()
        with stop.listening(job.recorder.note, alarm=True):
            _execute(job, stop)


def _execute(job: Job, stop: Stop) -> None:
    device = device_of(job.sweep)
    tasks = job.tasks(1)
    if device.type == "cuda":
        job = job.with_cards(tasks, measured_here(job.sweep.tf32))
    for task in tasks:
        try:
            x = as_tensor(job.datasets[task.preparation])
            routine = routine_of(job.routines, task.trials[0], x.shape[1])
            name, theory = job.sweep.name, job.sweep.theory
            held = job.heldout.get(task.preparation)
            piece = Piece(
                task.trials, x, device, name, routine, theory=theory, tf32=job.sweep.tf32,
                heldout=None if held is None else as_tensor(held),
            )  # fmt: skip
            if task.checkpoints and (trouble := piece.load(task.checkpoints)):
                job.recorder.note(trouble)
            _train(job, task, piece, stop)
        except torch.OutOfMemoryError as error:
            job.recorder.out_of_memory(task, str(error))
        except OSError:
            raise  # what one piece cannot write, none can
        except Exception as error:
            job.recorder.failed(task, f"{type(error).__name__}: {error}")
        else:
            job.recorder.finished(task)


def device_of(sweep: Sweep) -> torch.device:
    """Where this process trains a sweep.

    Raises:
        RequestError: if it asks for a GPU, and torch can use none here.
    """
    wanted = sweep.resources.gpu
    if wanted == 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if wanted != "auto":
        raise RequestError(f"resources.gpu: {wanted:g}: torch can use no GPU here")
    return torch.device("cpu")


def _train(job: Job, task: Task, piece: Piece, stop: Stop) -> None:
    kept: list[Location] = []
    rows = list(piece.rows)  # of a checkpoint: the run that saved it may not have written them
    while True:
        stopping = False
        if not piece.finished:
            rows += piece.advance()
            # Asked once a turn: while rows are written it is answered after the next epoch.
            stopping = stop.asked
            if stopping or piece.checkpoint_due(job.sweep.checkpoint_every):
                _save(job, task, piece, kept)
        if piece.finished:
            break
        job.recorder.rows(task, rows)
        rows = []
        if stopping:
            raise KeyboardInterrupt
    if job.sweep.keep_weights:
        piece.save_weights(job.location / "weights")
    job.recorder.rows(task, rows, piece.units())
    if stop.asked:
        raise KeyboardInterrupt


def _save(job: Job, task: Task, piece: Piece, kept: list[Location]) -> None:
    """Write a checkpoint, then delete those that are no longer kept."""
    name = f"in-process_{piece.trials[0].trial_id}"
    kept.append(job.location / CHECKPOINTS / name / f"checkpoint_{piece.epoch:06d}")
    piece.save(kept[-1])
    job.recorder.saved(task, kept[-1], piece.epoch)
    drop_older(kept, job.sweep.keep_checkpoints)
