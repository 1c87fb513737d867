"""MNIST's training images in the official IDX format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from sparseae.data import files
from sparseae.data.dataset import Raw, Source
from sparseae.errors import RequestError

_FILE = "train-images-idx3-ubyte"
_TEST = "t10k-images-idx3-ubyte"
_URL = f"https://ossci-datasets.s3.amazonaws.com/mnist/{_FILE}.gz"
_TEST_URL = f"https://ossci-datasets.s3.amazonaws.com/mnist/{_TEST}.gz"
_CHECKSUM = "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"
_TEST_CHECKSUM = "md5:9fb629c4189551a2d022fa330f9573f3"
_IMAGES = 60_000
#: The paper trains on the first 50,000 of the training images.
_TRAINING = 50_000


class MNIST(Source):
    """Handwritten digits, 28x28: the first 50,000 training images, or fewer."""

    name = "mnist"
    about = "handwritten digits, 28x28 (LeCun & Cortes)"
    #: 0.1 of the pixels' range, 0 to 255.
    soften = 0.1 * 255

    def _files(self) -> list[Path]:
        return files.find(self.name, f"{_FILE}.gz", _FILE)

    def where(self) -> str:
        found = self._files()
        return str(found[0]) if found else "sparseae data fetch mnist"

    def fetch(self) -> str:
        if not self._files():
            files.download(self.name, _TEST_URL, _TEST_CHECKSUM)
            files.download(self.name, _URL, _CHECKSUM)
        return self.where()

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        return min(samples, _TRAINING), 784

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        path = Path(self.fetch())
        images = read_idx_images(path)
        count = min(samples, _TRAINING)
        if images.shape[0] < count:
            raise RequestError(f"{path}: holds {images.shape[0]:,} images of {_IMAGES:,}")
        return Raw(
            images[:count].reshape(count, 784),
            f"mnist: the first {count:,} training images, 28x28",
            {"images": images.shape[0], "files": path.name},
            image_shape=(28, 28),
        )

    def test_set(self, most: int, data_seed: int) -> np.ndarray | None:
        """The first of the 10,000 test images, where their file lies beside the others."""
        folder = self._files()[0].parent
        for file in (folder / f"{_TEST}.gz", folder / _TEST):
            if file.is_file():
                return read_idx_images(file)[:most].reshape(-1, 784)
        return None


def read_idx_images(path: Path) -> np.ndarray:
    """Images of an IDX file, gzipped or not: (N, 28, 28) uint8.

    Raises:
        RequestError: where the file is truncated, corrupt or of another kind.
    """
    with files.reading(path):
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
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
