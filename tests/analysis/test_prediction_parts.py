"""What the predictions are made of: words, settings, and p-values that a drift takes away."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparseae.analysis.curves import Curve
from sparseae.analysis.inference import Effect
from sparseae.analysis.prediction import (
    PREDICTIONS,
    Evidence,
    Finding,
    Prediction,
    apart,
    claims,
    corruptions_of,
    described,
    every_case,
    has_bias,
    interval_words,
    lacks_of,
    limited,
    same_settings,
    variant_words,
)
from sparseae.analysis.trends import judge
from tests.analysis.frames import curve, measured


def judged(*frames: pd.DataFrame):
    return judge(pd.concat(frames))


def still(*now: float, pace: float = 0.0) -> Effect:
    """An effect of a seed each, that goes on at a pace."""
    column = np.array(now)[:, None]
    return Effect(column, np.full_like(column, pace), np.full_like(column, pace))


def test_the_stronger_claim_has_the_smaller_p_value():
    assert Finding("", supports=0.2, contradicts=0.1).p == 0.1
    assert Finding("", supports=0.2).p == 0.2
    assert math.isnan(Finding("").p)
    assert Finding("").tested


def test_numbers_in_words():
    assert interval_words(-0.1234, 2) == " [-0.123, +2.000]"
    assert interval_words(math.nan, 1) == ""
    ((_, trend),) = judged(curve("decreasing", noise=0.0))
    assert described(trend) == (
        "decreasing: activation 0.380 -> 0.020, -0.360 [-0.360, -0.360]; "
        "E[a_j] -0.900 [-0.900, -0.900]; 3 seeds, 10 epochs"
    )
    ((_, trend),) = judged(curve("decreasing", seeds=1).drop(columns="pre_activation_mean"))
    assert described(trend).endswith("; 1 seeds, 10 epochs (one seed: descriptive; E[a_j] unknown)")
    assert "E[a_j] -" not in described(trend)
    alone, *_ = judged(curve())[0]
    assert variant_words(alone) == ""
    (one, _), _ = judged(curve(rate=0.1), curve(rate=0.2))
    assert variant_words(one) == "rate=0.1: "


def test_what_is_not_said_of_a_curve_is_the_default():
    (plain, _), = judged(curve())  # fmt: skip
    assert (has_bias(plain), corruptions_of(plain)) == (True, 1)
    (other, _), = judged(curve(encoder_bias=False, corruptions=4))  # fmt: skip
    assert (has_bias(other), corruptions_of(other)) == (False, 4)
    unknown = replace(plain, settings={"corruptions": None, "encoder_bias": None})
    assert (has_bias(unknown), corruptions_of(unknown)) == (True, 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"b": 2}, True),
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, False),
        ({"a": None}, {"a": 2}, True),
        ({"a": 2}, {"a": None}, True),
        ({"free": 1}, {"free": 2}, True),
    ],
)
def test_settings_agree_where_both_are_known(one, other, same):
    (plain, _), = judged(curve())  # fmt: skip
    curves = [replace(plain, settings=settings) for settings in (one, other)]
    assert same_settings(*curves, {"free"}) is same


def test_curves_are_found_by_what_they_are():
    kinds = [
        ("dae", "relu", "none", True, 2), ("dae", "relu", "none", True, 9),
        ("dae", "relu", "none", False, 2), ("cae", "relu", "none", True, 2),
        ("dae", "tanh", "none", True, 2), ("dae", "relu", "max", True, 2),
    ]  # fmt: skip
    frames = [
        curve(model=m, activation=a, constraint=c, encoder_bias=b, corruptions=k, sigma2=(0, 1))
        for m, a, c, b, k in kinds
    ]
    found = Evidence(judged(*frames))

    def names(*asked, **more) -> list:
        return [(c.name["model"], c.name["activation"], c.name["constraint"], has_bias(c),
                 corruptions_of(c)) for c, _ in found.find(*asked, **more)]  # fmt: skip

    assert names("dae", "relu", "none") == [("dae", "relu", "none", True, 2)]
    assert names("dae", "relu", "none", encoder_bias=False) == [("dae", "relu", "none", False, 2)]
    assert names("dae", "relu", "none", most_corruptions=True) == [
        ("dae", "relu", "none", True, 2), ("dae", "relu", "none", True, 9)
    ]  # fmt: skip
    assert names("cae", "relu", "max") == []


def test_the_theory_is_asked_of_curves_that_were_measured_and_trained():
    with_theory = measured(curve())
    begun = with_theory[with_theory["epoch"] == 0]
    without_bias = measured(curve(encoder_bias=False))
    for frame, count in ((with_theory, 1), (begun, 0), (without_bias, 0), (curve(), 0)):
        assert len(Evidence(judged(frame)).measured) == count


def test_a_trend_lacks_what_comes_first():
    ((_, whole),) = judged(curve())
    assert lacks_of(whole) == ""
    assert lacks_of(replace(whole, descriptive=True)) == "seeds"
    assert lacks_of(replace(whole, descriptive=True, sigma2_values=1)) == "trials"
    assert lacks_of(replace(whole, sigma2_values=2)) == ""
    assert lacks_of(replace(whole, alive=False, sigma2_values=1)) == "live units"


def test_a_mean_is_limited_by_students_t_where_it_lasts():
    now = (0.1, 0.2, 0.12)
    t = stats.ttest_1samp(now, 0.5), stats.ttest_1samp(now, 0.05)
    below, above = limited(still(*now), 0.5, 0.05)
    assert below == pytest.approx(t[0].pvalue / 2)
    assert above == pytest.approx(t[1].pvalue / 2) or math.isnan(above)
    same = still(0.2, 0.2, 0.2)
    assert limited(same, 0.3, 0.1) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    for pace, lasts in ((0.02, (False, True)), (-0.02, (True, False))):
        moving = limited(still(0.2, 0.2, 0.2, pace=pace), 0.3, 0.1)
        assert tuple(p == p for p in moving) == lasts
    assert all(math.isnan(p) for p in limited(still(0.2), 0.3, 0.1))
    nowhere = limited(still(0.2, 0.2, 0.2, pace=math.nan), 0.3, 0.1)  # no pace is asked for
    assert nowhere == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize(
    ("gap", "pace", "shown"),
    [(0.1, 0, True), (-0.1, 0, True), (0.02, 0, False), (0.1, -0.01, False), (-0.1, 0.01, False)],
)
def test_curves_are_apart_where_their_gap_is_beyond_the_margin_and_lasts(gap, pace, shown):
    p = apart(still(gap, gap, gap, pace=pace))
    assert (p <= 0.05) == shown
    assert math.isnan(p) != shown


@pytest.mark.parametrize(
    ("sigma2", "shape", "control", "flat", "lacks", "words"),
    [
        ((0, 0.25, 1), "flat", True, True, "seeds", "; control dae"),
        ((0, 0.25, 1), "flat", False, False, "control", "; no positive control"),
        ((0, 0.1, 0.2), "flat", True, False, "range", ""),
    ],
)
def test_flat_needs_the_range_and_a_control(sigma2, shape, control, flat, lacks, words):
    frames = [curve(shape, noise=0.0, sigma2=sigma2)]
    if control:
        frames.append(curve("decreasing", model="dae", sigma2=sigma2))
    found = judged(*frames)
    (pair,) = [pair for pair in found if pair[0].name["model"] == "cae"]
    claimed = claims(Evidence(found), *pair)
    assert (claimed.p["flat"] == claimed.p["flat"]) is flat
    assert (claimed.lasting["flat"] == claimed.lasting["flat"]) is flat
    assert (claimed.lacks, claimed.words) == (lacks, words)


def test_of_one_seed_and_of_dead_units_nothing_is_claimed():
    for frame in (curve("decreasing", seeds=1), curve("decreasing", dead=lambda s: 0.9)):
        (pair,) = judged(frame)
        claimed = claims(Evidence([pair]), *pair)
        assert set(claimed.p) == set(claimed.lasting) == {
            "flat", "decreasing", "increasing", "irregular"
        }  # fmt: skip
        assert all(math.isnan(p) for p in (*claimed.p.values(), *claimed.lasting.values()))


def test_a_class_with_a_name_is_a_prediction_and_its_cases_have_labels_of_their_own():
    before = list(PREDICTIONS)

    class Unnamed(Prediction):
        claim, section = "so", "1"

    assert before == PREDICTIONS
    labels = [case.label for case in every_case()]
    assert len(labels) == len(set(labels)) > 40
    assert {label.split(":")[0] for label in labels} == {kind.name for kind in PREDICTIONS}
    with pytest.raises(NotImplementedError):
        Unnamed().test(Evidence([]))
    assert Unnamed().together({}) is None
    assert isinstance(judged(curve())[0][0], Curve)
