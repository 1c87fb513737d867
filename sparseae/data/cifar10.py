"""CIFAR-10 patches from the official binary batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparseae.data import files
from sparseae.data.dataset import Raw, Source, patches
from sparseae.errors import RequestError

_FOLDER = "cifar-10-batches-bin"
_BATCHES = [f"{_FOLDER}/data_batch_{i}.bin" for i in range(1, 6)]
_TEST = "test_batch.bin"
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CHECKSUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"
#: A label, then 1,024 red, green and blue bytes.
_RECORD = 3073


class CIFAR10(Source):
    """Random 8x8x3 patches of the training images, from the batches that are there."""

    name = "cifar10"
    about = "8x8x3 patches of CIFAR-10's training images (Krizhevsky)"

    def _files(self) -> list[Path]:
        return files.find(self.name, *_BATCHES)

    def where(self) -> str:
        found = self._files()
        if not found:
            return "sparseae data fetch cifar10"
        return f"{found[0].parent} ({len(found)} of 5 batches)"

    def fetch(self) -> str:
        if not self._files():
            files.download(self.name, _URL, _CHECKSUM, unpack=_FOLDER)
        return self.where()

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        return samples, 192

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        self.fetch()
        batches = self._files()
        images = np.concatenate([read_batch(path) for path in batches])
        count = f"{len(batches)} of 5 batches ({images.shape[0]:,} images)"
        return Raw(
            patches(images, samples, data_seed),
            f"cifar10: {samples:,} 8x8x3 patches from {count}",
            {
                "batches": len(batches),
                "images": images.shape[0],
                "files": ", ".join(path.name for path in batches),
            },
            image_shape=(8, 8, 3),
        )

    def test_set(self, most: int, data_seed: int) -> np.ndarray | None:
        """Patches of the test images, where their batch lies beside the others."""
        file = self._files()[0].with_name(_TEST)
        return patches(read_batch(file), most, data_seed) if file.is_file() else None


def read_batch(path: Path) -> np.ndarray:
    """Images of a binary batch, (N, 32, 32, 3) uint8.

    Raises:
        RequestError: where the file is no whole number of records, or holds no labels.
    """
    with files.reading(path):
        data = np.fromfile(path, np.uint8)
    if data.size == 0 or data.size % _RECORD:
        raise RequestError(
            f"{path}: {data.size:,} bytes are not whole records of {_RECORD:,} bytes; "
            "the file is truncated or of another kind"
        )
    records = data.reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise RequestError(f"{path}: is corrupt: a label above 9")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
