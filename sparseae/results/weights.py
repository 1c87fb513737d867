"""The weights of a trial: those that were kept, or of its last checkpoint. numpy, no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sparseae.errors import RequestError, first_line
from sparseae.results.location import Location
from sparseae.results.reader import sweeps_in

#: As `sparseae.sweep.piece` writes a checkpoint.
_CHECKPOINT = "state.safetensors"


def load_weights(place: str | Path, trial_id: str) -> dict[str, np.ndarray]:
    """A trial's weights: ``W`` (hidden units, inputs) and ``b`` (hidden units,), float32.

    The final ones where the sweep has ``keep_weights: true``, otherwise those of the trial's last
    checkpoint, which a finished sweep has until its checkpoints are deleted.

    Args:
        place: the sweep's folder or URL, ``DIR/NAME``; or ``DIR``, for every sweep in it.
        trial_id: as in the results.

    Raises:
        RequestError: where there are none or they cannot be read.
    """
    for sweep in sweeps_in(Location.of(place)):
        kept = sweep / "weights" / f"{trial_id}.safetensors"
        if kept.exists():
            tensors, _ = _read(kept)
            return {name: tensors[name] for name in ("W", "b")}
        if (found := _of_checkpoint(sweep, trial_id)) is not None:
            return found
    raise RequestError(
        f"{place}: has no weights of trial {trial_id}, neither kept (keep_weights: true) nor in a "
        "checkpoint"
    )


def _of_checkpoint(sweep: Location, trial_id: str) -> dict[str, np.ndarray] | None:
    """W and b of the furthest checkpoint that has the trial; None where none has."""
    best: tuple[int, Location] | None = None
    for file in (sweep / "checkpoints").files(_CHECKPOINT, recursive=True):
        about = _header(file)
        if trial_id in json.loads(about.get("trial_ids", "[]")):
            epoch = int(about["epoch"])
            if best is None or best[0] < epoch:
                best = epoch, file
    if best is None:
        return None
    tensors, about = _read(best[1])
    row = json.loads(about["trial_ids"]).index(trial_id)
    return {name: tensors[name][row].copy() for name in ("W", "b")}


def _header(file: Location) -> dict[str, str]:
    """The metadata of a safetensors file; empty where it is damaged."""
    with file.filesystem.open_input_file(file.path) as stream:
        size = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(size, stream.size()))
    try:
        about = json.loads(text)["__metadata__"]
        return about if isinstance(about, dict) else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _read(file: Location) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(file.read_bytes()), _header(file)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{file}: cannot be read: {first_line(error)}") from None
