"""Verdicts in plain words: what the page and the terminal say first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparseae.analysis.curves import Curve
from sparseae.analysis.prediction import Prediction, TrendPrediction
from sparseae.analysis.trends import (
    DECREASING,
    FLAT,
    INCREASING,
    IRREGULAR,
    PRE_ACTIVATION,
    Trend,
)
from sparseae.analysis.verdicts import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_TESTED,
    SUPPORTED,
    TOGETHER,
    Outcome,
)

#: Each statement with its outcome by data set and over all of them.
Statements = Sequence[tuple[Prediction, Mapping[str, Outcome]]]

#: What everyone asks first, and the prediction and the subjects that answer it.
_QUESTIONS = (
    ("Is relu cae flat?", "relu-flat", ("relu cae unit_norm",)),
    ("Does sigmoid get sparser?", "sigmoid-sparser", ()),
)

_YES = {SUPPORTED: "yes", CONTRADICTED: "no", INCONCLUSIVE: "not decided"}

#: Variants of a curve that a sentence speaks of; the details have all.
_MOST_VARIANTS = 2


@dataclass(frozen=True)
class Answer:
    """A question that everyone asks, answered.

    Attributes:
        question: in words.
        answer: ``yes``, ``no`` (perhaps ``, where decided``), ``it depends``, ``not decided`` or
            ``not tested``.
        verdict: the verdict that goes with it.
        words: where, with the numbers.
        statements: what answers it, where it was tested: (statement, data set, outcome).
    """

    question: str
    answer: str
    verdict: str
    words: str
    statements: Sequence[tuple[TrendPrediction, str, Outcome]]


def on_each(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Outcomes on the data sets that were tested; of a statement about all of them, that one."""
    tested = {d: o for d, o in outcomes.items() if o.verdict != NOT_TESTED}
    return {d: o for d, o in tested.items() if d != TOGETHER} or tested


def answers(statements: Statements) -> list[Answer]:
    """The answers to `_QUESTIONS`."""
    found = []
    for question, name, subjects in _QUESTIONS:
        asked = [
            (case, dataset, outcome)
            for case, outcomes in statements
            if isinstance(case, TrendPrediction)
            and case.name == name
            and (not subjects or case.subject in subjects)
            for dataset, outcome in on_each(outcomes).items()
        ]
        found.append(_answer(question, asked))
    return found


def _answer(question: str, asked: list[tuple[TrendPrediction, str, Outcome]]) -> Answer:
    if not asked:
        return Answer(question, NOT_TESTED, NOT_TESTED, "These results have no trials for it.", [])
    verdicts = {outcome.verdict for _, _, outcome in asked}
    subjects = {case.model for case, _, _ in asked}
    parts = []
    for verdict in (SUPPORTED, CONTRADICTED, INCONCLUSIVE):
        by_dataset: dict[str, list[str]] = {}
        for case, dataset, outcome in asked:
            if outcome.verdict == verdict:
                by_dataset.setdefault(dataset, []).append(case.model)
        groups: dict[tuple[str, ...], list[str]] = {}
        for dataset, models in by_dataset.items():
            groups.setdefault(tuple(models), []).append(dataset)
        for models, datasets in groups.items():
            of = "" if len(subjects) == 1 else f" ({', '.join(models)})"
            parts.append(f"{_YES[verdict]} on {_listed(datasets)}{of}")
    decided = verdicts - {INCONCLUSIVE}
    if len(decided) > 1:
        answer, verdict = "it depends", INCONCLUSIVE
    else:
        verdict = next(iter(decided or verdicts))
        answer = _YES[verdict] + (", where decided" if decided and decided != verdicts else "")
    return Answer(question, answer, verdict, "; ".join(parts), asked)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def sentence(case: Prediction, outcome: Outcome) -> str:
    """What was found, in one plain sentence."""
    if not isinstance(case, TrendPrediction) or not outcome.curves:
        return outcome.evidence
    shown = outcome.curves[:_MOST_VARIANTS]
    words = "; ".join(_of(curve) + moved(trend) for curve, trend in shown)
    if more := len(outcome.curves) - len(shown):
        words += f"; {more} more variant{'s' if more > 1 else ''} below"
    return f"{words[0].upper()}{words[1:]}."


def _of(curve: Curve) -> str:
    """Which variant a sentence is of."""
    return f"{curve.suffix.removeprefix(', ')}: " if curve.variant else ""


def moved(trend: Trend) -> str:
    """How a curve goes along sigma2, in words with its numbers."""
    if trend.last != trend.last:
        return "there are too few trials to compare"
    ends = f"from {trend.first:.3f} to {trend.last:.3f}"
    what = "the activation fraction"
    if trend.trend == FLAT:
        words = f"{what} stays where it is, {ends}, and E[a] with it"
    elif trend.measure == PRE_ACTIVATION:
        words = f"{what} stands at its limit, {ends}, and can show little"
    elif trend.trend in (DECREASING, INCREASING):
        words = f"{what} {'falls' if trend.trend == DECREASING else 'rises'} {ends}"
    elif trend.trend == IRREGULAR:
        words = f"{what} goes down and up, {ends}"
    else:
        words = f"{what} goes {ends}: too uncertain, or too near the margin, to tell"
    changes = [f"{_interval(trend.change, trend.change_low, trend.change_high)}"]
    if trend.pre_change == trend.pre_change:
        changes.append(f"E[a] {_interval(trend.pre_change, trend.pre_low, trend.pre_high)}")
    words += f" ({'; '.join(changes)}; {trend.seeds} seed{'s' if trend.seeds > 1 else ''})"
    return words + ("" if trend.settled or trend.trend == FLAT else ", and still moves")


def _interval(effect: float, low: float, high: float) -> str:
    return f"{effect:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if low == low else "")
