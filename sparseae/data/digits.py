"""scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np

from sparseae.data.dataset import Raw, Source, subset


class Digits(Source):
    """1,797 real 8x8 digits, part of scikit-learn."""

    name = "digits"
    about = "scikit-learn's handwritten digits, 8x8"
    soften = 0.1

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        return min(samples, 1797), 64

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        from sklearn.datasets import load_digits

        # Ink from 0 to 16; the constant added to the deviation supposes 0 to 1.
        images = np.asarray(load_digits(return_X_y=True)[0], np.float32) / 16
        x = subset(images, samples, data_seed)
        return Raw(x, f"digits: {x.shape[0]:,} handwritten digits of 8x8", image_shape=(8, 8))
