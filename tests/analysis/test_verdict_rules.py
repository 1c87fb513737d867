"""How findings become verdicts: corrected as a whole, look by look, data set by data set."""

import math

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis import thresholds, verdicts
from sparseae.analysis.prediction import Finding, Prediction, all_of, not_tested
from sparseae.analysis.trends import judge
from sparseae.analysis.verdicts import NEEDS, TOGETHER, Looks, outcomes_of, verdict_table
from tests.analysis.frames import curve

NAN = math.nan


class Said(Prediction):
    """A statement of which is known what each data set says."""

    claim, section = "it is so", "3"

    def __init__(self, name: str, findings: dict[str, Finding], whole: Finding | None = None):
        self.name, self._findings, self._whole = name, findings, whole

    def test(self, evidence):
        ((found, _), *_) = evidence._found
        return self._findings[found.name["dataset"]]

    def together(self, findings):
        assert list(findings) == sorted(self._findings)
        return self._whole


@pytest.fixture
def judged():
    frames = [curve("flat", model=m, dataset=d) for m in ("cae", "dae") for d in ("a", "b")]
    return judge(pd.concat(frames))


def decided(monkeypatch, judged, *cases, looks=None, wanted=None):
    """By statement its outcomes."""
    monkeypatch.setattr(verdicts, "every_case", lambda: iter(cases))
    datasets = set(cases[0]._findings)
    judged = [pair for pair in judged if pair[0].name["dataset"] in datasets]
    return {case.label: outcomes for case, outcomes in outcomes_of(judged, wanted, looks)}


def only(monkeypatch, judged, finding, **more):
    """The outcome of one statement on one data set."""
    outcomes = decided(monkeypatch, judged, Said("one", {"a": finding}), **more)["one"]
    assert outcomes["a"].verdict == outcomes[TOGETHER].verdict
    return outcomes["a"]


@pytest.mark.parametrize(
    ("supports", "contradicts", "verdict"),
    [
        (0.025, NAN, "supported"),  # of 0.05 a first look spends half
        (0.0251, NAN, "inconclusive"),
        (NAN, 0.025, "contradicted"),
        (NAN, 0.0251, "inconclusive"),
        (0.01, 0.02, "supported"),
        (0.02, 0.01, "contradicted"),
        (NAN, NAN, "inconclusive"),
        (0.9, NAN, "inconclusive"),
    ],
)
def test_a_verdict_needs_5_percent_of_the_stronger_claim(
    monkeypatch, judged, supports, contradicts, verdict
):
    finding = Finding("words", supports=supports, contradicts=contradicts, lacks="epochs")
    found = only(monkeypatch, judged, finding)
    assert found.verdict == verdict
    p = np.fmin(supports, contradicts)
    assert found.p == pytest.approx(p, nan_ok=True)
    assert found.p_corrected == pytest.approx(min(1, 2 * p) if p == p else NAN, nan_ok=True)
    assert found.needs == ("epochs" if verdict == "inconclusive" else "")


def test_all_that_could_be_claimed_is_corrected_as_a_whole_by_holm(monkeypatch, judged):
    one, two = judged[:1], judged[1:2]
    cases = [
        Said("first", {"a": Finding("", one, supports=0.004)}),
        Said("second", {"a": Finding("", one, contradicts=0.009)}),
        Said("third", {"a": Finding("", two, supports=0.03)}),
        Said("same as first", {"a": Finding("", one, supports=0.004)}),  # one hypothesis
        Said("nothing", {"a": Finding("", two)}),
        Said("not there", {"a": not_tested("no trials")}),
    ]
    found = decided(monkeypatch, judged, *cases)
    # Of three hypotheses; the first look spends half.
    corrected = {name: outcomes["a"].p_corrected for name, outcomes in found.items()}
    assert corrected == pytest.approx(
        {"first": 0.024, "same as first": 0.024, "second": 0.036, "third": 0.06,
         "nothing": NAN, "not there": NAN}, nan_ok=True,
    )  # fmt: skip
    assert [outcomes["a"].verdict for outcomes in found.values()] == [
        "supported", "contradicted", "inconclusive", "supported", "inconclusive", "not tested"
    ]  # fmt: skip
    some = decided(monkeypatch, judged, *cases, wanted=[cases[1]])
    assert {name: outcomes["a"].p_corrected for name, outcomes in some.items()} == {
        "second": corrected["second"]
    }


def test_each_look_with_more_trials_spends_less(monkeypatch, judged):
    looks = Looks({"one, a": ["3 trials, 1 epochs", "4 trials, 1 epochs"]})
    own = [pair for pair in judged if pair[0].name["dataset"] == "a"]
    for number in (3, 3):  # the same rows again are the same look
        found = only(monkeypatch, judged, Finding("", own, supports=0.001), looks=looks)
        assert found.p_corrected == pytest.approx(0.001 * number * (number + 1))
    assert looks.seen["one, a"][2] == "36 trials, 20 epochs"


def test_a_sweep_that_is_not_finished_is_not_yet_looked_at():
    frame = curve("flat")
    ((whole, trend),) = judge(frame)
    running = judge(frame[(frame["seed"] < 2) | (frame["epoch"] < 8)])
    looks = Looks()
    assert looks.number("x", running) == 1
    assert looks.number("x", [(whole, trend)]) == 1
    assert looks.number("x", running) == 2  # the next one would be
    assert looks.number("x", judge(curve("flat", seeds=4))) == 2
    assert looks.number("x", [(whole, trend)]) == 1
    assert looks.number("y", [(whole, trend)]) == 1
    assert looks.seen == {
        "x": ["18 trials, 10 epochs", "24 trials, 10 epochs"], "y": ["18 trials, 10 epochs"]
    }  # fmt: skip


def test_looks_are_kept_beside_the_verdicts(tmp_path):
    assert Looks.read(str(tmp_path)).seen == {}
    looks = Looks({"a": ["1"], "b": []})
    looks.write(str(tmp_path))
    assert Looks.read(str(tmp_path)).seen == {"a": ["1"]}
    given = {"a": ["1"]}
    Looks(given).seen["a"].append("2")
    assert given == {"a": ["1"]}
    (tmp_path / "looks.json").write_text("{")
    assert Looks.read(str(tmp_path)).seen == {}


def finding(verdict: str, **more) -> Finding:
    p = {"supported": {"supports": 1e-4}, "contradicted": {"contradicts": 1e-4}}.get(verdict, {})
    return not_tested("none") if verdict == "not tested" else Finding("", **(p | more))


@pytest.mark.parametrize(
    ("on_a", "on_b", "together", "words"),
    [
        ("supported", "supported", "supported", "supported on a, b"),
        ("supported", "inconclusive", "inconclusive", "supported on a; inconclusive on b"),
        ("contradicted", "supported", "contradicted", "contradicted on a; supported on b"),
        ("inconclusive", "contradicted", "contradicted", "inconclusive on a; contradicted on b"),
        ("not tested", "supported", "supported", "supported on b"),
        ("not tested", "not tested", "not tested", "no data set has the trials"),
    ],
)
def test_over_all_data_sets_one_contradiction_contradicts_and_support_needs_all(
    monkeypatch, judged, on_a, on_b, together, words
):
    found = decided(monkeypatch, judged, Said("one", {"a": finding(on_a), "b": finding(on_b)}))
    assert list(found["one"]) == ["a", "b", TOGETHER]
    whole = found["one"][TOGETHER]
    assert (whole.verdict, whole.evidence) == (together, words)


def test_the_row_over_all_data_sets_is_as_good_as_its_worst(monkeypatch, judged):
    each = {
        "a": Finding("", judged[:1], seeds=5, settled=True, sensitive=True, measure="x",
                     lacks="range"),
        "b": Finding("", judged[1:2], seeds=3, settled=True, sensitive=False, measure="y",
                     lacks="epochs", hint="Do so."),
    }  # fmt: skip
    whole = decided(monkeypatch, judged, Said("one", each))["one"][TOGETHER]
    assert (whole.seeds, whole.settled, whole.sensitive) == (3, True, False)
    assert (whole.measure, whole.needs) == ("x", "range, epochs")
    assert whole.would_change == NEEDS["range"]
    assert whole.curves == judged[:2]
    assert math.isnan(whole.p)
    each["b"] = Finding("", seeds=4, settled=False, sensitive=True, lacks="range")
    whole = decided(monkeypatch, judged, Said("one", each))["one"][TOGETHER]
    assert (whole.seeds, whole.settled, whole.sensitive, whole.needs) == (4, False, True, "range")


def test_a_statement_may_judge_all_data_sets_by_itself(monkeypatch, judged):
    own = Finding("own words", supports=1e-5)
    case = Said("one", {"a": finding("contradicted"), "b": finding("supported")}, own)
    whole = decided(monkeypatch, judged, case)["one"][TOGETHER]
    assert (whole.verdict, whole.evidence) == ("supported", "own words")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (not_tested("no relu"), "Trials for it: no relu."),
        (Finding("", lacks="control"), NEEDS["control"]),
        (Finding(""), NEEDS["seeds"]),
        (Finding("", lacks="control", hint="Train dae too."), "Train dae too."),
        (Finding("", supports=0, hint="No."), "the  lies"),
        (Finding("", supports=0, measure="activation_fraction"), "the activation fraction lies"),
        (Finding("", supports=0, measure="pre_activation"), "the E[a_j] lies"),
        (Finding("", supports=0, measure="gain of a_b"), "the gain of a_b lies"),
    ],
)
def test_a_verdict_says_what_would_change_it(monkeypatch, judged, given, words):
    found = only(monkeypatch, judged, given)
    assert words in found.would_change
    if "lies" in words:
        assert found.would_change == (
            f"More seeds or epochs with which {words} on the other side of its margin."
        )
    else:
        assert found.would_change == words


def test_a_row_has_what_the_finding_has_and_counts_its_curves_trials(monkeypatch, judged):
    frame = curve("flat", dataset="a")
    lost = (frame["sigma2"] == 1.0) & (frame["seed"] == 0)
    own = judge(frame.assign(status=np.where(lost, "diverged", "ok")))
    said = Finding("words", own * 2, supports=1e-3, effect=0.5, low=0.4, high=0.6, measure="m",
                   seeds=7, settled=True, sensitive=True)  # fmt: skip
    monkeypatch.setattr(verdicts, "every_case", lambda: iter([Said("one", {"a": said})]))
    table = verdict_table(own)
    assert table["dataset"].tolist() == ["a", "all"]
    assert list(table.columns) == verdicts.COLUMNS
    row = table.iloc[0].to_dict()
    assert row == {
        "prediction": "one", "claim": "it is so", "section": "3", "dataset": "a",
        "verdict": "supported", "evidence": "words", "effect": 0.5, "effect_low": 0.4,
        "effect_high": 0.6, "measure": "m", "seeds": 7, "p": 1e-3, "p_corrected": 2e-3,
        "settled": True, "sensitive": True, "needs": "", "trials": 36, "diverged": 2,
        "would_change":
            "More seeds or epochs with which the m lies on the other side of its margin.",
    }  # fmt: skip

    looked_at = Looks({"one, a": ["before", "and before"]})
    assert verdict_table(own, looked_at)["p_corrected"].tolist()[0] == pytest.approx(12e-3)
    assert len(looked_at.seen["one, a"]) == 3


def test_several_statements_hold_where_all_do_and_are_refuted_by_one():
    def one(supports, contradicts, **more):
        return Finding(f"{supports}", supports=supports, contradicts=contradicts, seeds=3,
                       settled=True, sensitive=True, **more)  # fmt: skip

    both = all_of([one(0.01, NAN), one(0.03, 0.2, lacks="control"), one(0.02, 0.4)])
    assert (both.supports, both.contradicts) == (0.03, pytest.approx(0.4))  # twice the least
    assert (both.evidence, both.lacks) == ("0.01; 0.03; 0.02", "control")  # the weakest's
    unknown = all_of([one(0.01, NAN), one(NAN, NAN, lacks="range")])
    assert math.isnan(unknown.supports)
    assert math.isnan(unknown.contradicts)
    assert unknown.lacks == "range"
    assert all_of([one(0.01, 0.9), one(0.02, 0.8)]).contradicts == 1.0
    dead = one(NAN, NAN, lacks="live units")
    assert all_of([dead, one(0.01, NAN)]).supports == 0.01
    assert all_of([dead, dead]).lacks == "live units"
    alone = one(0.01, NAN)
    assert all_of([alone]) is alone
    few = Finding("", seeds=2, settled=False, sensitive=False)
    joined = all_of([one(0.1, 0.1), few])
    assert (joined.seeds, joined.settled, joined.sensitive) == (2, False, False)


def test_what_the_looks_may_spend_is_all_there_is():
    assert [thresholds.spent(look) for look in (1, 2, 3)] == pytest.approx([1 / 2, 1 / 6, 1 / 12])
    assert sum(thresholds.spent(look) for look in range(1, 10_000)) == pytest.approx(1, abs=1e-3)
