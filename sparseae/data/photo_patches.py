"""Patches of scikit-learn's sample photographs."""

from __future__ import annotations

from sparseae.data.dataset import Raw, Source, patches


class PhotoPatches(Source):
    """Random 8x8x3 patches of the two photographs that come with scikit-learn."""

    name = "photo_patches"
    about = "8x8x3 patches of scikit-learn's two photographs"

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        return samples, 192

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        from sklearn.datasets import load_sample_images

        x = patches(list(load_sample_images().images), samples, data_seed)
        x /= 255
        return Raw(
            x, f"photo_patches: {samples:,} 8x8x3 patches of 2 photographs", image_shape=(8, 8, 3)
        )
