"""A trained auto-encoder, to encode and decode with: ``sparseae.load_model(DIR, trial_id)``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sparseae.errors import RequestError, nearest
from sparseae.model import ACTIVATIONS
from sparseae.model.trial import AXES, DEFAULTS, TRAINING_TYPES, Training, Trial
from sparseae.results import load, load_weights, provenance
from sparseae.results.location import Location
from sparseae.results.reader import configuration_of, sweeps_in
from sparseae.sweep.config import Sweep
from sparseae.sweep.preparation import Preparation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparseae.data import Dataset

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The encoder h = s(W x + b) and the tied decoder y = W^T h of a trial.

    Attributes:
        trial: its configuration.
        W: (m, n) float32.
        b: (m,) float32.
        image_shape: of a sample, where it is an image: (height, width) or with channels.
    """

    trial: Trial
    W: np.ndarray
    b: np.ndarray
    image_shape: tuple[int, ...] | None = None

    def encode(self, x: Array) -> Array:
        """The code h (..., m) of samples x (..., n), prepared as in training (`dataset`).

        numpy gives numpy in float32; a tensor gives a tensor of its type, on its device.

        Raises:
            RequestError: if x has another number of inputs.
        """
        return self._through(x, self.W.shape[1], lambda t, W, b: self._activation(t @ W.T + b))

    def decode(self, h: Array) -> Array:
        """The reconstruction y = W^T h (..., n) of codes h (..., m)."""
        return self._through(h, self.W.shape[0], lambda t, W, b: t @ W)

    def reconstruct(self, x: Array) -> Array:
        """y (..., n) of samples x (..., n)."""
        return self.decode(self.encode(x))

    def dataset(self) -> Dataset:
        """The data that it was trained on, prepared: ``x`` and, where there is any, ``heldout``."""
        return Preparation.of(self.trial).prepare()

    def filters(self, number: int = 64, image_shape: tuple[int, ...] | None = None) -> Figure:
        """The filters, rows of W, as images: the longest ``number`` of them.

        Raises:
            RequestError: if it is not known how a sample is an image, or not so.
        """
        from sparseae.analysis.filters import filters

        return filters(self.W, image_shape or self.image_shape, number)

    def _activation(self, a: Tensor) -> Tensor:
        return ACTIVATIONS[self.trial.activation]().value(a)

    def _through(self, x: Any, size: int, function: Any) -> Any:
        if x.shape[-1:] != (size,):
            raise RequestError(f"expected (..., {size}), not an array of shape {tuple(x.shape)}")
        if isinstance(x, Tensor):
            W, b = (torch.from_numpy(p).to(x.device, x.dtype) for p in (self.W, self.b))
            return function(x, W, b)
        W, b = torch.from_numpy(self.W), torch.from_numpy(self.b)
        with torch.inference_mode():
            return function(torch.from_numpy(np.asarray(x, np.float32)), W, b).numpy()


def load_model(place: str | Path, trial_id: str) -> TrainedModel:
    """A trial's auto-encoder, from its kept weights or its last checkpoint.

    Args:
        place: the sweep's folder or URL, ``DIR/NAME``; or ``DIR``, for every sweep in it.
        trial_id: as in the results.

    Raises:
        RequestError: if there is no such trial, or its weights are no longer there.
    """
    frame = load(place)
    rows = frame[frame["trial_id"] == trial_id]
    if rows.empty:
        raise RequestError(f"{place}: has no trial {trial_id!r}; {_near(trial_id, frame)}")
    trial = _configured(place, trial_id) or _from_row(rows.iloc[-1].to_dict())
    weights = load_weights(place, trial_id)
    described = provenance(place).get("datasets", {}).get(Preparation.of(trial).label, {})
    shape = described.get("image_shape")
    return TrainedModel(trial, weights["W"], weights["b"], tuple(shape) if shape else None)


def _configured(place: str | Path, trial_id: str) -> Trial | None:
    """The trial as a sweep's configuration has it; None where none that can be read does."""
    for location in sweeps_in(Location.of(place)):
        if (configuration := configuration_of(location)) is None:
            continue
        with suppress(RequestError):  # its data are somewhere else
            for trial in Sweep.load(configuration).trials():
                if trial.trial_id == trial_id:
                    return trial
    return None


def _from_row(values: dict[str, Any]) -> Trial:
    """The trial as a row has it, whose ``samples`` are those that there were."""
    training = {key: _typed(key, values.get(key)) for key in TRAINING_TYPES}
    axes: dict[str, Any] = {axis: values[axis] for axis in AXES}
    axes["seed"] = int(axes["seed"])
    return Trial(**axes, training=Training(**training))


def _typed(key: str, value: Any) -> Any:
    """A training key's value from a row; its default where the rows are older than the key."""
    return DEFAULTS[key] if value is None or value != value else TRAINING_TYPES[key](value)


def _near(trial_id: str, frame: Any) -> str:
    known = frame["trial_id"].unique()
    return nearest(trial_id, known[:5], known)
