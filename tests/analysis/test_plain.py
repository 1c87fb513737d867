"""The answers and the sentences that people read first, word for word."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sparseae.analysis.plain import Answer, answers, moved, on_each, sentence
from sparseae.analysis.prediction import TrendPrediction
from sparseae.analysis.trends import judge
from sparseae.analysis.verdicts import Outcome
from tests.analysis.frames import curve

nan = float("nan")
FLAT, SIGMOID = "Is relu cae flat?", "Does sigmoid get sparser?"
((CURVE, TREND),) = judge(curve("flat"))
TREND = replace(
    TREND, trend="decreasing", measure="activation", seeds=3, settled=True, first=0.4, last=0.1,
    change=-0.3, change_low=-0.31, change_high=-0.29, pre_change=-0.75, pre_low=-0.8, pre_high=-0.7,
)  # fmt: skip


def statement(model: str, activation: str = "sigmoid", **by_dataset: str) -> Any:
    """A statement that a curve has a trend, and its outcomes."""
    case: Any = TrendPrediction(model, activation, "unit_norm")
    case.name = "sigmoid-sparser" if activation == "sigmoid" else "relu-flat"
    return case, {dataset: Outcome(verdict, "") for dataset, verdict in by_dataset.items()}


def answered(question: str, *statements: Any) -> Answer:
    return {one.question: one for one in answers(statements)}[question]


def test_what_was_tested_nowhere_is_not_answered():
    one = answered(FLAT, statement("cae", "relu", digits="not tested", all="not tested"))
    assert (one.answer, one.verdict, one.statements) == ("not tested", "not tested", [])
    assert one.words == "These results have no trials for it."
    assert answered(SIGMOID).answer == "not tested"


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [("supported", "yes"), ("contradicted", "no"), ("inconclusive", "not decided")],
)
def test_an_answer_is_the_verdict_in_plain_words(verdict, answer):
    case = statement("cae", "relu", mnist=verdict, digits=verdict, cifar10=verdict, all=verdict)
    one = answered(FLAT, case)
    assert (one.answer, one.verdict) == (answer, verdict)
    assert one.words == f"{answer} on mnist, digits and cifar10"
    assert [dataset for _, dataset, _ in one.statements] == ["mnist", "digits", "cifar10"]
    assert all(found[0] is case[0] for found in one.statements)


def test_relu_cae_is_asked_of_unit_norm_alone():
    case, outcomes = statement("cae", "relu", digits="contradicted")
    case.subject = "relu cae none"
    assert answered(FLAT, (case, outcomes)).answer == "not tested"


@pytest.mark.parametrize("verdict", ["supported", "contradicted"])
def test_what_is_decided_somewhere_is_the_answer_where_decided(verdict):
    one = answered(FLAT, statement("cae", "relu", mnist="inconclusive", digits=verdict))
    word = {"supported": "yes", "contradicted": "no"}[verdict]
    assert (one.answer, one.verdict) == (f"{word}, where decided", verdict)
    assert one.words == f"{word} on digits; not decided on mnist"


def test_answers_that_differ_depend_and_say_on_what():
    one = answered(
        SIGMOID,
        statement("cae", mnist="supported", cifar10="supported", digits="contradicted"),
        statement("dae", mnist="supported", cifar10="supported", digits="inconclusive"),
        statement("sae", mnist="contradicted", digits="not tested"),
    )
    assert (one.answer, one.verdict) == ("it depends", "inconclusive")
    assert one.words == (
        "yes on mnist and cifar10 (cae, dae); no on digits (cae); no on mnist (sae); "
        "not decided on digits (dae)"
    )


def test_a_statement_about_all_data_sets_is_on_all_of_them():
    verdicts = {"digits": "supported", "mnist": "not tested", "all": "supported"}
    outcomes = {dataset: Outcome(verdict, "") for dataset, verdict in verdicts.items()}
    assert list(on_each(outcomes)) == ["digits"]
    assert list(on_each({"all": outcomes["all"], "mnist": outcomes["mnist"]})) == ["all"]


def trend(**changed: Any) -> Any:
    return replace(TREND, **changed)


WHAT, ENDS = "the activation fraction", "from 0.400 to 0.100"
NUMBERS = " (-0.300 [-0.310, -0.290]; E[a] -0.750 [-0.800, -0.700]; 3 seeds)"
FALLS = f"{WHAT} falls {ENDS}{NUMBERS}"
STAYS = f"{WHAT} stays where it is, {ENDS}, and E[a] with it{NUMBERS}"
TO_TELL = "too uncertain, or too near the margin, to tell"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, FALLS),
        ({"trend": "increasing"}, f"{WHAT} rises {ENDS}{NUMBERS}"),
        ({"trend": "flat"}, STAYS),
        ({"trend": "irregular"}, f"{WHAT} goes down and up, {ENDS}{NUMBERS}"),
        ({"trend": "undecided"}, f"{WHAT} goes {ENDS}: {TO_TELL}{NUMBERS}"),
        ({"measure": "pre_activation"},
         f"{WHAT} stands at its limit, {ENDS}, and can show little{NUMBERS}"),
        ({"trend": "flat", "measure": "pre_activation"}, STAYS),
        ({"seeds": 2}, FALLS.replace("3 seeds", "2 seeds")),
        ({"last": nan}, "there are too few trials to compare"),
        ({"settled": False}, f"{FALLS}, and still moves"),
        ({"settled": False, "trend": "flat"}, STAYS),
        ({"seeds": 1, "change_low": nan, "pre_change": nan},
         f"{WHAT} falls {ENDS} (-0.300; 1 seed)"),
    ],
)  # fmt: skip
def test_a_curve_in_words_has_its_numbers(changed, words):
    assert moved(trend(**changed)) == words


def test_a_sentence_is_of_each_variant_and_of_two_at_most():
    case = TrendPrediction("cae", "relu", "unit_norm")
    one = Outcome("supported", "", [(CURVE, trend())])
    assert sentence(case, one) == f"{FALLS.capitalize().replace('e[a]', 'E[a]')}."
    variants: Any = [
        (replace(CURVE, variant={"rho": 0.5, "learning_rate": rate}), trend()) for rate in range(4)
    ]
    two = f"Rho=0.5, learning_rate=0: {FALLS}; rho=0.5, learning_rate=1: {FALLS}"
    for shown, end in ((2, "."), (3, "; 1 more variant below."), (4, "; 2 more variants below.")):
        assert sentence(case, Outcome("supported", "", variants[:shown])) == two + end


def test_what_is_no_trend_is_said_by_its_evidence():
    trends: Any = [(CURVE, TREND)]
    other: Any = SimpleNamespace(subject="s")
    assert sentence(other, Outcome("supported", "as found", trends)) == "as found"
    case = TrendPrediction("cae", "relu", "unit_norm")
    assert sentence(case, Outcome("not tested", "no relu cae")) == "no relu cae"
