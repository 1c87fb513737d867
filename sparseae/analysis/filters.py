"""Filters as a picture: the rows of W as images."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from sparseae.analysis.panels import style
from sparseae.errors import RequestError


def filters(W: np.ndarray, image_shape: tuple[int, ...] | None, number: int = 64) -> Figure:
    """The longest filters, each scaled to its own largest entry; 0 is grey.

    Args:
        W: weights (m, n).
        image_shape: (height, width) or (height, width, 3), of n entries together.
        number: at most so many.

    Raises:
        RequestError: if it is not known how a filter is an image, or not so.
    """
    if image_shape is None:
        raise RequestError("filters: how a sample is an image is not known: give image_shape")
    if math.prod(image_shape) != W.shape[1]:
        raise RequestError(f"filters: {W.shape[1]} inputs are no image of {image_shape}")
    longest = np.argsort(-np.linalg.norm(W, axis=1), kind="stable")[:number]
    across = math.ceil(math.sqrt(len(longest)))
    down = math.ceil(len(longest) / across)
    with style():
        figure = Figure(figsize=(0.62 * across, 0.62 * down), layout="constrained")
        for place, unit in enumerate(longest):
            axis = figure.add_subplot(down, across, place + 1)
            image = W[unit].reshape(image_shape)
            scale = np.abs(image).max() or 1.0
            shown = 0.5 + 0.5 * image / scale
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(str(unit), fontsize=5, pad=1)
            axis.set_axis_off()
    return figure
