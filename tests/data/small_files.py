"""Small files in the official formats, and what is said of bad ones."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from sparseae import data
from sparseae.errors import RequestError


def idx(count: int = 20) -> bytes:
    """A small IDX file of images."""
    header = b"".join(n.to_bytes(4, "big") for n in (2051, count, 28, 28))
    return header + np.random.default_rng(0).bytes(count * 784)


def batch(images: int = 4, seed: int = 0) -> bytes:
    """A small CIFAR-10 batch."""
    records = np.random.default_rng(seed).integers(0, 256, (images, 3073), np.uint8)
    records[:, 0] %= 10
    return records.tobytes()


def put_mnist(folder: Path, content: bytes | None = None) -> Path:
    file = folder / "mnist" / "train-images-idx3-ubyte.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(idx()) if content is None else content)
    return file


def put_batch(folder: Path, number: int, content: bytes | None = None) -> Path:
    file = folder / "cifar10" / "cifar-10-batches-bin" / f"data_batch_{number}.bin"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(batch(seed=number) if content is None else content)
    return file


def refusal(name: str, **options) -> str:
    """The one line that refuses to prepare a data set."""
    with pytest.raises(RequestError) as caught:
        data.prepare(name, **{"samples": 10} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
