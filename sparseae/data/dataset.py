"""What a data set is: raw samples, and how they are prepared for training."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

#: Directions whose variance is below this share of the largest carry no data, only rounding:
#: whitening drops them instead of blowing them up.
_WHITENING_FLOOR = 1e-6


@dataclass(frozen=True)
class Dataset:
    """A data set prepared for training.

    Attributes:
        name: as in the configuration.
        x: the samples, (N, n) float32, C-contiguous, standardized or whitened.
        fingerprint: 16 hex digits of a hash of shape and values.
        description: one line for people.
        details: for the provenance.
        image_shape: (height, width) or (height, width, channels) where a sample is an image.
    """

    name: str
    x: np.ndarray
    fingerprint: str
    description: str
    details: dict[str, Any] = field(default_factory=dict)
    image_shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Raw:
    """Samples as they come: (N, n) of any real type."""

    x: np.ndarray
    description: str
    details: dict[str, Any] = field(default_factory=dict)
    image_shape: tuple[int, ...] | None = None


class Source(ABC):
    """A data set by name. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    about: ClassVar[str]
    #: Added to the standard deviation before dividing by it (footnote 2).
    soften: ClassVar[float] = 0.0

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            SOURCES[cls.name] = cls

    def check(self) -> None:  # noqa: B027 (nothing to check is a good answer)
        """Raise RequestError where the data set cannot be had."""

    def where(self) -> str:
        """Where it comes from, for people."""
        return "comes with the installation"

    def fetch(self) -> str:
        """Bring it to this machine; return where it is."""
        return self.where()

    @abstractmethod
    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        """(samples used of at most ``samples``, inputs), without reading the data."""

    @abstractmethod
    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        """At most ``samples`` samples. Nothing depends on a trial's seed."""

    def prepare(
        self, samples: int, *, whiten: bool, data_seed: int, gaussian_inputs: int
    ) -> Dataset:
        """Load, then standardize or whiten."""
        raw = self.load(samples, data_seed, gaussian_inputs)
        x = whitened(raw.x) if whiten else self.scaled(raw.x)
        x = np.ascontiguousarray(x, dtype=np.float32)
        description = f"{raw.description}, whitened" if whiten else raw.description
        return Dataset(self.name, x, fingerprint(x), description, raw.details, raw.image_shape)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """The samples in the scale that they are trained in."""
        return standardized(x, self.soften)


#: Every named data set.
SOURCES: dict[str, type[Source]] = {}


def standardized(x: np.ndarray, soften: float = 0.0) -> np.ndarray:
    """Per input: subtract the mean, divide by (standard deviation + soften).

    A constant input becomes 0. ``x`` is (N, n); the result is float32.
    """
    mean = x.mean(0, dtype=np.float64)
    # Rounding leaves a constant input a tiny deviation; the range tells that it is constant.
    constant = x.max(0) == x.min(0)
    deviation = x.std(0, dtype=np.float64) + soften
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return (x - mean.astype(np.float32)) * scale.astype(np.float32)


def whitened(x: np.ndarray) -> np.ndarray:
    """ZCA: zero mean and unit covariance (Assumption 1), as near to the samples as can be.

    Directions in which the data do not vary become 0: there the covariance is 0, not 1.
    """
    x = x.astype(np.float64)
    x -= x.mean(0)
    variances, directions = np.linalg.eigh(x.T @ x / x.shape[0])
    kept = variances > _WHITENING_FLOOR * variances[-1]
    if not kept.any() or variances[-1] <= 0:
        return np.zeros_like(x)
    basis = directions[:, kept]
    return x @ (basis / np.sqrt(variances[kept])) @ basis.T


def fingerprint(x: np.ndarray) -> str:
    """16 hex digits of a hash of the prepared matrix."""
    digest = hashlib.sha256(f"{x.shape}{x.dtype.str}".encode())
    digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()[:16]


def subset(x: np.ndarray, samples: int, data_seed: int) -> np.ndarray:
    """``samples`` random rows without repetition; all, in their order, where there are no more."""
    if samples >= x.shape[0]:
        return x
    chosen = np.random.default_rng(data_seed).permutation(x.shape[0])[:samples]
    return x[chosen]


def patches(
    images: list[np.ndarray] | np.ndarray, samples: int, data_seed: int, size: int = 8
) -> np.ndarray:
    """Random square patches of images (height, width, channels), flattened: (samples, n).

    The positions depend on ``data_seed`` alone; fewer samples are the first of more.
    """
    # One draw of three numbers a patch, so that the number of samples shows in no position.
    draws = np.random.default_rng(data_seed).random((samples, 3))
    which = (draws[:, 0] * len(images)).astype(np.int64)
    out = np.empty((samples, size * size * images[0].shape[2]), np.float32)
    if isinstance(images, np.ndarray):
        groups = [(images, np.arange(samples), which)]
    else:  # photographs of different sizes
        groups = []
        for number, image in enumerate(images):
            rows = np.flatnonzero(which == number)
            groups.append((image[None], rows, np.zeros(rows.size, np.int64)))
    for stack, rows, pick in groups:
        height, width = stack.shape[1:3]
        top = (draws[rows, 1] * (height - size + 1)).astype(np.int64)
        left = (draws[rows, 2] * (width - size + 1)).astype(np.int64)
        # (images, rows, columns, channels, size, size) as a view
        windows = np.lib.stride_tricks.sliding_window_view(stack, (size, size), axis=(1, 2))
        out[rows] = windows[pick, top, left].transpose(0, 2, 3, 1).reshape(rows.size, -1)
    return out
