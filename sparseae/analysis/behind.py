"""What stands behind a verdict: its curves, their trials, the command that trains them again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparseae.analysis.curves import VIEWS, Curve, without_views
from sparseae.analysis.prediction import Prediction, every_case
from sparseae.analysis.trends import judge
from sparseae.analysis.verdicts import TOGETHER, Outcome, outcomes_of
from sparseae.errors import RequestError, nearest
from sparseae.model.space import narrowing
from sparseae.model.trial import DEFAULTS
from sparseae.results import load
from sparseae.results.location import Location
from sparseae.results.reader import configuration_of, sweeps_in
from sparseae.yamltext import written


@dataclass(frozen=True)
class Source:
    """A curve that decided, as one sweep has it.

    Attributes:
        curve: the curve.
        trial_ids: its trials in that sweep.
        command: trains them again, elsewhere.
    """

    curve: Curve
    trial_ids: list[str]
    command: str


def behind(place: str, wanted: str) -> Iterator[tuple[Prediction, str, Outcome, list[Source]]]:
    """Each statement of a prediction on each data set, with its sources.

    Args:
        place: a sweep's folder or URL, or a folder of sweeps.
        wanted: a prediction's name (``relu-flat``) or a statement's (``relu-flat: relu cae
            unit_norm``), as `check_predictions` has them.

    Raises:
        RequestError: where there is no such prediction, or the results cannot be read.
    """
    frame = load(place)
    cases = [case for case in every_case() if wanted in (case.name, case.label)]
    if not cases:
        names = {case.name for case in every_case()}
        statements = {case.label for case in every_case()}
        raise RequestError(f"no prediction {wanted!r}: {nearest(wanted, names, statements)}")
    sweeps = _sweeps(place, frame)
    for case, outcomes in outcomes_of(judge(frame), cases):
        for dataset, outcome in outcomes.items():
            if dataset != TOGETHER:
                yield case, dataset, outcome, list(_sources(outcome, sweeps))


def _sweeps(place: str, frame: pd.DataFrame) -> list[tuple[str, Mapping[str, Any], set[str]]]:
    """Of each sweep its file, its configuration and its trials."""
    found = []
    for location in sweeps_in(Location.of(place)):
        if (configuration := configuration_of(location)) is not None:
            ids = frame.loc[frame["sweep"] == configuration["name"], "trial_id"]
            found.append((str(location / "sweep.yaml"), configuration, set(ids)))
    return found


def _sources(
    outcome: Outcome, sweeps: list[tuple[str, Mapping[str, Any], set[str]]]
) -> Iterator[Source]:
    for curve, _ in outcome.curves:
        for file, configuration, ids in sweeps:
            if mine := [i for i in curve.trial_ids.ravel() if i in ids]:
                yield Source(curve, mine, _command(file, configuration, curve))


def _command(file: str, configuration: Mapping[str, Any], curve: Curve) -> str:
    values = curve.settings | curve.name
    values["dataset"], made = without_views(curve.name["dataset"])
    values |= {key: made.get(key, DEFAULTS[key]) for key in VIEWS}
    values |= {"sigma2": curve.sigma2.tolist(), "seed": curve.seeds.tolist()}
    return again(file, configuration, values, free=("sigma2", "seed"))


def again(
    file: str, configuration: Mapping[str, Any], values: Mapping[str, Any], free: Sequence[str] = ()
) -> str:
    """The command that trains the trials with certain values again, elsewhere (`narrowing`)."""
    words = ["sparseae", "run", file]
    for key, chosen in narrowing(configuration, values, free).items():
        plain = [v.item() if isinstance(v, np.generic) else v for v in chosen]
        words += [
            "--set",
            f"{key}={written(plain, default_flow_style=True, width=1e6).strip()}",
        ]
    return shlex.join([*words, "--results", "again"])
