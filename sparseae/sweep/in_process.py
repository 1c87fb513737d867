"""Training without Ray: one piece after the other in this process."""

from __future__ import annotations

import torch

from sparseae.sweep.piece import Piece, as_tensor
from sparseae.sweep.routines import routine_of
from sparseae.sweep.runner import CHECKPOINTS, Job, Task, data_key


def execute(job: Job) -> None:
    """Train the tasks of a job; one that fails leaves the others going on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for task in job.tasks(1):
        try:
            x = as_tensor(job.datasets[data_key(task.trials[0])])
            routine = routine_of(job.routines, task.trials[0], x.shape[1])
            name, theory = job.sweep.name, job.sweep.theory
            piece = Piece(task.trials, x, device, name, routine, theory=theory)
            if task.checkpoints:
                piece.load(task.checkpoints)
                job.recorder.rows(task, piece.rows)
            _train(job, task, piece)
        except Exception as error:
            job.recorder.failed(task, f"{type(error).__name__}: {error}")
        else:
            job.recorder.finished(task)


def _train(job: Job, task: Task, piece: Piece) -> None:
    name = f"in-process_{task.trials[0].trial_id}"
    before = None
    while not piece.finished:
        rows = piece.advance()
        job.recorder.rows(task, rows)
        if piece.checkpoint_due(job.sweep.checkpoint_every):
            folder = job.location / CHECKPOINTS / name / f"checkpoint_{piece.epoch:06d}"
            piece.save(folder)
            if before is not None:
                before.delete_folder()
            before = folder
    if job.sweep.keep_weights:
        piece.save_weights(job.location / "weights")
    job.recorder.rows(task, [], piece.units())
