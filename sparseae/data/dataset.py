"""What a data set is: raw samples, and how they are prepared for training."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparseae.errors import RequestError

#: Directions whose variance is below this share of the largest carry no data, only rounding:
#: whitening drops them instead of blowing them up. Of the built-in data sets mnist comes nearest:
#: its rarest directions have 2e-11, its constant and collinear pixels less than 1e-15.
WHITENING_FLOOR = 1e-12
#: Rows converted to float64 at a time, so that no whole matrix is ever copied in float64.
_BLOCK = 1024
#: Inputs up to which `assumption1` forms the covariance: a second at mnist's 784.
_LARGEST_COVARIANCE = 4096


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class Raw:
    """Samples as they come: (N, n) of any real type; ``details`` goes into the provenance."""

    x: np.ndarray
    description: str
    details: dict[str, Any] = field(default_factory=dict)
    image_shape: tuple[int, ...] | None = None


class Source(ABC):
    """A data set by name. A subclass with a ``name`` registers itself."""

    name: ClassVar[str]
    about: ClassVar[str]
    #: Added to the standard deviation before dividing by it (footnote 2), in the samples' units.
    soften: ClassVar[float] = 0.0
    #: Whether it is whitened as it is drawn.
    whitens: ClassVar[bool] = False

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
        """Load and standardize, then whiten where asked.

        Raises:
            RequestError: also where this machine has no memory for it.
        """
        rows, inputs = self.shape(samples, gaussian_inputs)
        needed = self.memory(samples, gaussian_inputs, whiten=whiten)
        if needed > (free := available_memory()):
            what = f"to whiten {inputs:,} inputs" if self.whitens or whiten else "to prepare"
            raise RequestError(
                f"{self.name}: {rows:,} x {inputs:,}: {what} takes {needed / 1e9:,.0f} GB of "
                f"memory, and {free / 1e9:,.0f} GB are free: take fewer samples or inputs"
            )
        try:
            return self._prepared(samples, whiten, data_seed, gaussian_inputs)
        except MemoryError as error:
            reason = " ".join(str(error).split())
            raise RequestError(
                f"{self.name}: {rows:,} x {inputs:,} does not fit into memory ({reason}): take "
                "fewer samples or inputs"
            ) from None

    def memory(self, samples: int, gaussian_inputs: int, *, whiten: bool) -> int:
        """Bytes that `prepare` takes at its peak.

        The samples as they come and prepared, 12 a value; to whiten, the covariance, the
        eigenvectors, the routine's own two and the product, (n, n) float64 each.
        """
        rows, inputs = self.shape(samples, gaussian_inputs)
        whitening = 5 * 8 * inputs**2 if whiten or self.whitens else 0
        return 12 * rows * inputs + whitening

    def _prepared(
        self, samples: int, whiten: bool, data_seed: int, gaussian_inputs: int
    ) -> Dataset:
        raw = self.load(samples, data_seed, gaussian_inputs)
        x = self.scaled(raw.x)
        if not x.any():
            raise RequestError(f"{raw.description}: no input varies, there is nothing to learn")
        description = raw.description
        if whiten:
            x = whitened(x)
            description += ", whitened"
        details = raw.details | {"assumption1": assumption1(x)}
        return Dataset(self.name, x, fingerprint(x), description, details, raw.image_shape)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """The samples in the scale that they are trained in, (N, n) float32."""
        return standardized(x, self.soften)


#: Every named data set.
SOURCES: dict[str, type[Source]] = {}


def available_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, and of its container."""
    free = [sys.maxsize]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):  # fmt: skip
        limit, taken = "".join(_lines(most)).strip(), "".join(_lines(used)).strip()
        if limit.isdecimal() and taken.isdecimal():
            free.append(max(0, int(limit) - int(taken)))
    return min(free)


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


def standardized(x: np.ndarray, soften: float = 0.0) -> np.ndarray:
    """Per input: subtract the mean, divide by (standard deviation + soften).

    Mean and (population) standard deviation are taken over the samples, in float64. A constant
    input becomes 0. ``x`` is (N, n) of any real type; the result is float32.
    """
    # Relative to the first sample a constant input is exactly 0, where its mean would be off by
    # rounding; and an input far from 0 keeps its digits.
    origin = x[0].astype(np.float64)
    mean = sum(block.sum(0) for _, block in _blocks(x, origin)) / x.shape[0]
    center = origin + mean
    variance = sum(np.square(b - mean).sum(0) for _, b in _blocks(x, origin)) / x.shape[0]
    deviation = np.sqrt(variance)
    constant = deviation == 0
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation + soften))
    out = np.empty(x.shape, np.float32)
    for rows, block in _blocks(x, center):
        out[rows] = block * scale
    return out


def whitened(x: np.ndarray, floor: float = WHITENING_FLOOR) -> np.ndarray:
    """ZCA: zero mean and unit covariance (Assumption 1), as near to the samples as can be.

    With C = U diag(v) U^T the covariance of the N samples (over N, not N - 1), the result is
    (x - mean) U diag(1 / sqrt(v)) U^T, computed in float64. Directions whose variance is at most
    ``floor`` times the largest become 0: there the covariance is 0, not 1. ``x`` is (N, n) of any
    real type; the result is float32.
    """
    zero = np.zeros(x.shape[1])
    mean = sum(block.sum(0) for _, block in _blocks(x, zero)) / x.shape[0]
    covariance = sum(block.T @ block for _, block in _blocks(x, mean)) / x.shape[0]
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > floor * variances[-1]
    basis = directions[:, kept]
    transform = (basis / np.sqrt(variances[kept])) @ basis.T
    out = np.empty(x.shape, np.float32)
    for rows, block in _blocks(x, mean):
        out[rows] = block @ transform
    return out


def _blocks(x: np.ndarray, center: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Pieces of x - center in float64, and their rows."""
    for start in range(0, x.shape[0], _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield rows, x[rows].astype(np.float64) - center


def assumption1(x: np.ndarray) -> dict[str, float]:
    """How far the samples (N, n) are from Assumption 1: E[x] = 0 and E[x x^T] = I.

    ``mean`` is the largest |E[x_i]| and ``covariance`` norm(C - I)_F / norm(I)_F for C = E[x x^T],
    which is left out where C would be very large.
    """
    measured = {"mean": float(np.abs(x.mean(0, dtype=np.float64)).max())}
    if x.shape[1] <= _LARGEST_COVARIANCE:
        gap = (x.T @ x).astype(np.float64) / x.shape[0] - np.eye(x.shape[1])
        measured["covariance"] = float(np.linalg.norm(gap) / x.shape[1] ** 0.5)
    return measured


def fingerprint(x: np.ndarray) -> str:
    """16 hex digits of a hash of the prepared matrix."""
    digest = hashlib.sha256(f"{x.shape}{x.dtype.str}".encode())
    digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()[:16]


def scikit_learn_file(name: str) -> Path:
    """A file below ``sklearn/datasets``, found without importing scikit-learn, which takes 1 s."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise RequestError("this data set is part of scikit-learn, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "datasets" / name


def subset(x: np.ndarray, samples: int, data_seed: int) -> np.ndarray:
    """``samples`` random rows without repetition; all, in their order, where there are no more."""
    if samples >= x.shape[0]:
        return x
    chosen = np.random.default_rng(data_seed).permutation(x.shape[0])[:samples]
    return x[chosen]


def patches(images: np.ndarray, samples: int, data_seed: int, size: int = 8) -> np.ndarray:
    """Random square patches of images (M, height, width, channels), flattened: (samples, n).

    The positions depend on ``data_seed`` alone; fewer samples are the first of more. Drawn with
    repetition: an image and a corner a patch, each uniform.
    """
    count, height, width, channels = images.shape
    # One draw of three numbers a patch, so that the number of samples shows in no position.
    draws = np.random.default_rng(data_seed).random((samples, 3))
    corners = (count, height - size + 1, width - size + 1)
    image, top, left = (draws * corners).astype(np.int64).T
    # (images, rows, columns, channels, size, size) as a view
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    chosen = windows[image, top, left]
    return chosen.transpose(0, 2, 3, 1).reshape(samples, size * size * channels)
