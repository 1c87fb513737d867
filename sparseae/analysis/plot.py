"""Figures: pure functions from a DataFrame to a matplotlib Figure.

Colours are Okabe and Ito's, which the colour-blind can tell apart; markers and line styles repeat
the distinction for print.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from sparseae.analysis.curves import Curve, curves
from sparseae.analysis.panels import Panels, style, wrapped
from sparseae.analysis.prediction import corruptions_of
from sparseae.analysis.theory_predictions import reach_points
from sparseae.errors import RequestError

if TYPE_CHECKING:
    from sparseae.theory.checks import Check  # torch, which no figure needs

#: Colour, marker and line of each model.
_STYLES = {
    "ae": ("#000000", "x", ":"),
    "dae": ("#0072B2", "o", "-"),
    "cae": ("#D55E00", "s", "--"),
    "mdae": ("#009E73", "^", "-."),
    "sae": ("#CC79A7", "D", "-"),
    "edae": ("#E69F00", "v", "--"),
    "dae_pairs": ("#332288", "d", "--"),
    "dae_bias": ("#DDCC77", ">", "-"),
    "dae_weights": ("#AA4499", "<", ":"),
    "dae2": ("#56B4E9", "P", "-."),
    "cae_h": ("#8C564B", "<", "--"),
    "corollary1": ("#882255", "p", "-."),
    "corollary2": ("#44AA99", "h", "-."),
}
_OTHERS = [("#56B4E9", "P", "-"), ("#999999", "*", "--"), ("#F0E442", "h", "-.")]

#: Ticks of a fraction, and of sigma2; naming them is quicker than to have them searched.
_FRACTIONS = (0, 0.2, 0.4, 0.6, 0.8, 1)


def save(figure: Figure, path: Path | TextIO) -> None:
    """Write a figure; the suffix tells the format, and an open stream takes SVG."""
    kind = path.suffix.removeprefix(".") if isinstance(path, Path) else "svg"
    metadata = {"Date": None} if kind == "svg" else None
    # What data sets and activations are called is no mathematics: a $ is a $.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with style(), warnings.catch_warnings():
        # A name in a script that the font has not: it is text in the SVG, and boxes in the PNG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format=kind, dpi=160, metadata=metadata)


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
    """Final activation fraction and dead units against sigma2, a panel a data set.

    Lines are means over seeds, bands their range.

    Raises:
        RequestError: if no trial has these values.
    """
    words = f"{activation}, {constraint}"
    chosen = [
        curve
        for curve in _chosen(frame, activation, constraint)
        if models is None or curve.name["model"] in models
    ]
    if not any(np.isfinite(curve.activation).any() for curve in chosen):
        raise RequestError(
            f"no finished trials of {words}" + (f" with {', '.join(models)}" if models else "")
        )
    return of_curves(chosen, f"{title}: {words}" if title else words)


def of_curves(chosen: Sequence[Curve], title: str = "") -> Figure:
    """Activation fraction and dead units of some curves against sigma2, a panel a data set."""
    panels = Panels(
        ["activation fraction", "dead units"], _datasets(chosen), heights=(2.3, 0.9), width=3.2
    )
    same = _common(curve.name for curve in chosen)
    seen: dict[str, list[str]] = {}  # the labels of each model: they differ in lightness
    for curve in chosen:
        words = " ".join(v for k, v in curve.name.items() if k not in same | {"dataset"})
        label = (words or curve.name["model"]) + curve.suffix
        labels = seen.setdefault(curve.name["model"], [])
        labels += [] if label in labels else [label]
        for row, values in (("activation fraction", curve.activation), ("dead units", curve.dead)):
            axis = panels[row, curve.name["dataset"]]
            _line(axis, curve, values, label, lighter=labels.index(label))
            along_sigma(axis, curve.sigma2)
            axis.set(ylim=(-0.03, 1.03), yticks=_FRACTIONS)
            if row == "dead units":
                axis.set(ylim=(-0.06, 1.06), yticks=(0, 0.5, 1))
    return panels.finish(title + seeds_of(chosen) if title else "", "σ² (even in σ)")


def seeds_of(chosen: Sequence[Curve]) -> str:
    """How many seeds lines are of, in words: they may differ between the data sets."""
    seeds: dict[str, int] = {}
    for curve in chosen:
        dataset = curve.name["dataset"]
        seeds[dataset] = max(seeds.get(dataset, 0), curve.seeds.size)
    if max(seeds.values()) == 1:
        return ""
    if len(set(seeds.values())) == 1:
        return f" (mean and range of {max(seeds.values())} seeds)"
    return f" (mean and range; seeds: {', '.join(f'{d} {n}' for d, n in seeds.items())})"


def along_sigma(axis: Axes, sigma2: np.ndarray) -> None:
    """Ticks of an axis that runs along sigma: each is named by its sigma2."""
    far = max(float(np.sqrt(sigma2.max())), axis.get_xlim()[1] / 1.04 if axis.lines else 0.0, 1e-9)
    step = next(s for s in (0.2 * 10.0**k * m for k in range(-4, 6) for m in (1, 2.5, 5))
                if far / s < 6.5)  # fmt: skip
    ticks = step * np.arange(int(far / step + 1e-9) + 1)
    axis.set_xticks(ticks, [f"{tick**2:.6g}" for tick in ticks])
    axis.set_xlim(-0.04 * far, 1.04 * far)


def terms(chosen: Sequence[Curve]) -> Figure:
    """What makes up the bias gradient of relu dae (theory: true), a column a data set.

    At the largest sigma2, by epoch, means over the units and the seeds: what the noise adds to it
    in the mean, as measured, and what the kink and eq. 7's smooth terms account for; the band is
    the deviation, over minibatches, of the part that is odd in the noise, as the first-order term,
    whose mean is zero.

    Raises:
        RequestError: if of no relu dae the theory was measured.
    """
    fixed = [c for c in chosen if c.name["constraint"] == "unit_norm"]
    found = [c for c in fixed if "kink_gradient" in c.theory]
    if not found:
        raise RequestError("no relu dae under unit_norm with theory: true")
    panels = Panels(["bias gradient"], _datasets(found), heights=[2.0], width=3.0)
    for dataset in _datasets(found):
        curve = min(
            (c for c in found if c.name["dataset"] == dataset),
            key=corruptions_of,
        )
        axis, epochs = panels["bias gradient", dataset], np.arange(curve.epoch + 1)
        odd = np.nanmean(curve.theory["first_order_rms"][:, -1], axis=0)
        axis.fill_between(epochs, -odd, odd, color="#E69F00", alpha=0.2, lw=0,
                          label="first-order term of a minibatch")  # fmt: skip
        lines = (
            ("bias_gradient", "#0072B2", "-", "added by the noise, measured"),
            ("kink_gradient", "#D55E00", "--", "the kink's term"),
            ("second_order_gradient", "#009E73", "-.", "smooth second-order terms"),
        )
        for name, colour, line, label in lines:
            mean = np.nanmean(curve.theory[name][:, -1], axis=0)
            axis.plot(epochs, mean, line, color=colour, lw=1.6, label=label)
        heading = f"{dataset}, σ² = {curve.sigma2[-1]:g}"
        axis.set_title(wrapped(heading, panels.width), fontsize=9)
    return panels.finish("The bias gradient of relu dae", "epoch")


def drift(chosen: Sequence[Curve]) -> Figure:
    """The bias gradient against how E[a_j] moves over the next epoch, a column a data set.

    A point is a trial's epoch, means over its units: above, the whole gradient; below, that of the
    reconstruction error alone. Theorem 1 (eq. 5) expects a falling line through 0.

    Raises:
        RequestError: if the theory was not measured.
    """
    rows = {"whole gradient": ("ae_bias_gradient", "bias_gradient"),
            "J_AE alone": ("ae_bias_gradient",)}  # fmt: skip
    found = [c for c in chosen if "pre_activation_change" in c.theory and c.epoch > 1]
    if not found:
        raise RequestError("no trials with theory: true")
    panels = Panels(list(rows), _datasets(found), [1.8, 1.8])
    for curve in found:
        change = curve.theory["pre_activation_change"][..., 1:]
        colour, _, _ = style_of(curve.name["model"])
        for row, names in rows.items():
            known = [curve.theory[n] for n in names if n in curve.theory]
            gradient = np.sum(known, axis=0)[..., :-1]
            axis = panels[row, curve.name["dataset"]]
            axis.plot(gradient.ravel(), change.ravel(), ".", ms=2, color=colour, alpha=0.5,
                      label=curve.name["model"], rasterized=True)  # fmt: skip
            axis.set_xscale("symlog", linthresh=0.01)
            axis.set_xlim(-3, 3)
            axis.set_yscale("symlog", linthresh=0.001)
            axis.set_xticks([-1, -0.01, 0, 0.01, 1], ["-1", "-.01", "0", ".01", "1"])
            axis.set_yticks([-0.1, -0.001, 0, 0.001, 0.1], ["-.1", "-.001", "0", ".001", ".1"])
    return panels.finish("Change of E[a] over an epoch", "mean bias gradient, an epoch before")


def reach(chosen: Sequence[Curve]) -> Figure:
    """The theory's reach: the regularizer's bias gradient at the initial weights, means over units,
    against the change of the final activation fraction from sigma2 = 0, a point a curve and sigma2
    (weights of length one), a row an activation and a column a data set.

    Raises:
        RequestError: if the theory was not measured.
    """
    points = {d: reach_points(c for c in chosen if c.name["dataset"] == d)
              for d in _datasets(chosen)}  # fmt: skip
    points = {dataset: found for dataset, found in points.items() if found}
    if not points:
        raise RequestError("no trials with theory: true under unit_norm with sigma2 = 0")
    activations = sorted({p["activation"] for found in points.values() for p in found})
    panels = Panels(activations, list(points), heights=[1.6] * len(activations))
    gradients = [p["gradient"] for found in points.values() for p in found]
    limits = 1.5 * min(0, *gradients) - 1e-3, 1.5 * max(0, *gradients) + 1e-3
    changes = [p["change"] for found in points.values() for p in found]
    lowest, highest = min(0, *changes), max(0, *changes)
    for dataset, found in points.items():
        for point in found:
            axis = panels[point["activation"], dataset]
            colour, marker, _ = style_of(point["model"])
            axis.plot(point["gradient"], point["change"], marker, ms=4, mew=0.8, alpha=0.8,
                      color=colour, label=point["model"])  # fmt: skip
            axis.set_xscale("symlog", linthresh=1e-3)
            axis.set_xlim(*limits)
            axis.set_ylim(lowest - 0.05, highest + 0.05)
            axis.axhline(0, color="0.7", lw=0.6)
    return panels.finish(
        "Change of the activation fraction",
        "mean λ dR/db_j at the initial weights",
    )


def lemma1(chosen: Sequence[Curve]) -> Figure:
    """Lemma 1 and Theorem 1's condition: dJ_AE/db_j and lambda dR/db_j, root mean squares over the
    units, as shares of the bound that the first never exceeds and the second is to exceed; a column
    a data set, a line a model (median over its trials).

    Raises:
        RequestError: if the theory was not measured.
    """
    rows = {"dJ_AE/db / bound": "ae_bias_gradient_rms",
            "λ dR/db / bound": "bias_gradient_rms"}  # fmt: skip
    found = [c for c in chosen if "lemma1_bound" in c.theory]
    if not found:
        raise RequestError("no trials with theory: true")
    panels = Panels(list(rows), _datasets(found), heights=[1.6, 1.6])
    for dataset in _datasets(found):
        for model in sorted({c.name["model"] for c in found}):
            of_model = [c for c in found if c.name["dataset"] == dataset]
            of_model = [c for c in of_model if c.name["model"] == model]
            if not of_model:
                continue
            length = min(c.epoch for c in of_model) + 1
            for row, name in rows.items():
                shares = [
                    (c.theory[name] / c.theory["lemma1_bound"])[..., :length].reshape(-1, length)
                    for c in of_model
                ]
                axis = panels[row, dataset]
                median = np.nanmedian(np.concatenate(shares), axis=0)
                colour, _, line = style_of(model)
                axis.plot(np.arange(length), median, line, color=colour, lw=1.3, label=model)
                axis.axhline(1, color="0.3", lw=0.8, ls=":")
                axis.set_yscale("log")
                axis.set_ylim(1e-4, 3)
    return panels.finish("Bias gradients and Lemma 1's bound", "epoch")


def epoch_curves(frame: pd.DataFrame, activation: str, constraint: str) -> Figure:
    """Activation fraction by epoch: a column a data set, a row a model, a line a sigma2.

    Lines are means over the seeds that have not diverged.

    Raises:
        RequestError: if no trial has these values.
    """
    chosen = _chosen(frame, activation, constraint)
    panels = Panels(_models(chosen), _datasets(chosen), heights=[1.5] * len(_models(chosen)))
    sound = frame[frame["status"] == "ok"].drop_duplicates(["trial_id", "epoch"])
    of_trial = sound.set_index("epoch").groupby("trial_id")["activation_fraction"]
    by_trial = dict(iter(of_trial))
    shades = _shades(chosen)
    for curve in chosen:
        axis = panels[_model(curve), curve.name["dataset"]]
        axis.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
        for k, sigma2 in enumerate(curve.sigma2):
            seeds = [by_trial[trial] for trial in curve.trial_ids[:, k] if trial in by_trial]
            if not seeds:
                continue
            mean = pd.concat(seeds, axis=1).mean(axis=1).sort_index()
            axis.plot(mean.index, mean, color=shades[sigma2], lw=1.2, label=f"{sigma2:g}")
    title = f"Activation fraction by epoch: {activation}, {constraint}"
    return panels.finish(title, "epoch", legend="σ²")


def check_figure(check: Check) -> Figure:
    """The figure of a `sparseae.theory.checks.Check`."""
    with style():
        figure = Figure(figsize=(5.2, 4.0), layout="constrained")
        axis = figure.add_subplot()
        for line in check.lines:
            width = 1.3 if line.joined else 0
            axis.plot(line.x, line.y, lw=width, marker="o", ms=3, label=line.label)
        axis.set(xscale=check.scale, yscale=check.scale, xlabel=check.axes[0], ylabel=check.axes[1])
        if check.ticks:
            axis.set_xticks(range(len(check.ticks)), check.ticks, rotation=90)
            axis.set_yscale("symlog", linthresh=1e-3)
            axis.axhline(0, color="0.3", lw=0.8)
        word = "holds" if check.passed else "does not hold"
        axis.set_title(f"{check.section}: {word}", loc="left")
        axis.legend(fontsize=8)
    return figure


#: Where the histogram of units shows the dead ones, beside its logarithmic axis, and its bins.
_AT_ZERO = 10**-4.2
_BINS = np.logspace(-3.8, 0, 39)


def unit_histogram(
    frame: pd.DataFrame, units: pd.DataFrame, activation: str, constraint: str
) -> Figure:
    """How often single units activate: a column a data set, a row a model, a line a sigma2.

    A sparse distributed code is many units, each rarely active; dead units stand apart, at 0.

    Raises:
        RequestError: if no trial has these values.
    """
    chosen = _chosen(frame, activation, constraint)
    known = units.dropna(subset="activation_fraction")
    by_trial = {str(k): v.to_numpy() for k, v in known.groupby("trial_id")["activation_fraction"]}
    chosen = [c for c in chosen if not by_trial.keys().isdisjoint(c.trial_ids.ravel())]
    if not chosen:
        raise RequestError(f"no units of {activation}, {constraint}")
    panels = Panels(_models(chosen), _datasets(chosen), heights=[1.5] * len(_models(chosen)))
    shades = _shades(chosen)
    for curve in chosen:
        axis = panels[_model(curve), curve.name["dataset"]]
        axis.set(xscale="log", xlim=(10**-4.4, 1))
        axis.set_xticks([_AT_ZERO, 0.001, 0.01, 0.1, 1], ["dead", "0.001", "0.01", "0.1", "1"])
        axis.xaxis.minorticks_off()
        axis.axvline(_BINS[0], color="0.7", lw=0.6)
        for k, sigma2 in enumerate(curve.sigma2):
            seeds = [by_trial[trial] for trial in curve.trial_ids[:, k] if trial in by_trial]
            if not seeds:
                continue
            fractions = np.concatenate(seeds)
            alive = fractions[fractions > 0].clip(_BINS[0])
            share = np.histogram(alive, _BINS)[0] / fractions.size
            axis.stairs(share, _BINS, color=shades[sigma2], lw=1.2, label=f"{sigma2:g}")
            dead = 1 - alive.size / fractions.size
            axis.plot(_AT_ZERO, dead, "o", ms=4, mew=0, color=shades[sigma2])
    title = f"Share of units by how often they activate: {activation}, {constraint}"
    return panels.finish(title, "activation fraction of a unit", legend="σ²")


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


def _chosen(frame: pd.DataFrame, activation: str, constraint: str) -> list[Curve]:
    wanted = frame[(frame["activation"] == activation) & (frame["constraint"] == constraint)]
    if wanted.empty:
        raise RequestError(f"no trials of {activation}, {constraint}")
    return curves(wanted)


def _datasets(chosen: Sequence[Curve]) -> list[str]:
    return sorted({curve.name["dataset"] for curve in chosen})


def _model(curve: Curve) -> str:
    return curve.name["model"] + curve.suffix


def _models(chosen: Sequence[Curve]) -> list[str]:
    return sorted({_model(curve) for curve in chosen})


def _common(names: Iterable[Mapping[str, str]]) -> set[str]:
    """The keys whose value is the same everywhere."""
    several = list(names)
    return {key for key in several[0] if len({name[key] for name in several}) == 1}


def _shades(chosen: Sequence[Curve]) -> dict[float, tuple[float, float, float, float]]:
    """A colour a sigma2, from light to dark, readable in print."""
    from matplotlib import colormaps

    sigma2 = np.unique(np.concatenate([curve.sigma2 for curve in chosen]))
    places = 0.1 + 0.9 * np.arange(sigma2.size) / max(1, sigma2.size - 1)
    return dict(zip(sigma2, map(tuple, colormaps["cividis_r"](places)), strict=True))


def style_of(model: str) -> tuple[str, str, str]:
    """Colour, marker and line of a model."""
    return _STYLES.get(model, _OTHERS[sum(map(ord, model)) % len(_OTHERS)])


def _line(axis: Axes, curve: Curve, values: np.ndarray, label: str, lighter: int = 0) -> None:
    """The mean over seeds with their range, in its model's colour or a lighter one."""
    there = np.isfinite(values).any(0)
    x, y = np.sqrt(curve.sigma2[there]), values[:, there]
    model = curve.name["model"]
    full, marker, line = style_of(model)
    colour = tuple(1 - (1 - channel) * 0.6**lighter for channel in to_rgb(full))
    axis.plot(
        x, np.nanmean(y, axis=0), line, color=colour, marker=marker, ms=3.5, lw=1.4, label=label,
    )  # fmt: skip
    axis.fill_between(x, np.nanmin(y, axis=0), np.nanmax(y, axis=0), color=colour, alpha=0.18, lw=0)
