"""Patches of scikit-learn's sample photographs."""

from __future__ import annotations

import numpy as np

from sparseae.data.dataset import Raw, Source, patches, scikit_learn_file


class PhotoPatches(Source):
    """Random 8x8x3 patches of the two photographs that come with scikit-learn."""

    name = "photo_patches"
    about = "8x8x3 patches of scikit-learn's two photographs"

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        return samples, 192

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        from PIL import Image

        files = (scikit_learn_file(f"images/{name}.jpg") for name in ("china", "flower"))
        photographs = np.stack([np.asarray(Image.open(file)) for file in files])  # 427 x 640 both
        return Raw(
            patches(photographs, samples, data_seed),
            f"photo_patches: {samples:,} 8x8x3 patches of {len(photographs)} photographs",
            {"images": len(photographs)},
            image_shape=(8, 8, 3),
        )
