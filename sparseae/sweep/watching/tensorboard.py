"""TensorBoard: a folder a trial under ``DIR/NAME/tensorboard``, with its parameters as HParams."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from sparseae.results.location import Location
from sparseae.sweep.watching.tracker import Batch, Tracker, measurements

#: The folder of the event files.
FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Event files, written here and, where the results are elsewhere, copied there."""

    name: ClassVar[str] = "tensorboard"

    def __init__(self, sweep: str, location: Location) -> None:
        import tensorboardX.proto.event_pb2  # noqa: F401  (said here where it does not work)

        self._location = location / FOLDER
        self._scratch = None if location.is_local else tempfile.TemporaryDirectory()
        self._root = Path(self._scratch.name if self._scratch else self._location.path)
        self._writers: dict[str, Any] = {}
        self._folders: dict[str, Path] = {}
        self._first = ""

    def tell(self, batch: Batch) -> None:
        from tensorboardX.summary import hparams, scalar

        writer = self._writer(batch)
        if batch.begins:
            plain = {
                key: value if isinstance(value, bool | int | float) else str(value)
                for key, value in batch.parameters.items()
            }
            for summary in hparams(plain, {"activation_fraction": None}):
                writer.add_summary(summary)
        for row in batch.rows:
            for name, value in measurements(row).items():
                writer.add_summary(scalar(name, value), row["epoch"])
        if batch.ends and batch.run_id != self._first:
            self._close(batch.run_id)
        else:
            writer.flush()
            self._copy(batch.run_id)

    def attach(self, summary: str, files: Sequence[Path]) -> None:
        from tensorboardX.summary import text

        if self._first in self._writers:
            self._writers[self._first].add_summary(text("verdicts", summary))

    def close(self) -> None:
        for run_id in list(self._writers):
            self._close(run_id)
        if self._scratch:
            self._scratch.cleanup()

    def _writer(self, batch: Batch) -> Any:
        from tensorboardX.writer import FileWriter

        if batch.run_id not in self._writers:
            name = re.sub(r"[^A-Za-z0-9.=-]+", "_", batch.title)[-120:]
            folder = self._root / f"{name}_{batch.trial.trial_id}"
            self._folders[batch.run_id] = folder
            self._writers[batch.run_id] = FileWriter(str(folder))
            self._first = self._first or batch.run_id
        return self._writers[batch.run_id]

    def _close(self, run_id: str) -> None:
        self._writers.pop(run_id).close()
        self._copy(run_id)

    def _copy(self, run_id: str) -> None:
        """To the results, where these are not on a disk of this machine."""
        if self._scratch is None:
            return
        folder = self._folders[run_id]
        for file in folder.iterdir():
            (self._location / folder.name / file.name).write_bytes(file.read_bytes())
