"""The report: figures and one self-contained HTML page, from the Parquet files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from sparseae.analysis import plot
from sparseae.analysis.predictions import TOGETHER, check_predictions
from sparseae.analysis.trends import trends
from sparseae.errors import RequestError
from sparseae.results import load, load_units, load_weights, provenance

#: Verdicts in the order in which a reader wants them.
_ORDER = ["contradicted", "supported", "inconclusive", "not tested"]

#: Filters are drawn of so many trials at most.
_FILTER_TRIALS = 4


@dataclass(frozen=True)
class Drawn:
    """A figure of the report."""

    name: str
    caption: str
    svg: Markup


def report(place: str | Path, output: Path) -> Path:
    """Write ``report.html`` and the figures as SVG and PNG into ``output``; return the page.

    Works while a sweep is running, on the rows that are there.

    Raises:
        RequestError: where there are no results, or ``output`` cannot be written.
    """
    frame = load(place)
    try:
        output.mkdir(parents=True, exist_ok=True)
        drawn = [
            _save(name, caption, figure, output) for name, caption, figure in _figures(place, frame)
        ]
        page = output / "report.html"
        page.write_text(_page(place, frame, drawn), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{output}: cannot be written: {error.strerror}") from None
    return page


def _figures(place: str | Path, frame: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
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
    yield from _filters(place, frame)


def _try(name: str, caption: str, draw: Callable[[], Figure]) -> Iterator[tuple[str, str, Figure]]:
    try:
        yield name, caption, draw()
    except RequestError:
        return  # no trials for it


def _filters(place: str | Path, frame: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
    """Filters of the trials at the largest sigma2 whose weights were kept."""
    known = provenance(place)
    if not known.get("configuration", {}).get("keep_weights"):
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


def _save(name: str, caption: str, figure: Figure, output: Path) -> Drawn:
    for suffix in (".svg", ".png"):
        plot.save(figure, output / f"{name}{suffix}")
    text = (output / f"{name}.svg").read_text(encoding="utf-8")
    svg = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
    svg = _scoped(svg, name)
    return Drawn(name, caption, Markup(svg))


def _scoped(svg: str, name: str) -> str:
    """The drawing with identifiers of its own, so that several can stand on one page."""
    out = svg.replace(' id="', f' id="{name}-')
    for reference in ('xlink:href="#', "url(#"):
        out = out.replace(reference, f"{reference}{name}-")
    return out


def _page(place: str | Path, frame: pd.DataFrame, drawn: list[Drawn]) -> str:
    verdicts, curves = check_predictions(frame), trends(frame)
    together = verdicts[verdicts["dataset"] == TOGETHER]
    environment = Environment(
        loader=PackageLoader("sparseae.analysis"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = provenance(place)
    return environment.get_template("report.html").render(
        name=known.get("configuration", {}).get("name", Path(str(place)).name),
        counts={v: int((together["verdict"] == v).sum()) for v in _ORDER},
        predictions=[_prediction(label, verdicts) for label in _sorted(together)],
        curves=curves.to_dict("records"),
        figures=drawn,
        state=_state(frame, known),
        provenance=known,
    )


def _sorted(together: pd.DataFrame) -> list[str]:
    rank = together["verdict"].map(_ORDER.index)
    return list(together.loc[rank.sort_values(kind="stable").index, "prediction"])


def _prediction(label: str, verdicts: pd.DataFrame) -> Mapping[str, Any]:
    """A prediction with its verdict over all data sets and on each."""
    rows = verdicts[verdicts["prediction"] == label].to_dict("records")
    (whole,) = [row for row in rows if row["dataset"] == TOGETHER]
    return whole | {"each": [row for row in rows if row["dataset"] != TOGETHER]}


def _state(frame: pd.DataFrame, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """How complete the results are."""
    last = frame.loc[frame.groupby("trial_id")["epoch"].idxmax()]
    return {
        "trials": len(last),
        "finished": int((last["epoch"] >= last["epochs"]).sum()) if "epochs" in last else len(last),
        "expected": expected_trials(known),
        "diverged": int((last["status"] == "diverged").sum()),
        "rows": len(frame),
    }


def expected_trials(known: Mapping[str, Any]) -> int | None:
    """Trials of the whole space of the configuration; None where excludes leave some out."""
    configuration = known.get("configuration")
    if not configuration or configuration.get("exclude") or configuration.get("overrides"):
        return None
    count = 1
    for values in configuration["space"].values():
        count *= len(values)
    return count
