"""White noise, for which Assumption 1 holds exactly."""

from __future__ import annotations

import numpy as np

from sparseae.data.dataset import Raw, Scaling, Source, whitened, whitening
from sparseae.errors import RequestError


class Gaussian(Source):
    """Gaussian noise whose sample mean is 0 and whose sample covariance is I."""

    name = "gaussian"
    whitens = True
    about = "white noise: Assumption 1 holds exactly; any size (gaussian_inputs)"

    def shape(self, samples: int, gaussian_inputs: int) -> tuple[int, int]:
        if samples <= gaussian_inputs:
            raise RequestError(
                f"gaussian: {samples} samples cannot have unit covariance in {gaussian_inputs} "
                "dimensions; samples must be above gaussian_inputs"
            )
        return samples, gaussian_inputs

    def load(self, samples: int, data_seed: int, gaussian_inputs: int) -> Raw:
        shape = self.shape(samples, gaussian_inputs)
        # With samples barely above the inputs the draw is ill-conditioned, but of full rank.
        x = whitened(np.random.default_rng(data_seed).standard_normal(shape), floor=0)
        return Raw(x, f"gaussian: {samples:,} samples of {gaussian_inputs} dimensions")

    def scaling(self, x: np.ndarray, *, white: bool) -> Scaling:
        # White already, exactly, where none is held out; rounding once more would not improve it.
        return (lambda x: x) if white else whitening(x, floor=0)
