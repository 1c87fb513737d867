"""Data sets, prepared for training. numpy only; one file a data set.

A new one is a class that derives from `Source`, in a file of this folder.
"""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module

from sparseae.data.cifar10 import CIFAR10
from sparseae.data.dataset import SOURCES, Dataset, Source, held_out
from sparseae.data.digits import Digits
from sparseae.data.gaussian import Gaussian
from sparseae.data.matrix import Matrix
from sparseae.data.mnist import MNIST
from sparseae.data.photo_patches import PhotoPatches
from sparseae.errors import RequestError, first_line, named, nearest, shown

__all__ = [
    "CIFAR10",
    "MNIST",
    "SOURCES",
    "Dataset",
    "Digits",
    "Gaussian",
    "Matrix",
    "PhotoPatches",
    "Source",
    "check",
    "prepare",
    "shape",
    "source",
]

for _found in pkgutil.iter_modules(__path__):
    try:
        import_module(f"{__name__}.{_found.name}")
    except RequestError:
        raise
    except Exception as _error:
        _why = f"{type(_error).__name__}: {first_line(_error)}"
        raise RequestError(f"sparseae/data/{_found.name}.py cannot be imported: {_why}") from _error


def source(name: str) -> Source:
    """The data set of this name, or the file at this path.

    Raises:
        RequestError: if there is none.
    """
    if name in SOURCES:
        return SOURCES[name]()
    if "/" in name or name.startswith("~") or name.endswith((".npy", ".parquet")):
        return Matrix(name)
    known = nearest(name, SOURCES)
    hint = f"{known} (or the path of a .npy or .parquet)"
    if name and os.path.exists(name):
        hint = f"the file or folder here is ./{named(name)}"
    raise RequestError(f"unknown data set {shown(name)}; {hint}")


def check(name: str) -> None:
    """Refuse a name or a file that cannot be used, before anything starts.

    Raises:
        RequestError: in one line.
    """
    source(name).check()


def shape(
    name: str, *, samples: int, gaussian_inputs: int = 64, holdout: float = 0.0
) -> tuple[int, int]:
    """(samples trained on, inputs) of a data set, without preparing it.

    Raises:
        RequestError: if it cannot be had in this shape.
    """
    used, inputs = source(name).shape(samples, gaussian_inputs)
    if holdout:
        used -= held_out(used, holdout, name)
        source(name).shape(used, gaussian_inputs)  # too few to be white
    return used, inputs


def prepare(
    name: str,
    *,
    samples: int,
    whiten: bool = False,
    data_seed: int = 0,
    gaussian_inputs: int = 64,
    holdout: float = 0.0,
    standardize: str = "input",
) -> Dataset:
    """Load and prepare a data set.

    Args:
        name: of a data set, or the path of a .npy or .parquet matrix.
        samples: at most so many; a smaller data set is used whole.
        whiten: ZCA after standardization, so that Assumption 1 holds.
        data_seed: of patch positions, random subsets and the gaussian data.
        gaussian_inputs: dimensions of the data set ``gaussian``.
        holdout: share of the samples to hold out; 0 holds out none, and a data set with a test set
            of its own is measured on that.
        standardize: for each ``input`` by its mean and standard deviation over the samples, or for
            each ``sample`` by its own over the inputs.

    Raises:
        RequestError: in one line that names the file and what is wrong with it.
    """
    if samples < 1:
        raise RequestError(f"{name}: samples {samples}: must be 1 or more")
    return source(name).prepare(
        samples,
        whiten=whiten,
        data_seed=data_seed,
        gaussian_inputs=gaussian_inputs,
        holdout=holdout,
        standardize=standardize,
    )
