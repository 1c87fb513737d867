"""The report: figures and one self-contained HTML page, from the Parquet files alone."""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from sparseae.analysis import plot
from sparseae.analysis.curves import curves, trial_table
from sparseae.analysis.predictions import NOT_TESTED, TOGETHER, Outcome, Prediction, outcomes_of
from sparseae.analysis.trends import Judged, judge, trend_table
from sparseae.errors import RequestError
from sparseae.model.trial import DEFAULTS, with_own_keys
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
        page.write_text(_page(place, frame, judge(frame), drawn), encoding="utf-8")
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


def _save(name: str, caption: str, figure: Figure, output: Path) -> Drawn:
    for suffix in (".svg", ".png"):
        plot.save(figure, output / f"{name}{suffix}")
    return Drawn(name, caption, _inline((output / f"{name}.svg").read_text("utf-8"), name, caption))


def _inline(svg: str, name: str, caption: str) -> Markup:
    """A drawing for the page: with a name for a screen reader, and identifiers of its own."""
    out = svg[svg.index("<svg") :].replace(' id="', f' id="{name}-')
    for reference in ('xlink:href="#', "url(#"):
        out = out.replace(reference, f"{reference}{name}-")
    return Markup(out.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1))


def _page(place: str | Path, frame: pd.DataFrame, judged: Judged, drawn: list[Drawn]) -> str:
    statements = list(outcomes_of(judged))
    statements.sort(key=lambda statement: _ORDER.index(statement[1][TOGETHER].verdict))
    verdicts = [outcomes[TOGETHER].verdict for _, outcomes in statements]
    environment = Environment(
        loader=PackageLoader("sparseae.analysis"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = provenance(place)
    return environment.get_template("report.html").render(
        name=_name(place, known),
        counts={verdict: verdicts.count(verdict) for verdict in _ORDER},
        tested=[
            _statement(place, case, outcomes)
            for case, outcomes in statements
            if outcomes[TOGETHER].verdict != NOT_TESTED
        ],
        untested=[case for case, out in statements if out[TOGETHER].verdict == NOT_TESTED],
        curves=trend_table(judged).to_dict("records"),
        figures=drawn,
        state=_state(frame, known),
        provenance=known,
        nan=float("nan"),
    )


def _statement(
    place: str | Path, case: Prediction, outcomes: Mapping[str, Outcome]
) -> Mapping[str, Any]:
    """A statement with its verdicts, and a drawing of the curves that decided."""
    svg = io.StringIO()
    curves = [curve for curve, _ in outcomes[TOGETHER].curves]
    plot.save(getattr(plot, case.figure)(curves), svg)
    name = re.sub(r"\W+", "-", case.label)
    return {
        "case": case,
        "command": shlex.join(["sparseae", "trials", str(place), case.label]),
        "whole": outcomes[TOGETHER],
        "each": {dataset: o for dataset, o in outcomes.items() if dataset != TOGETHER},
        "svg": _inline(svg.getvalue(), name, f"Curves of {case.label}"),
    }


def _state(frame: pd.DataFrame, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """How complete the results are."""
    trials = trial_table(frame)
    configurations = known["configurations"]
    expected = expected_trials(*configurations) if configurations else None
    return {
        "trials": len(trials),
        "missing": max(0, expected - len(trials)) if expected is not None else 0,
        "unfinished": int(trials["unfinished"].sum()),
        "diverged": int(trials["diverged"].sum()),
    }


def _name(place: str | Path, known: Mapping[str, Any]) -> str:
    """The sweep's name, or the folder's where it holds several."""
    configurations = known["configurations"]
    return configurations[0]["name"] if len(configurations) == 1 else Path(str(place)).name


def expected_trials(*configurations: Mapping[str, Any]) -> int:
    """How many trials some resolved configurations (``sweep.yaml``) ask for together."""
    return len(set().union(*map(_expected, configurations)))


def _expected(configuration: Mapping[str, Any]) -> set[tuple]:
    """Each trial that a resolved configuration asks for, as the values of its keys."""

    def matches(wanted: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return all(values.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items())

    axes = configuration.get("space", {})
    trials = set()
    for point in itertools.product(*axes.values()):
        values = configuration.get("training", {}) | dict(zip(axes, point, strict=True))
        for override in configuration.get("overrides") or []:
            if matches(override["when"], values):
                values |= override["training"]
        if not any(matches(entry, values) for entry in configuration.get("exclude") or []):
            # An override may give two points of the space the same configuration.
            values = with_own_keys(DEFAULTS | values)
            trials.add(tuple(v for k, v in sorted(values.items()) if k != "epochs"))
    return trials
