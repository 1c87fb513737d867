"""The page: one looks before one reads. From judged curves to HTML.

The two questions that everyone asks come first, then each statement with its pictures beside its
verdict, then the table of curves, the figures, and where the rows come from. Every text that is not
ours is escaped: the template escapes what it is given, and drawings have names of letters alone.
"""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from sparseae.analysis import plot
from sparseae.analysis.curves import Curve, trial_table
from sparseae.analysis.pictures import Line, interval_picture, picture
from sparseae.analysis.plain import Answer, answers, on_each, sentence
from sparseae.analysis.prediction import Prediction, TrendPrediction
from sparseae.analysis.readings import reading_table
from sparseae.analysis.trends import ACTIVATION, PRE_ACTIVATION, Judged, trend_table
from sparseae.analysis.verdicts import NOT_TESTED, TOGETHER, Looks, Outcome, outcomes_of
from sparseae.errors import RequestError
from sparseae.model.space import blocks, points
from sparseae.model.trial import DEFAULTS, with_own_keys
from sparseae.results import provenance

#: Verdicts in the order in which a reader wants them counted.
_ORDER = ["supported", "contradicted", "inconclusive", "not tested"]

#: Colours of several curves in one picture; the styles have them.
_STYLES = ("main", "second", "third", "fourth")

#: Curves in one picture beside a verdict.
_MOST_LINES = 4


@dataclass(frozen=True)
class Drawn:
    """A figure of the report."""

    name: str
    caption: str
    svg: Markup


def render(place: str | Path, frame: pd.DataFrame, judged: Judged, drawn: list[Drawn]) -> str:
    """The whole page.

    Args:
        place: where the results are, for the commands that the page names.
        frame: the table of epochs.
        judged: its curves.
        drawn: the figures.
    """
    statements = list(outcomes_of(judged, looks=Looks.read(str(place))))
    verdicts = [o.verdict for _, outcomes in statements for o in on_each(outcomes).values()]
    environment = Environment(
        loader=PackageLoader("sparseae.analysis"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = provenance(place)
    return environment.get_template("report.html").render(
        name=_name(place, known),
        answers=[_answered(answer, judged) for answer in answers(statements)],
        counts={verdict: verdicts.count(verdict) for verdict in _ORDER},
        groups=list(_groups(place, statements, judged)),
        untested=[case for case, out in statements if out[TOGETHER].verdict == NOT_TESTED],
        readings=reading_table(judged).to_dict("records"),
        curves=trend_table(judged).to_dict("records"),
        figures=drawn,
        state=_state(frame, known),
        provenance=known,
        nan=float("nan"),
    )


def _answered(answer: Answer, judged: Judged) -> Mapping[str, Any]:
    """An answer with a picture of each data set in both measures."""
    by_dataset: dict[str, list[Curve]] = {}
    for _, dataset, outcome in answer.statements:
        by_dataset.setdefault(dataset, []).extend(curve for curve, _ in outcome.curves)
    rows = []
    for dataset, found in by_dataset.items():
        shown = [
            Line(curve, curve.name["model"] + curve.suffix, _STYLES[k % len(_STYLES)])
            for k, curve in enumerate(found)
        ]
        lines = [*_context(found, judged, labelled=True), *shown]
        pictures = [
            picture(lines, measure, 250, 120, title=dataset)
            for measure in (ACTIVATION, PRE_ACTIVATION)
        ]
        rows.append([p for p in pictures if p])
    return {"answer": answer, "rows": rows}


def _context(found: Sequence[Curve], judged: Judged, *, labelled: bool = False) -> list[Line]:
    """The curves of other models beside some, trained alike."""
    same = ("activation", "constraint", "dataset")
    first = found[0]
    return [
        Line(curve, curve.name["model"] if labelled else "", "context")
        for curve, _ in judged
        if not any(curve is own for own in found)
        and all(curve.name[k] == first.name[k] for k in same)
        and curve.name["model"] not in {own.name["model"] for own in found}
        and curve.settings.get("encoder_bias", True) == first.settings.get("encoder_bias", True)
        and curve.settings.get("learning_rate") == first.settings.get("learning_rate")
        and (curve.settings.get("corruptions") or 1) == (first.settings.get("corruptions") or 1)
    ]


def _groups(
    place: str | Path,
    statements: Sequence[tuple[Prediction, Mapping[str, Outcome]]],
    judged: Judged,
) -> Iterator[Mapping[str, Any]]:
    """The tested statements of each prediction, in the order of the paper's sections."""
    for name, group in itertools.groupby(statements, key=lambda statement: statement[0].name):
        tested = [(c, o) for c, o in group if o[TOGETHER].verdict != NOT_TESTED]
        if tested:
            yield {
                "name": name,
                "claim": tested[0][0].claim,
                "section": tested[0][0].section,
                "statements": [_statement(place, c, o, judged) for c, o in tested],
            }


def _statement(
    place: str | Path, case: Prediction, outcomes: Mapping[str, Outcome], judged: Judged
) -> Mapping[str, Any]:
    """A statement with its verdicts, each beside its pictures."""
    each = [
        {
            "dataset": dataset,
            "outcome": outcome,
            "pictures": _pictures(case, outcome, judged),
            "sentence": sentence(case, outcome),
        }
        for dataset, outcome in on_each(outcomes).items()
    ]
    figure = ""
    if case.figure != "of_curves":
        svg = io.StringIO()
        with suppress(RequestError):  # the statement has no curves that the figure could show
            plot.save(getattr(plot, case.figure)([c for c, _ in outcomes[TOGETHER].curves]), svg)
            figure = inline(svg.getvalue(), slug(case.label), f"Curves of {case.label}")
    return {
        "case": case,
        "id": slug(case.label),
        "command": shlex.join(["sparseae", "trials", str(place), case.label]),
        "whole": outcomes[TOGETHER],
        "each": each,
        "figure": figure,
    }


def _pictures(case: Prediction, outcome: Outcome, judged: Judged) -> list[Markup]:
    """What decided, to be looked at: curves in both measures, or a number with its interval."""
    found = [curve for curve, _ in outcome.curves]
    if case.figure == "of_curves" and found:
        shown = found[:_MOST_LINES]
        alone = isinstance(case, TrendPrediction) and len(found) == 1
        several = len({curve.name["model"] for curve in shown}) > 1
        lines = [
            Line(
                curve,
                (curve.name["model"] if several else "") or curve.suffix.removeprefix(", ")[:8]
                if len(shown) > 1
                else "",
                _STYLES[k],
            )
            for k, curve in enumerate(shown)
        ]
        context = _context(found, judged) if alone else []
        pictures = [picture([*context, *lines], m) for m in (ACTIVATION, PRE_ACTIVATION)]
        return [p for p in pictures if p]
    number = interval_picture(
        outcome.effect, outcome.effect_low, outcome.effect_high, outcome.measure.replace("_", " ")
    )
    return [number] if number else []


def slug(name: str) -> str:
    """A name that can stand in a path, an identifier and a link, whatever it was."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def inline(svg: str, name: str, caption: str) -> Markup:
    """A drawing for the page: with a name for a screen reader, and identifiers of its own."""
    out = svg[svg.index("<svg") :].replace(' id="', f' id="{name}-')
    for reference in ('xlink:href="#', "url(#"):
        out = out.replace(reference, f"{reference}{name}-")
    return Markup(out.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1))


def _state(frame: pd.DataFrame, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """How complete the results are."""
    trials = trial_table(frame)
    configurations = known["configurations"]
    expected = expected_trials(*configurations) if configurations else None
    return {
        "trials": len(trials),
        "seeds": trials["seed"].nunique(),
        "epochs": _span(trials["reached"]),
        "datasets": sorted(trials["dataset"].unique()),
        "missing": max(0, expected - len(trials)) if expected is not None else 0,
        "unfinished": int(trials["unfinished"].sum()),
        "diverged": int(trials["diverged"].sum()),
    }


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


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

    trials = set()
    for point in itertools.chain.from_iterable(map(points, blocks(configuration))):
        values = configuration.get("training", {}) | point
        for override in configuration.get("overrides") or []:
            if matches(override["when"], values):
                values |= override["training"]
        if not any(matches(entry, values) for entry in configuration.get("exclude") or []):
            # An override may give two points of the space the same configuration.
            values = with_own_keys(DEFAULTS | values)
            trials.add(tuple(v for k, v in sorted(values.items()) if k != "epochs"))
    return trials
