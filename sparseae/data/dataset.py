"""What a data set is: raw samples, and how they are prepared for training."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
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
#: Of a data set's own test set one sample is measured for so many trained on: as measuring all
#: training samples takes a quarter of an epoch, it takes some 3 % of one.
TEST_SHARE = 10

#: Brings samples (N, n) of any real type into the scale of those it was made from, as float32.
Scaling = Callable[[np.ndarray], np.ndarray]


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
        heldout: samples that are measured and never trained on, (M, n) float32, prepared with the
            statistics of ``x``; None where there are none.
    """

    name: str
    x: np.ndarray
    fingerprint: str
    description: str
    details: dict[str, Any] = field(default_factory=dict)
    image_shape: tuple[int, ...] | None = None
    heldout: np.ndarray | None = None


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
            for needed in ("about", "shape", "load"):
                if getattr(cls, needed, None) is getattr(Source, needed, None):
                    raise RequestError(f"{cls.__module__}.{cls.__name__}: has no {needed}")
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

    def test_set(self, most: int, data_seed: int) -> np.ndarray | None:
        """At most ``most`` samples of its own test set, raw; None where it has none here."""
        return None

    def prepare(
        self,
        samples: int,
        *,
        whiten: bool,
        data_seed: int,
        gaussian_inputs: int,
        holdout: float = 0.0,
        standardize: str = "input",
    ) -> Dataset:
        """Load, hold samples out, standardize, then whiten where asked.

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
            return self._prepared(samples, whiten, data_seed, gaussian_inputs, holdout, standardize)
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
        self, samples: int, whiten: bool, data_seed: int, gaussian_inputs: int, holdout: float,
        standardize: str,
    ) -> Dataset:  # fmt: skip
        raw = self.load(samples, data_seed, gaussian_inputs)
        if raw.x.shape != (announced := self.shape(samples, gaussian_inputs)):
            raise RequestError(
                f"{self.name}: {type(self).__name__}.load gives {raw.x.shape}, "
                f"{type(self).__name__}.shape says {announced}"
            )
        x, description, details = raw.x, raw.description, dict(raw.details)
        if holdout:
            x, held = split(x, held_out(len(x), holdout, self.name), data_seed)
        else:
            held = self.test_set(max(1, len(x) // TEST_SHARE), data_seed)
        if standardize == "sample":
            scale = standardization_by_sample(self.soften)
            description += ", standardized by sample"
        else:
            scale = self.scaling(x, white=not holdout)
        x = scale(x)
        if not x.any():
            raise RequestError(f"{raw.description}: no input varies, there is nothing to learn")
        held = None if held is None else scale(held)
        if whiten:
            scale = whitening(x)
            x, held = scale(x), None if held is None else scale(held)
            description += ", whitened"
        details |= {"assumption1": assumption1(x)}
        if raw.image_shape:
            details["image_shape"] = list(raw.image_shape)
        if held is not None:
            details["heldout"] = {"samples": len(held), "fingerprint": fingerprint(held)}
        if holdout:
            description += f", {len(held)} held out" if held is not None else ""
        return Dataset(self.name, x, fingerprint(x), description, details, raw.image_shape, held)

    def scaling(self, x: np.ndarray, *, white: bool) -> Scaling:
        """What brings samples into the scale that they are trained in, from those trained on.

        Args:
            x: all samples that are trained on, (N, n).
            white: whether they are as `load` gave them, none held out.
        """
        return standardization(x, self.soften)


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


def held_out(samples: int, share: float, name: str) -> int:
    """How many of the samples a share holds out.

    Raises:
        RequestError: if fewer than one is held out, or fewer than two are left to train on.
    """
    count = round(share * samples)
    if count < 1 or samples - count < 2:
        raise RequestError(f"holdout {share:g} of {samples:,} samples of {name}: leaves too few")
    return count


def split(x: np.ndarray, count: int, data_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples that are trained on, in their order, and ``count`` random ones held out."""
    chosen = np.zeros(len(x), bool)
    chosen[np.random.default_rng([data_seed, 1]).permutation(len(x))[:count]] = True
    return x[~chosen], x[chosen]


def standardized(x: np.ndarray, soften: float = 0.0) -> np.ndarray:
    """``x`` by its own `standardization`."""
    return standardization(x, soften)(x)


def standardization(x: np.ndarray, soften: float = 0.0) -> Scaling:
    """Per input: subtract the mean, divide by (standard deviation + soften).

    Mean and (population) standard deviation are taken over the samples ``x`` (N, n) of any real
    type, in float64. A constant input becomes 0.
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
    return _scaling(center, lambda block: block * scale)


def standardization_by_sample(soften: float = 0.0) -> Scaling:
    """Per sample: subtract its mean over the inputs, divide by (its standard deviation + soften).

    A constant sample becomes 0. What is taken from one sample depends on no other.
    """

    def transform(block: np.ndarray) -> np.ndarray:
        block = block - block[:, :1]  # a constant sample is then exactly 0
        block -= block.mean(1, keepdims=True)
        deviation = block.std(1, keepdims=True)
        return block / np.where(deviation == 0, 1.0, deviation + soften)

    return lambda x: _scaling(np.zeros(x.shape[1]), transform)(x)


def whitened(x: np.ndarray, floor: float = WHITENING_FLOOR) -> np.ndarray:
    """``x`` by its own `whitening`."""
    return whitening(x, floor)(x)


def whitening(x: np.ndarray, floor: float = WHITENING_FLOOR) -> Scaling:
    """ZCA: zero mean and unit covariance (Assumption 1), as near to the samples as can be.

    With C = U diag(v) U^T the covariance of the N samples (over N, not N - 1), the result is
    (x - mean) U diag(1 / sqrt(v)) U^T, computed in float64. Directions whose variance is at most
    ``floor`` times the largest become 0: there the covariance is 0, not 1. ``x`` is (N, n) of any
    real type.
    """
    zero = np.zeros(x.shape[1])
    mean = sum(block.sum(0) for _, block in _blocks(x, zero)) / x.shape[0]
    covariance = sum(block.T @ block for _, block in _blocks(x, mean)) / x.shape[0]
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > floor * variances[-1]
    basis = directions[:, kept]
    transform = (basis / np.sqrt(variances[kept])) @ basis.T
    return _scaling(mean, lambda block: block @ transform)


def _scaling(center: np.ndarray, transform: Scaling) -> Scaling:
    """Samples (N, n) of any real type to transform(x - center), float32, block by block."""

    def scaled(x: np.ndarray) -> np.ndarray:
        out = np.empty(x.shape, np.float32)
        for rows, block in _blocks(x, center):
            out[rows] = transform(block)
        return out

    return scaled


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
