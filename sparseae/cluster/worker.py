"""What a Ray worker runs: a Tune trial that trains one stack, epoch by epoch."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import sparseae.cluster.connection  # noqa: F401 (sets what Ray reads at import)

import ray  # isort: skip
import torch
from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from sparseae.cluster.spot import Notice
from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.job import Task
from sparseae.sweep.piece import Checkpoint, DamagedCheckpointError, Piece, as_tensor
from sparseae.sweep.preparation import Preparation
from sparseae.sweep.routines import Choices, routine_of

#: By the number under which the PCI bus knows them.
_CARD_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD"}


class UnusableNodeError(RuntimeError):
    """A node on which no Tune trial can train."""


class LeavingNodeError(RuntimeError):
    """A node that the cloud takes back; what trained there has saved."""


@dataclass(frozen=True)
class Shared:
    """What every Tune trial of a sweep needs, sent once through Ray's object store."""

    sweep: Sweep
    location: Location
    datasets: Mapping[Preparation, np.ndarray]
    heldout: Mapping[Preparation, np.ndarray]
    routines: Choices
    tasks: Packed
    #: Ray runs on this machine alone, which no cloud takes back.
    local: bool


class Packed:
    """Tasks as one array of bytes: Ray shares arrays between the processes of a node.

    In the Tune trials' configurations they would be copied, searched and written as JSON.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        parts = [pickle.dumps(task) for task in tasks]
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([0, *map(len, parts)])

    def __getitem__(self, index: int) -> Task:
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


class StackTrainable(tune.Trainable):
    """A Tune trial: one stack of trials, reporting every epoch. Reused from trial to trial."""

    _shared: Shared

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        if shared is not None:
            self._shared = shared
        resources = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
        self._device, self._warning = _device()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._notice = None if self._shared.local else _notice()
        task, sweep = self._shared.tasks[config["piece"]], self._shared.sweep
        x = as_tensor(self._shared.datasets[task.preparation])
        held = self._shared.heldout.get(task.preparation)
        routine = routine_of(self._shared.routines, task.trials[0], x.shape[1])
        self._unreported: list[dict[str, Any]] = []
        self._trouble, self._warning = self._warning, ""  # of the device once, not in every trial
        self._no_memory = self._leaving = ""
        checkpoints = task.checkpoints
        self._drop()
        try:
            self._piece = Piece(
                task.trials,
                x,
                self._device,
                sweep.name,
                routine,
                theory=sweep.theory,
                tf32=sweep.tf32,
                heldout=None if held is None else as_tensor(held),
            )
            if resume := config.get("resume"):
                checkpoints = self._saved(resume) or checkpoints
            if checkpoints:
                self._load(checkpoints)
        except torch.OutOfMemoryError as error:
            self._no_memory = str(error)

    def _saved(self, path: str) -> dict[str, Checkpoint]:
        """What the last try of this piece has saved; nothing where that is damaged."""
        try:
            saved = Checkpoint.read(Location(self._shared.location.filesystem, path))
        except (DamagedCheckpointError, FileNotFoundError) as error:
            self._trouble = f"{error}; its {len(self._piece.trials)} trials begin anew"
            return {}
        return dict.fromkeys(saved.trial_ids, saved)

    def _load(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        self._trouble = "; ".join(filter(None, [self._trouble, self._piece.load(checkpoints)]))
        # The driver may have died before it wrote these; it knows which it has.
        self._unreported = list(self._piece.rows)

    def _drop(self) -> None:
        """Let go of the piece before, and of its memory."""
        if hasattr(self, "_piece"):
            del self._piece
            if torch.cuda.is_available():
                gc.collect()  # a stack and its parts refer to each other
                torch.cuda.empty_cache()

    def step(self) -> dict[str, Any]:
        """Train and measure the next epoch; without room for it the trial ends, and says so."""
        if self._leaving:  # and it has saved: it said so with its last report
            raise LeavingNodeError(f"the cloud takes this machine back: {self._leaving}")
        try:
            if not self._no_memory:
                return self._advance()
        except torch.OutOfMemoryError as error:
            self._no_memory = str(error)
        self._drop()
        without: dict[str, Any] = {"rows": [], "node": self._node, "no_memory": self._no_memory}
        return without | {SHOULD_CHECKPOINT: False, DONE: True}

    def _advance(self) -> dict[str, Any]:
        piece, shared = self._piece, self._shared
        rows = self._unreported + ([] if piece.finished else piece.advance())
        self._unreported = []
        self._leaving = "" if self._notice is None else self._notice.text
        measured = piece.rows[-len(piece.trials) :]
        result: dict[str, Any] = {
            "epoch": piece.epoch,
            "node": self._node,
            "complete": piece.finished,
            "leaving": self._leaving,
            **_means(measured),
            # A list: of each number in a dictionary Tune would keep a history of its own.
            "members": [
                {name: row.get(name) for name in ("trial_id", "activation_fraction", "dead_units")}
                for row in measured
            ],
            "rows": rows,
            "trouble": self._trouble,
            SHOULD_CHECKPOINT: bool(self._leaving)
            or piece.checkpoint_due(shared.sweep.checkpoint_every),
        }
        self._trouble = ""
        if piece.finished:
            if shared.sweep.keep_weights:
                piece.save_weights(shared.location / "weights")
            result |= {"units": piece.units(), DONE: True}
        return result

    def save(self, checkpoint_dir: str | None = None) -> Any:
        saved = super().save(checkpoint_dir)
        # The driver has them; it would get them again, and keep them as long as the checkpoint.
        for name in ("rows", "units"):
            saved.metrics.pop(name, None)
        return saved

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._piece.save(Location.of(checkpoint_dir))


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the members that have not diverged, for Tune's own displays."""
    sound = [row for row in rows if row["status"] == "ok"]
    if not sound:
        return {"activation_fraction": float("nan"), "dead_units": float("nan")}
    return {
        name: sum(row[name] for row in sound) / len(sound)
        for name in ("activation_fraction", "dead_units")
    }


def _device() -> tuple[torch.device, str]:
    """Where to train, and what is wrong with that.

    Raises:
        UnusableNodeError: where the machine has a GPU that torch cannot use: trained on its CPU, it
            would cost a GPU's price. A GPU that is none, but was told to Ray, costs nothing.
    """
    if not ray.get_gpu_ids():
        return torch.device("cpu"), ""
    if torch.cuda.is_available():
        return torch.device("cuda"), ""
    why = f"Ray assigned a GPU that torch {torch.__version__} cannot use"
    if card := real_gpu():
        raise UnusableNodeError(f"{why} (is the driver too old?); the machine has one: {card}")
    node = ray.util.get_node_ip_address()
    return torch.device("cpu"), f"{node}: {why}; the machine has none: it trains on the CPU"


def real_gpu(devices: Path = Path("/sys/bus/pci/devices")) -> str:
    """A graphics card of NVIDIA's or AMD's on this machine's bus, also one without a driver."""
    for device in sorted(devices.glob("*")):
        try:
            kind, vendor = ((device / name).read_text().strip() for name in ("class", "vendor"))
        except OSError:
            continue
        if kind.startswith(("0x0300", "0x0302", "0x0380", "0x1200")) and vendor in _CARD_VENDORS:
            return f"{_CARD_VENDORS[vendor]} at {device.name}"
    return ""


@lru_cache
def _notice() -> Notice:
    """One for each process."""
    return Notice()
