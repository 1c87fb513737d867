"""The table of verdicts: every statement on every data set, corrected as a whole.

A finding's p-value is corrected by Holm's method over all that could be claimed, and by what
earlier looks at the same statement have spent (`Looks`). What is then at most `thresholds.ALPHA`
is a verdict; all else is inconclusive, and says what it lacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sparseae.analysis import thresholds
from sparseae.analysis.inference import NAN, holm
from sparseae.analysis.prediction import Evidence, Finding, Prediction, every_case
from sparseae.analysis.shown import with_html
from sparseae.analysis.trends import ACTIVATION, PRE_ACTIVATION, Judged, judge
from sparseae.results.location import Location

SUPPORTED, CONTRADICTED = "supported", "contradicted"
INCONCLUSIVE, NOT_TESTED = "inconclusive", "not tested"

#: The row of a statement over all data sets together.
TOGETHER = "all"

#: What an inconclusive statement can lack, in a sentence.
NEEDS = {
    "seeds": "More seeds: the interval, now or at its pace in ten times the epochs, is too wide.",
    "epochs": "More epochs: at its pace it does not last ten times as many, or few show no pace.",
    "sigma2": "More values of sigma2 between those where it happens.",
    "range": "Values of sigma2 from 0 to 0.25 at least.",
    "control": "A positive control: another model, trained alike, whose curve moves.",
    "live units": "Trials whose units live at sigma2 = 0, as with a smaller learning rate.",
    "measure": "Rows with E[a_j]: the activation fraction stands at its limit.",
    "trials": "More trials: two values of sigma2 and two seeds at least.",
    "data sets": "Another data set.",
    "corruptions": "More corruptions a sample, ten times as many at least.",
    "nothing": "Nothing of the kind: the value lies between what speaks for it and against it.",
    "a binding constraint": "A constraint that binds, and the same trials without it.",
}

#: The columns of the table (docs/analysis.md).
COLUMNS = [
    "prediction", "claim", "section", "dataset", "verdict", "evidence", "effect", "effect_low",
    "effect_high", "measure", "seeds", "p", "p_corrected", "settled", "sensitive", "needs",
    "would_change", "trials", "diverged",
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A verdict, the numbers that decided, and the curves they come from (docs/analysis.md)."""

    verdict: str
    evidence: str
    curves: Judged = field(default_factory=list)
    effect: float = NAN
    effect_low: float = NAN
    effect_high: float = NAN
    measure: str = ""
    seeds: int = 0
    p: float = NAN
    p_corrected: float = NAN
    settled: bool = False
    sensitive: bool = False
    needs: str = ""
    would_change: str = ""


class Looks:
    """How often each statement was looked at, each time with more trials or epochs.

    Each look may spend a share of `thresholds.ALPHA` (`thresholds.spent`). A sweep that is not
    finished is not yet looked at; the same rows again are the same look.
    """

    def __init__(self, seen: Mapping[str, list[str]] | None = None) -> None:
        self.seen = {key: list(states) for key, states in (seen or {}).items()}

    @classmethod
    def read(cls, place: str) -> Looks:
        """Those stored beside a sweep's verdicts; none where there are none."""
        file = Location.of(place) / "looks.json"
        try:
            return cls(json.loads(file.read_bytes()) if file.exists() else None)
        except (OSError, ValueError):
            return cls()

    def number(self, key: str, curves: Judged) -> int:
        """Which look at a statement this is, from 1; remembered if its trials are finished."""
        seen, state = self.seen.setdefault(key, []), _state(curves)
        if state in seen:
            return seen.index(state) + 1
        if not any(curve.unfinished for curve, _ in curves):
            seen.append(state)
            return len(seen)
        return len(seen) + 1

    def write(self, place: str) -> None:
        """Remember them beside a sweep's verdicts.

        Raises:
            OSError: where the folder cannot be written.
        """
        seen = {key: states for key, states in self.seen.items() if states}
        (Location.of(place) / "looks.json").write_bytes(json.dumps(seen, indent=1).encode())


def _state(curves: Judged) -> str:
    trials = sum(trend.seeds * trend.sigma2_values for _, trend in curves)
    return f"{trials} trials, {sum(curve.epoch for curve, _ in curves)} epochs"


def check_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a statement and data set, and one over all data sets together.

    Columns: `COLUMNS`, which docs/analysis.md explains. The rows are judged as if looked at for
    the first time.

    Raises:
        RequestError: if a column is missing.
    """
    return with_html(verdict_table(judge(frame)), ("prediction", "dataset", "verdict", "evidence"))


def verdict_table(judged: Judged, looks: Looks | None = None) -> pd.DataFrame:
    """`check_predictions` of curves that are judged already."""
    datasets = sorted({curve.name["dataset"] for curve, _ in judged})
    rows: list[dict[str, Any]] = []
    for case, outcomes in outcomes_of(judged, looks=looks):
        for dataset in [*datasets, TOGETHER]:
            outcome = outcomes[dataset]
            row = {name: getattr(outcome, name) for name in COLUMNS if hasattr(outcome, name)}
            rows.append(
                row
                | {
                    "prediction": case.label,
                    "claim": case.claim,
                    "section": case.section,
                    "dataset": dataset,
                    "trials": sum(curve.trials for curve, _ in outcome.curves),
                    "diverged": sum(curve.diverged for curve, _ in outcome.curves),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def outcomes_of(
    judged: Judged, cases: Iterable[Prediction] | None = None, looks: Looks | None = None
) -> Iterator[tuple[Prediction, dict[str, Outcome]]]:
    """Statements (all) with their outcome by data set and, as `TOGETHER`, over all of them.

    Every statement is judged, also where only some are wanted: the table is corrected as a whole.
    """
    by_dataset: dict[str, Judged] = {}
    for curve, trend in judged:
        by_dataset.setdefault(curve.name["dataset"], []).append((curve, trend))
    looks = looks or Looks()
    every = list(every_case())
    found: dict[tuple[str, str], Finding] = {}
    for case in every:
        each = {d: case.test(Evidence(curves)) for d, curves in sorted(by_dataset.items())}
        found |= {(case.label, dataset): finding for dataset, finding in each.items()}
        if (whole := case.together(each)) is not None:
            found[case.label, TOGETHER] = whole
    corrected = holm({_hypothesis(f): f.p for f in found.values() if f.p == f.p})
    wanted = None if cases is None else {case.label for case in cases}
    for case in every:
        if wanted is not None and case.label not in wanted:
            continue
        outcomes = {}
        for dataset in [*sorted(by_dataset), TOGETHER]:
            if finding := found.get((case.label, dataset)):
                key = f"{case.label}, {dataset}"
                spent = thresholds.spent(looks.number(key, finding.curves))
                p = corrected.get(_hypothesis(finding), NAN) / spent
                outcomes[dataset] = _decided(finding, np.minimum(1.0, p))
        if TOGETHER not in outcomes:
            outcomes[TOGETHER] = _together(outcomes)
        yield case, outcomes


def _hypothesis(finding: Finding) -> tuple:
    """What tells findings apart in the correction: two statements on the same curves that claim the
    same, as sigmoid-sparser and sae-sparser do of sae, are one."""
    return finding.p, *sorted(id(curve) for curve, _ in finding.curves)


def _decided(finding: Finding, p_corrected: float) -> Outcome:
    """The verdict on one finding."""
    decided = p_corrected <= thresholds.ALPHA  # NaN is not
    if not finding.tested:
        verdict = NOT_TESTED
    elif not decided:
        verdict = INCONCLUSIVE
    else:
        verdict = SUPPORTED if finding.supports == finding.p else CONTRADICTED
    needs = "" if decided or not finding.tested else finding.lacks or "seeds"
    return Outcome(
        verdict,
        finding.evidence,
        finding.curves,
        finding.effect,
        finding.low,
        finding.high,
        finding.measure,
        finding.seeds,
        finding.p,
        p_corrected,
        finding.settled,
        finding.sensitive,
        needs,
        _would_change(verdict, finding, needs),
    )


def _would_change(verdict: str, finding: Finding, needs: str) -> str:
    if verdict == NOT_TESTED:
        return f"Trials for it: {finding.evidence}."
    if needs:
        return finding.hint or NEEDS[needs]
    words = {ACTIVATION: "activation fraction", PRE_ACTIVATION: "E[a_j]"}
    of = words.get(finding.measure, finding.measure)
    return f"More seeds or epochs with which the {of} lies on the other side of its margin."


def _together(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Contradicted on one data set is contradicted, else all must support."""
    tested = {k: o for k, o in outcomes.items() if o.verdict != NOT_TESTED}
    if not tested:
        return Outcome(NOT_TESTED, "no data set has the trials", would_change="Trials for it.")
    groups: dict[str, list[str]] = {}
    for dataset, outcome in tested.items():
        groups.setdefault(outcome.verdict, []).append(dataset)
    order = (CONTRADICTED, INCONCLUSIVE, SUPPORTED)
    verdict = next(v for v in order if v in groups)
    deciding = [o for o in tested.values() if o.verdict == verdict]
    return Outcome(
        verdict,
        "; ".join(f"{v} on {', '.join(names)}" for v, names in groups.items()),
        [pair for o in tested.values() for pair in o.curves],
        seeds=min(o.seeds for o in tested.values()),
        measure=deciding[0].measure,
        settled=all(o.settled for o in tested.values()),
        sensitive=all(o.sensitive for o in tested.values()),
        needs=", ".join(dict.fromkeys(o.needs for o in deciding if o.needs)),
        would_change=deciding[0].would_change,
    )
