"""Weights & Biases: a project and a group of the sweep's name; the key is `wandb login`'s."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from sparseae.results.location import Location
from sparseae.sweep.watching.tracker import Batch, Tracker, measurements


class WandB(Tracker):
    """Runs of a project; the verdicts and the page are artefacts of it."""

    name: ClassVar[str] = "wandb"

    def __init__(self, sweep: str, location: Location) -> None:
        import wandb

        offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
        if not offline and not wandb.login(prompt=False):
            raise ValueError("No W&B API key found: `wandb login`, or WANDB_MODE=offline")
        self._wandb: Any = wandb
        self._sweep = sweep
        self._runs: dict[str, Any] = {}
        #: The first run stays open, because what is known at the end needs one to come from.
        self._first = ""

    def tell(self, batch: Batch) -> None:
        if batch.run_id not in self._runs:
            self._runs[batch.run_id] = self._wandb.init(
                project=self._sweep,
                group=self._sweep,
                id=batch.run_id,
                name=batch.title,
                config={**batch.parameters, "trial_id": batch.trial.trial_id},
                resume="allow",
                reinit="create_new",
                settings=self._settings(),
            )
            self._first = self._first or batch.run_id
        run = self._runs[batch.run_id]
        for row in batch.rows:
            run.log(measurements(row), step=row["epoch"])
        if batch.ends:
            run.summary["status"] = batch.status
            if batch.run_id != self._first:
                self._runs.pop(batch.run_id).finish()

    def attach(self, summary: str, files: Sequence[Path]) -> None:
        if self._first not in self._runs:
            return
        artifact = self._wandb.Artifact(f"{self._sweep}-verdicts", "verdicts", summary)
        for file in files:
            artifact.add_file(str(file))
        self._runs[self._first].log_artifact(artifact)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()

    def _settings(self) -> Any:
        """Without what a run of its own costs: looking at the machine, the code, the console."""
        return self._wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
