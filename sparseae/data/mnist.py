"""MNIST's training images in the official IDX format."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from sparseae.data import files
from sparseae.data.dataset import Raw, Source
from sparseae.errors import RequestError

_FILE = "train-images-idx3-ubyte"
_URL = f"https://ossci-datasets.s3.amazonaws.com/mnist/{_FILE}.gz"
_CHECKSUM = "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"
_IMAGES = 60_000
#: The paper trains on the first 50,000 of the training images.
_TRAINING = 50_000


class MNIST(Source):
    """Handwritten digits, 28x28: the first 50,000 training images, or fewer."""

    name = "mnist"
    about = "handwritten digits, 28x28 (LeCun & Cortes)"
    soften = 0.1

    def _file(self) -> Path | None:
        return files.find(self.name, f"{_FILE}.gz", _FILE)

    def where(self) -> str:
        found = self._file()
        return str(found) if found else "sparseae data fetch mnist"

    def fetch(self) -> str:
        return str(self._file() or files.download(self.name, _URL, _CHECKSUM))

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        return min(samples, _TRAINING), 784

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        images = read_idx_images(Path(self.fetch()))
        if images.shape[0] < min(samples, _TRAINING):
            raise RequestError(f"{self.where()}: holds {images.shape[0]} images of {_IMAGES}")
        x = images[: min(samples, _TRAINING)].reshape(-1, 784).astype(np.float32) / 255
        return Raw(
            x, f"mnist: the first {x.shape[0]:,} training images, 28x28", image_shape=(28, 28)
        )


def read_idx_images(path: Path) -> np.ndarray:
    """Images of an IDX file, gzipped or not: (N, 28, 28) uint8.

    Raises:
        RequestError: where the file is truncated, corrupt or of another kind.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{path}: is truncated or corrupt: {error}") from None
    if len(data) < 16 or int.from_bytes(data[:4], "big") != 2051:
        raise RequestError(f"{path}: is not an IDX file of images (magic number 2051)")
    count, height, width = (int.from_bytes(data[i : i + 4], "big") for i in (4, 8, 12))
    if (height, width) != (28, 28):
        raise RequestError(f"{path}: holds images of {height}x{width}, not 28x28")
    if len(data) - 16 != count * 784:
        raise RequestError(
            f"{path}: should hold {count:,} images ({count * 784 + 16:,} bytes), "
            f"but has {len(data):,} bytes"
        )
    return np.frombuffer(data, np.uint8, offset=16).reshape(count, 28, 28)
