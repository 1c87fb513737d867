"""scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np

from sparseae.data.dataset import Raw, Source, scikit_learn_file, subset


class Digits(Source):
    """1,797 real 8x8 digits, part of scikit-learn."""

    name = "digits"
    about = "scikit-learn's handwritten digits, 8x8"
    #: 0.1 of the ink's range, 0 to 16.
    soften = 0.1 * 16

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        return min(samples, 1797), 64

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        images = np.loadtxt(scikit_learn_file("data/digits.csv.gz"), delimiter=",")[:, :-1]
        x = subset(images, samples, data_seed)
        return Raw(x, f"digits: {x.shape[0]:,} handwritten digits of 8x8", image_shape=(8, 8))
