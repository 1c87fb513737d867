"""One piece of work: a stack that trains and measures epoch by epoch, with its checkpoints.

Without Ray, so that the Tune trial and the run in one process are the same code.
"""

from __future__ import annotations

import json
import math
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from sparseae.engine.heldout import Quality
from sparseae.engine.measurements import Measurement
from sparseae.engine.products import TORCH
from sparseae.engine.stack import Stack
from sparseae.model.trial import TRAINING_TYPES, Trial
from sparseae.results.location import Location
from sparseae.results.parquet import parse, to_parquet
from sparseae.results.schema import THEORY_UNIT_FIELDS, epoch_schema, unit_schema
from sparseae.theory.terms import Probe, Theory

#: All of a checkpoint: the stack's tensors, the rows so far as the bytes of a Parquet file, and in
#: the header what they are of. One file, so that it is whole or it is not there.
STATE_FILE = "state.safetensors"
_ROWS = "rows"

#: What a kill may cost, in seconds of training, where ``checkpoint_every`` is ``auto``. Saving a
#: stack of 36 members at 784 inputs and 1,000 units (227 MB) takes under a second.
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Checkpoint:
    """A saved piece, whose members can go on in other pieces.

    Attributes:
        location: its folder.
        epoch: the last epoch that its members trained.
        trial_ids: its members, in the order of the tensors' rows.
    """

    location: Location
    epoch: int
    trial_ids: tuple[str, ...]

    @classmethod
    def read(cls, location: Location) -> Checkpoint:
        """Read what a checkpoint holds, not its tensors.

        Raises:
            DamagedCheckpointError: if its header or its length is not what was written.
            OSError: if the storage does not answer.
        """
        file = location / STATE_FILE
        with file.filesystem.open_input_file(file.path) as stream:
            length = stream.size()
            size = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(size, length))
        try:
            described = json.loads(header)
            about = described.pop("__metadata__")
            end = 8 + size + max(part["data_offsets"][1] for part in described.values())
            if end != length:
                raise ValueError(f"it has {length} of {end} bytes")
            return cls(location, int(about["epoch"]), tuple(json.loads(about["trial_ids"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(location, error) from None

    def load(self, data: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Read the stack's tensors and the rows so far.

        Args:
            data: checksum of the data that it must have been trained on.

        Raises:
            DamagedCheckpointError: if a bit is not what was written, or the data are others.
            OSError: if the storage does not answer.
        """
        content = (self.location / STATE_FILE).read_bytes()
        try:
            size = int.from_bytes(content[:8], "little")
            about = json.loads(content[8 : 8 + size])["__metadata__"]
            tensors = load_tensors(content)
            if _checksum(tensors, about) != int(about["checksum"]):
                raise ValueError("its checksum differs")
            if (int(about["epoch"]), tuple(json.loads(about["trial_ids"]))) != (
                self.epoch,
                self.trial_ids,
            ):
                raise ValueError("it was written anew")
            if int(about["data"]) != data:
                raise ValueError("it was trained on other data")
            return tensors, parse(tensors.pop(_ROWS).numpy().tobytes()).to_pylist()
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpointError(self.location, error) from None


class DamagedCheckpointError(ValueError):
    """A checkpoint that nothing can go on from."""

    def __init__(self, location: Location, reason: object) -> None:
        super().__init__(f"checkpoint {location} is damaged: {reason}")


class Piece:
    """A stack of trials on its way from epoch 0 to the last.

    Args:
        trials: the members (see `Stack`).
        x: the prepared data, (N, n).
        device: where to train.
        sweep: the sweep's name, for the rows.
        routine: how a step is computed (`sparseae.engine.choice`).
        theory: whether to measure `sparseae.theory.terms` too.
        tf32: whether a GPU may train with products in TF32.
        heldout: prepared samples that are measured only, (M, n).
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        x: Tensor,
        device: torch.device,
        sweep: str,
        routine: str = TORCH,
        *,
        theory: bool = False,
        tf32: bool = False,
        heldout: Tensor | None = None,
    ) -> None:
        self.trials = tuple(trials)
        self.stack = Stack(trials, x, device, routine=routine, tf32=tf32)
        self.epoch = -1
        self.epochs = trials[0].training.epochs
        #: Every row so far: a checkpoint keeps them, since the driver may not have written them.
        self.rows: list[dict[str, Any]] = []
        self.measurement: Measurement | None = None
        #: What was measured of the theory at ``epoch``.
        self.theory: Theory | None = None
        self._probe = Probe(self.stack) if theory else None
        self._quality = Quality(self.stack, heldout)
        self._sweep = sweep
        self._saved = time.monotonic()

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs

    def advance(self) -> list[dict[str, Any]]:
        """Train the next epoch (none before epoch 0), measure, and return its rows."""
        started = time.perf_counter()
        before = self._theory_now() if self.epoch >= 0 else None
        if self.epoch >= 0:
            self.stack.train_epoch(self.epoch + 1)
        self.epoch += 1
        self.measurement = self.stack.measure()
        self.theory = None
        after = self._theory_now()
        seconds = (time.perf_counter() - started) / len(self.trials)
        rows = self._rows_of(self.measurement, seconds)
        if after is not None:
            columns = after.columns(before)
            for member, row in enumerate(rows):
                if row["status"] == "ok":
                    row |= {name: column[member] for name, column in columns.items()}
        self.rows += rows
        return rows

    def _theory_now(self) -> Theory | None:
        """The theory at this epoch, measured unless it is known: a resumed piece forgot it."""
        if self.theory is None and self._probe is not None:
            self.theory = self._probe.measure(self.epoch)
        return self.theory

    def _rows_of(self, measured: Measurement, seconds: float) -> list[dict[str, Any]]:
        device = self.stack.device_name
        rows = measured.rows()
        for name, values in self._quality.columns(measured).items():
            for row, value in zip(rows, values.tolist(), strict=True):
                if row["status"] == "ok":
                    row[name] = value if math.isfinite(value) else None
        return [
            {
                **trial.values(),
                "sweep": self._sweep,
                "trial_id": trial.trial_id,
                "epoch": self.epoch,
                "samples": self.stack.x.shape[0],
                "epoch_seconds": seconds,
                "device": device,
                **row,
            }
            for trial, row in zip(self.trials, rows, strict=True)
        ]

    def units(self) -> pa.Table:
        """The rows of ``units/`` for every member; of a diverged one the numbers are null."""
        if self.measurement is None:
            self.measurement = self.stack.measure()
        measured, m = self.measurement, self.trials[0].training.hidden_units
        columns: dict[str, Any] = {
            "trial_id": [t.trial_id for t in self.trials for _ in range(m)],
            "unit": list(range(m)) * len(self.trials),
        }
        null = measured.diverged.repeat_interleave(m).numpy()
        for name in ("activation_fraction", "pre_activation_mean", "bias", "weight_norm"):
            values = getattr(measured.units, name).cpu().flatten().numpy()
            columns[name] = pa.array(values, mask=null)
        theory = self._theory_now()
        if theory is not None:
            for f in THEORY_UNIT_FIELDS:
                values = getattr(theory.units, f.name).cpu().flatten().numpy()
                columns[f.name] = pa.array(values, mask=null | ~np.isfinite(values))
        return pa.table(columns, schema=unit_schema(theory=theory is not None))

    def save_weights(self, folder: Location) -> None:
        """Write each member's W (m, n) and b (m,) as TRIAL_ID.safetensors."""
        for member, trial in enumerate(self.trials):
            tensors = {"W": self.stack.W[member], "b": self.stack.b[member]}
            data = save_tensors({k: v.cpu().contiguous() for k, v in tensors.items()})
            (folder / f"{trial.trial_id}.safetensors").write_bytes(data)

    def save(self, folder: Location) -> None:
        """Write a checkpoint: tensors and plain data, nothing that loading could execute."""
        state = {
            name: tensor.cpu().contiguous() for name, tensor in self.stack.state_dict().items()
        }
        schema = epoch_schema(TRAINING_TYPES, theory=self._probe is not None)
        rows = to_parquet(pa.Table.from_pylist(self.rows, schema=schema))
        state[_ROWS] = torch.frombuffer(bytearray(rows), dtype=torch.uint8)
        header = {
            "epoch": str(self.epoch),
            "trial_ids": json.dumps([trial.trial_id for trial in self.trials]),
            "data": str(self._data),
        }
        header["checksum"] = str(_checksum(state, header))
        (folder / STATE_FILE).write_bytes(save_tensors(state, metadata=header))
        self._saved = time.monotonic()

    @cached_property
    def _data(self) -> int:
        return _checksum({"x": self.stack.x}, {})

    def checkpoint_due(self, every: int | str) -> bool:
        """Whether to save now: each ``every`` epochs, at the end, and for ``auto`` by time."""
        if self.finished:
            return True
        if every == "auto":
            return time.monotonic() - self._saved > CHECKPOINT_SECONDS
        return self.epoch > 0 and self.epoch % int(every) == 0

    def load(self, checkpoints: Mapping[str, Checkpoint]) -> str:
        """Go on from the members' checkpoints, all of the same epoch.

        Args:
            checkpoints: by trial_id, one for each member.

        Returns:
            What is wrong with a checkpoint; the piece then begins anew. Empty if all is well.

        Raises:
            OSError: if the storage does not answer.
        """
        tensors, rows = {}, []
        wanted = {trial.trial_id for trial in self.trials}
        try:
            for path, checkpoint in {c.location.path: c for c in checkpoints.values()}.items():
                tensors[path], saved = checkpoint.load(self._data)
                rows += [row for row in saved if row["trial_id"] in wanted]
        except DamagedCheckpointError as error:
            return f"{error}; its {len(self.trials)} trials begin anew"
        members = []
        for trial in self.trials:
            checkpoint = checkpoints[trial.trial_id]
            row = checkpoint.trial_ids.index(trial.trial_id)
            members.append({k: v[row] for k, v in tensors[checkpoint.location.path].items()})
        state = {name: torch.stack([member[name] for member in members]) for name in members[0]}
        self.stack.load_state_dict(state)
        self.rows = rows
        (self.epoch,) = {c.epoch for c in checkpoints.values()}
        self.measurement = self.theory = None
        return ""


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> int:
    """CRC-32 of what a checkpoint says of itself and of its tensors, in the order of the names."""
    plain = {key: value for key, value in about.items() if key != "checksum"}
    checksum = zlib.crc32(json.dumps(plain, sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        flat = tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(flat.data, checksum)
    return checksum


def as_tensor(x: np.ndarray) -> Tensor:
    """The matrix as a tensor without a copy, also where it is a read-only view of shared memory."""
    with warnings.catch_warnings():
        # The engine never writes to the data.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(x)
