"""Reconstruction and sparsity as the field reports them, also of samples never trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseae.engine.cuda_graph import precision

if TYPE_CHECKING:
    from sparseae.engine.measurements import Measurement
    from sparseae.engine.stack import Stack

#: Samples of a chunk, as in the measurement of the training set.
_ROWS = 500


class Quality:
    """The fraction of variance explained and L0 of a stack's members, (S,) float64 each.

    Args:
        stack: the members.
        heldout: prepared samples (M, n) that are not trained on; None where there are none.
    """

    def __init__(self, stack: Stack, heldout: Tensor | None) -> None:
        self._stack = stack
        self._variance = _variance(stack.x)
        self._heldout = None
        if heldout is not None:
            self._heldout = heldout.to(stack.x.device, stack.x.dtype)
            self._heldout_variance = _variance(self._heldout)

    def columns(self, measured: Measurement) -> dict[str, Tensor]:
        """The columns of the results; the first two follow from what was measured anyway."""
        units = measured.units.bias.shape[1]
        columns = {
            "explained_variance": 1 - measured.reconstruction_error / self._variance,
            "l0": measured.activation_fraction * units,
        }
        if self._heldout is not None:
            error, active = self._measure(self._heldout)
            columns["heldout_explained_variance"] = 1 - error / self._heldout_variance
            columns["heldout_l0"] = active
        return columns

    @torch.inference_mode()
    def _measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error and active units a sample, means over ``x``, of each member.

        One member after the other, so that its numbers do not depend on its stack.
        """
        stack, s = self._stack, self._stack.problem.activation
        error = torch.zeros(len(stack.trials), dtype=torch.float64)
        active = torch.zeros_like(error)
        with precision(tf32=False):
            for member in range(len(stack.trials)):
                if stack.diverged[member]:
                    continue
                W, b = stack.W[member], stack.b[member]
                squares = count = W.new_zeros((), dtype=torch.float64)
                for rows in x.split(_ROWS):
                    h = s.value(torch.addmm(b, rows, W.T))
                    residual = torch.addmm(rows, h, W, beta=-1)
                    squares = squares + torch.linalg.vector_norm(residual).double().square()
                    count = count + (h > s.threshold).sum()
                error[member] = squares / x.shape[0]
                active[member] = count / x.shape[0]
        return error, active


def _variance(x: Tensor) -> float:
    """The variance of the samples (N, n), summed over the inputs; NaN where nothing varies."""
    mean = x.mean(0, dtype=torch.float64)
    squares = sum(float((rows.double() - mean).square().sum()) for rows in x.split(_ROWS))
    return squares / x.shape[0] or float("nan")
