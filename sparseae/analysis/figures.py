"""Which figures a report has: every one that its results have trials for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sparseae.analysis import plot
from sparseae.analysis.curves import curves
from sparseae.errors import RequestError
from sparseae.results import load_units, load_weights, provenance

#: Filters are drawn of so many trials at most.
_FILTER_TRIALS = 4


def figures(place: str | Path, frame: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
    """Every figure that the results have trials for."""
    for name, draw in plot.PAPER.items():
        yield from _try(name, (draw.__doc__ or "").strip(), lambda draw=draw: draw(frame))
    shown = {("relu", "unit_norm"), ("relu", "none"), ("sigmoid", "unit_norm"), ("sigmoid", "none")}
    settings = frame[["activation", "constraint"]].drop_duplicates().itertuples(index=False)
    try:
        units = load_units(place)
    except RequestError:
        units = None  # no trial has finished yet
    for activation, constraint in sorted(tuple(s) for s in settings):
        label = f"{activation}, {constraint}"
        if (activation, constraint) not in shown:
            yield from _try(
                f"sigma2-{activation}-{constraint}",
                f"Activation fraction and dead units against sigma2: {label}.",
                lambda a=activation, c=constraint: plot.by_sigma2(frame, a, c),
            )
        yield from _try(
            f"epochs-{activation}-{constraint}",
            f"Activation fraction by epoch, means over seeds: {label}.",
            lambda a=activation, c=constraint: plot.epoch_curves(frame, a, c),
        )
        if units is not None:
            yield from _try(
                f"units-{activation}-{constraint}",
                f"How often single units activate: {label}. A sparse distributed code is many "
                "units, each rarely active; a bar at 0 alone is dead units.",
                lambda a=activation, c=constraint: plot.unit_histogram(frame, units, a, c),
            )
    yield from _of_theory(frame)
    yield from _filters(place, frame)


def _of_theory(frame: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
    """Figures of what ``theory: true`` measured."""
    found = curves(frame)
    measured = [curve for curve in found if curve.theory]
    explained = [
        c
        for c in found
        if c.name["activation"] == "relu"
        and c.name["constraint"] == "unit_norm"
        and c.name["model"] in ("dae", "edae", "dae2")
    ]
    if {c.name["model"] for c in explained} >= {"dae", "dae2"}:
        yield from _try(
            "explanations",
            "Why dae makes relu sparse (section 3.1.1): along the number of corruptions, the "
            "first-order term alone (edae), and without the kink (dae2).",
            lambda: plot.of_curves(explained, "The two explanations of a sparse relu dae"),
        )
    for name, draw in (
        ("terms", plot.terms),
        ("drift", plot.drift),
        ("reach", plot.reach),
        ("lemma1", plot.lemma1),
    ):
        text = " ".join((draw.__doc__ or "").partition("\n\n    Raises")[0].split())
        yield from _try(f"theory-{name}", text, lambda draw=draw: draw(measured))


def _try(name: str, caption: str, draw: Callable[[], Figure]) -> Iterator[tuple[str, str, Figure]]:
    try:
        yield name, caption, draw()
    except RequestError:
        return  # no trials for it


def _filters(place: str | Path, frame: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
    """Filters of the trials at the largest sigma2 whose weights were kept."""
    known = provenance(place)
    if not any(c.get("keep_weights") for c in known["configurations"]):
        return
    shapes = {"mnist": (28, 28), "digits": (8, 8), "cifar10": (8, 8, 3), "photo_patches": (8, 8, 3)}
    rows = frame[frame["dataset"].isin(list(shapes)) & (frame["seed"] == frame["seed"].min())]
    last = rows.sort_values("sigma2").groupby(["model", "dataset"]).tail(1)
    for row in last.head(_FILTER_TRIALS).itertuples():
        try:
            weights = load_weights(place, row.trial_id)["W"]
        except RequestError:
            continue
        yield (
            f"filters-{row.trial_id}",
            f"Learned filters: {row.activation} {row.model} {row.constraint} on {row.dataset}, "
            f"sigma2 {row.sigma2:g}, seed {row.seed} (trial {row.trial_id}).",
            plot.filters(weights, shapes[row.dataset]),
        )
