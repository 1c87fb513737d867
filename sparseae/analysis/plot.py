"""Figures: pure functions from a DataFrame to a matplotlib Figure.

Colours are Okabe and Ito's, which the colour-blind can tell apart; markers and line styles repeat
the distinction for print.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseae.analysis.curves import Curve, curves, trial_table
from sparseae.errors import RequestError

#: Colour, marker and line of each model.
_STYLES = {
    "ae": ("#000000", "x", ":"),
    "dae": ("#0072B2", "o", "-"),
    "cae": ("#D55E00", "s", "--"),
    "mdae": ("#009E73", "^", "-."),
    "sae": ("#CC79A7", "D", "-"),
    "edae": ("#E69F00", "v", "--"),
}
_OTHERS = [("#56B4E9", "P", "-"), ("#999999", "*", "--"), ("#F0E442", "h", "-.")]

#: More panels a row than this are no longer read.
_MOST_PANELS = 4

_RC = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searchable, and the page's size stays small
    "svg.hashsalt": "sparseae",  # the same figure is the same file
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the suffix tells the format."""
    import matplotlib as mpl

    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context(_RC):
        figure.savefig(path, dpi=160, metadata=metadata)


def figure1(frame: pd.DataFrame) -> Figure:
    """Figure 1: relu, weights of length one."""
    return by_sigma2(frame, "relu", "unit_norm", ("dae", "cae", "mdae", "sae"), "Figure 1")


def figure2(frame: pd.DataFrame) -> Figure:
    """Figure 2: relu, free weights."""
    return by_sigma2(frame, "relu", "none", ("dae", "cae", "mdae", "sae"), "Figure 2")


def figure3(frame: pd.DataFrame) -> Figure:
    """Figure 3: the first-order term alone, relu, weights of length one."""
    return by_sigma2(frame, "relu", "unit_norm", ("edae",), "Figure 3")


def figure4(frame: pd.DataFrame) -> Figure:
    """Figure 4: sigmoid, weights of length one."""
    return by_sigma2(frame, "sigmoid", "unit_norm", ("dae", "cae", "mdae", "sae"), "Figure 4")


def figure5(frame: pd.DataFrame) -> Figure:
    """Figure 5: sigmoid, free weights."""
    return by_sigma2(frame, "sigmoid", "none", ("dae", "cae", "mdae", "sae"), "Figure 5")


#: The paper's figures by name.
PAPER = {
    "figure1": figure1,
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": figure5,
}


def by_sigma2(
    frame: pd.DataFrame,
    activation: str,
    constraint: str,
    models: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Final activation fraction and dead units against sigma2, a column a data set.

    Lines are means over seeds, bands their range.

    Raises:
        RequestError: if no trial has these values.
    """
    chosen = [
        curve
        for curve in curves(frame)
        if curve.name["activation"] == activation
        and curve.name["constraint"] == constraint
        and (models is None or curve.name["model"] in models)
        and np.isfinite(curve.activation).any()
    ]
    if not chosen:
        raise RequestError(
            f"no finished trials of {activation} under {constraint}"
            + (f" with {', '.join(models)}" if models else "")
        )
    datasets = list(dict.fromkeys(curve.name["dataset"] for curve in chosen))[:_MOST_PANELS]
    figure, axes = _panels(2, len(datasets), heights=(3, 1.3))
    for column, dataset in enumerate(datasets):
        upper, lower = axes[0][column], axes[1][column]
        for curve in (c for c in chosen if c.name["dataset"] == dataset):
            _line(upper, curve, curve.activation)
            _line(lower, curve, curve.dead)
        upper.set(ylim=(-0.02, 1.02))
        upper.set_title(dataset, fontsize=9)
        lower.set(xlabel="$\\sigma^2$", ylim=(-0.04, 1.04))
    axes[0][0].set_ylabel("activation fraction")
    axes[1][0].set_ylabel("dead units")
    seeds = max(curve.seeds.size for curve in chosen)
    words = f"{activation}, {constraint}" + (f"; bands: {seeds} seeds" if seeds > 1 else "")
    figure.suptitle(f"{title}: {words}" if title else words, fontsize=10)
    _legend(figure, axes)
    return figure


def epoch_curves(frame: pd.DataFrame, activation: str, constraint: str) -> Figure:
    """Activation fraction by epoch: a column a data set, a row a model, a line a sigma2.

    Raises:
        RequestError: if no trial has these values.
    """
    rows = frame[
        (frame["activation"] == activation)
        & (frame["constraint"] == constraint)
        & (frame["status"] == "ok")
    ]
    if rows.empty:
        raise RequestError(f"no trials of {activation} under {constraint}")
    datasets = sorted(rows["dataset"].unique())[:_MOST_PANELS]
    models = sorted(rows["model"].unique())
    figure, axes = _panels(len(models), len(datasets), heights=[2.0] * len(models))
    sigma2 = np.sort(rows["sigma2"].unique())
    for i, model in enumerate(models):
        for j, dataset in enumerate(datasets):
            part = rows[(rows["model"] == model) & (rows["dataset"] == dataset)]
            for k, value in enumerate(sigma2):
                mean = part[part["sigma2"] == value].groupby("epoch")["activation_fraction"].mean()
                shade = _shade(k, sigma2.size)
                axes[i][j].plot(mean.index, mean, color=shade, lw=1.2, label=f"{value:g}")
            axes[i][j].set(ylim=(-0.02, 1.02))
            if i == 0:
                axes[i][j].set_title(dataset)
            if j == 0:
                axes[i][j].set_ylabel(model)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.suptitle(f"activation fraction by epoch: {activation}, {constraint}", fontsize=10)
    _legend(figure, axes, title="$\\sigma^2$")
    return figure


def unit_histogram(
    frame: pd.DataFrame, units: pd.DataFrame, activation: str, constraint: str
) -> Figure:
    """How often single units activate: a column a data set, a row a model, a line a sigma2.

    A sparse distributed code is many units, each rarely active: mass near but not at 0.

    Raises:
        RequestError: if no trial has these values.
    """
    trials = trial_table(frame)
    chosen = trials[(trials["activation"] == activation) & (trials["constraint"] == constraint)]
    joined = units.merge(chosen[["model", "dataset", "sigma2"]], on="trial_id")
    joined = joined.dropna(subset="activation_fraction")
    if joined.empty:
        raise RequestError(f"no units of {activation} under {constraint}")
    datasets = sorted(joined["dataset"].unique())[:_MOST_PANELS]
    models = sorted(joined["model"].unique())
    figure, axes = _panels(len(models), len(datasets), heights=[2.0] * len(models))
    sigma2 = np.sort(joined["sigma2"].unique())
    edges = np.linspace(0, 1, 41)
    for i, model in enumerate(models):
        for j, dataset in enumerate(datasets):
            part = joined[(joined["model"] == model) & (joined["dataset"] == dataset)]
            for k, value in enumerate(sigma2):
                fractions = part.loc[part["sigma2"] == value, "activation_fraction"]
                if fractions.empty:
                    continue
                share = np.histogram(fractions, edges)[0] / len(fractions)
                shade = _shade(k, sigma2.size)
                axes[i][j].stairs(share, edges, color=shade, lw=1.2, label=f"{value:g}")
            if i == 0:
                axes[i][j].set_title(dataset)
            if j == 0:
                axes[i][j].set_ylabel(f"{model}\nshare of units")
    for axis in axes[-1]:
        axis.set_xlabel("activation fraction of a unit")
    figure.suptitle(f"how often units activate: {activation}, {constraint}", fontsize=10)
    _legend(figure, axes, title="$\\sigma^2$")
    return figure


def filters(weights: np.ndarray, image_shape: tuple[int, ...], most: int = 64) -> Figure:
    """Rows of W (m, n) as images, the longest first, each in its own scale.

    Args:
        weights: W of a trial (`sparseae.load_weights`).
        image_shape: (height, width) or (height, width, channels), n altogether.
        most: filters to show.
    """
    longest = np.argsort(-np.linalg.norm(weights, axis=1))[:most]
    columns = int(np.ceil(np.sqrt(longest.size)))
    rows = -(-longest.size // columns)
    figure = Figure(figsize=(columns * 0.6, rows * 0.6), layout="constrained")
    for place, unit in enumerate(longest):
        axis = figure.add_subplot(rows, columns, place + 1)
        image = weights[unit].reshape(image_shape)
        reach = np.abs(image).max() or 1.0
        axis.imshow((image / reach + 1) / 2, cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
    return figure


def _panels(rows: int, columns: int, heights: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    import matplotlib as mpl

    with mpl.rc_context(_RC):
        size = (max(4.2, 3.4 * columns), sum(heights) + 1.1)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            rows, columns, squeeze=False, sharex="col", height_ratios=list(heights)
        )
    return figure, [list(row) for row in grid]


def _line(axis: Axes, curve: Curve, values: np.ndarray) -> None:
    """The mean over seeds with their range."""
    there = np.isfinite(values).any(0)
    x, y = curve.sigma2[there], values[:, there]
    model = curve.name["model"]
    variant = "".join(f", {k}={v}" for k, v in curve.variant.items())
    colour, marker, line = _STYLES.get(model, _OTHERS[sum(map(ord, model)) % len(_OTHERS)])
    axis.plot(
        x, np.nanmean(y, axis=0), line, color=colour, marker=marker, ms=3.5, lw=1.4,
        label=model + variant,
    )  # fmt: skip
    axis.fill_between(x, np.nanmin(y, axis=0), np.nanmax(y, axis=0), color=colour, alpha=0.18, lw=0)


def _shade(index: int, count: int) -> tuple[float, float, float, float]:
    """From light to dark with sigma2, readable in print."""
    from matplotlib import colormaps

    return colormaps["cividis_r"](0.1 + 0.9 * index / max(1, count - 1))


def _legend(figure: Figure, axes: list[list[Axes]], title: str | None = None) -> None:
    handles = {}
    for axis in (axis for row in axes for axis in row):
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)),
        title=title, fontsize=8, frameon=False,
    )  # fmt: skip
