"""What several curves say together: every number and word, made once more from the rows."""

import math

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis import predictions, thresholds
from sparseae.analysis.curves import WHITENED
from sparseae.analysis.prediction import Finding
from tests.analysis.exact import (
    NAN,
    dying,
    found,
    names,
    p_above,
    p_below,
    shifted,
    student,
    table,
    told,
)
from tests.analysis.frames import curve, effect

FLOOR = predictions.FreeWeightsFloor()


def free(shape: str = "flat", **more) -> pd.DataFrame:
    return curve(shape, model="dae", constraint="none", **more)


def test_the_floor_is_judged_at_each_sigma2():
    frame = shifted(free(noise=0.01, seeds=4), {0.09: -0.2})
    level = table(frame)
    value, low, high = student(level[0.09])
    finding = found(FLOOR, frame)
    assert finding.evidence == (
        f"lowest activation {value:.3f} [{low:+.3f}, {high:+.3f}], 4 seeds, sigma2 to 1"
    )
    assert told(finding) == pytest.approx(
        {"supports": max(p_above(level[s], 0.1) for s in level), "contradicts": NAN,
         "effect": value, "low": low, "high": high, "measure": "lowest activation_fraction",
         "seeds": 4, "settled": True, "sensitive": True, "lacks": "seeds", "tested": True},
        nan_ok=True,
    )  # fmt: skip
    below = shifted(free(noise=0.01, seeds=4), {0.09: -0.33, 0.25: -0.31})
    level = table(below)
    finding = found(FLOOR, below)
    assert math.isnan(finding.supports)
    assert finding.contradicts == pytest.approx(6 * min(p_below(level[s], 0.1) for s in level))
    assert finding.lacks == "epochs"


def test_the_floor_says_what_limits_its_curve():
    part = free(sigma2=(0.0, 0.01, 0.09))
    finding = found(FLOOR, part)
    assert finding.evidence.endswith("3 seeds, sigma2 to 0.09 (sigma2 goes to 0.09 only)")
    assert (math.isnan(finding.supports), finding.lacks) == (True, "range")
    one = found(FLOOR, free(rate=1.0, seeds=1, noise=0.0), free(rate=2.0, noise=0.0))
    assert sorted(one.evidence.split("; "))[0] == "rate=1: lowest activation 0.370, 1 seeds"
    assert one.evidence.split("; ")[1].startswith("rate=2: lowest activation 0.370 [")
    assert one.lacks == "seeds"
    assert names(one) == ["dae none"] * 2
    nothing = found(FLOOR, curve("flat", model="dae"))
    assert (nothing.tested, nothing.evidence) == (False, "no relu dae without the constraint")


def test_a_level_below_the_floor_that_still_moves_contradicts_nothing():
    for pace, settled in ((0.0, True), (-0.0045, False)):
        frame = effect(shifted(free(noise=0.002), {1.0: -0.3}), "activation_fraction",
                       lambda e, p=pace: p * (e - 10))  # fmt: skip
        finding = found(FLOOR, frame)
        assert finding.settled is settled
        assert math.isnan(finding.contradicts) is not settled


SPARSER = predictions.ConstraintSparser()


def test_two_kinds_of_curve_are_compared_seed_by_seed_by_the_number_of_each():
    ours = dying({0.49: 0.3, 1.0: 0.4}, noise=0.004, seeds=5)
    theirs = shifted(free(noise=0.004, seeds=5, rng=np.random.default_rng(2)), {0.25: -0.05})
    ours, theirs = ours[ours["seed"] != 1], theirs[theirs["seed"] != 3]
    seeds = [0, 2, 4]
    alive = table(ours)[[0.0, 0.01, 0.09, 0.25]].min(axis=1)
    lowest = table(theirs).min(axis=1)
    gap = (lowest - alive).loc[seeds]
    value, low, high = student(gap)
    finding = found(SPARSER, ours, theirs)
    assert finding.evidence == (
        f"sparsest code before units die {alive.mean():.3f} with the constraint, "
        f"{lowest.mean():.3f} without it, difference {value:+.3f} [{low:+.3f}, {high:+.3f}], "
        "3 seeds"
    )
    assert told(finding) == pytest.approx(
        {"supports": p_above(gap, thresholds.MARGIN), "contradicts": NAN, "effect": value,
         "low": low, "high": high, "measure": "difference of the sparsest code before units die",
         "seeds": 3, "settled": True, "sensitive": True, "lacks": "seeds", "tested": True},
        nan_ok=True,
    )  # fmt: skip
    assert names(finding) == ["dae unit_norm", "dae none"]


def test_a_kind_that_is_less_sparse_is_contradicted_where_the_gap_is_settled():
    ours = curve("flat", model="dae", noise=0.004)
    for pace, settled in ((0.0, True), (0.0045, False)):
        theirs = free(noise=0.004, rng=np.random.default_rng(2))
        theirs = effect(shifted(theirs, {1.0: -0.1}), "activation_fraction",
                        lambda e, p=pace: p * (e - 10))  # fmt: skip
        finding = found(SPARSER, ours, theirs)
        gap = table(theirs).min(axis=1) - table(ours).min(axis=1)
        assert finding.settled is settled
        expected = p_below(gap, -thresholds.MARGIN) if settled else NAN
        assert finding.contradicts == pytest.approx(expected, nan_ok=True)
        assert finding.lacks == ("seeds" if settled else "epochs")


def test_what_two_kinds_of_curve_need():
    ours, theirs = curve("decreasing", model="dae"), free()
    alone = found(SPARSER, ours)
    assert (alone.tested, names(alone)) == (False, ["dae unit_norm"])
    assert alone.evidence == "needs curves with the constraint and without it"
    alone = found(SPARSER, theirs)
    assert (alone.tested, names(alone)) == (False, ["dae none"])
    apart_ = found(SPARSER, ours, free(epochs=20))
    assert apart_.evidence == "with the constraint and without it cannot be compared"
    assert (apart_.lacks, names(apart_)) == ("epochs", ["dae unit_norm", "dae none"])
    for seeds in ([2, 3], [3, 4]):  # one shared seed, or none
        four = curve("decreasing", model="dae", seeds=3), free(seeds=6)
        few = found(SPARSER, four[0], four[1][four[1]["seed"].isin(seeds)])
        assert few.evidence == "fewer than two seeds have both"
        assert (few.lacks, names(few)) == ("seeds", ["dae unit_norm", "dae none"])
    other = found(SPARSER, curve("flat", model="dae", rate=1), free(rate=2))
    assert not other.tested


def test_the_bias_is_compared_in_curves_that_differ_in_nothing_else():
    dae, sae = predictions.BiasNeeded.cases()
    assert (dae.label, sae.label) == ("bias-needed: relu dae", "bias-needed: relu sae")
    for case, model in ((dae, "dae"), (sae, "sae")):
        with_bias = curve("decreasing", model=model, encoder_bias=True, noise=0.003)
        without = curve("flat", model=model, encoder_bias=False, noise=0.003)
        gap = table(without).min(axis=1) - table(with_bias).min(axis=1)
        finding = found(case, with_bias, without, curve("flat", model="cae", encoder_bias=False))
        assert (finding.effect, finding.low, finding.high) == pytest.approx(student(gap))
        assert finding.evidence.startswith("lowest activation ")
        assert " with a bias, " in finding.evidence
        assert " without, difference" in finding.evidence
        assert finding.measure == "difference of the lowest activation"
        assert [c.settings["encoder_bias"] for c, _ in finding.curves] == [True, False]


(UNPREDICTABLE, *_) = predictions.FreeWeightsUnpredictable.cases()


def together(**frames: pd.DataFrame) -> Finding | None:
    """Of each data set the curves of relu cae with free weights."""
    findings = {
        name.replace("_white", WHITENED): found(UNPREDICTABLE, frame)
        for name, frame in frames.items()
    }
    return UNPREDICTABLE.together(findings)


def loose(shape: str, noise: float = 0.003, **more) -> pd.DataFrame:
    return curve(shape, constraint="none", noise=noise, **more)


def p_direction(frame: pd.DataFrame, sign: int) -> float:
    """Twice the one-sided p-value of the change beyond the margin: it may be either direction."""
    change = sign * (table(frame)[1.0] - table(frame)[0.0])
    return 2 * p_above(change, thresholds.MARGIN)


def test_free_weights_are_unpredictable_where_data_sets_go_both_ways():
    rise, fall = loose("increasing", noise=0.03), loose("weak", noise=0.003)
    finding = together(a=rise, b=fall)
    assert finding.evidence == "a increasing; b decreasing"
    larger = max(p_direction(rise, 1), p_direction(fall, -1))
    assert told(finding) == pytest.approx(
        {"supports": 2 * larger, "contradicts": NAN, "effect": NAN, "low": NAN, "high": NAN,
         "measure": "activation_fraction", "seeds": 3, "settled": True, "sensitive": True,
         "lacks": "seeds", "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert names(finding) == ["cae none"] * 2


def test_free_weights_are_predictable_where_all_data_sets_go_one_way():
    for shape, sign in (("increasing", 1), ("decreasing", -1)):
        one, other = loose(shape, noise=0.02), loose(shape, noise=0.004)
        finding = together(a=one, b=other)
        larger = max(p_direction(frame, sign) for frame in (one, other))
        assert finding.contradicts == pytest.approx(larger)
        assert finding.supports > 0.9
        alone = together(a=one)
        assert (alone.lacks, math.isnan(alone.contradicts)) == ("data sets", True)
        assert alone.evidence == f"one data set: a {shape}"
        white = together(a=one, a_white=other)  # another view of the same data
        assert (white.lacks, math.isnan(white.contradicts)) == ("data sets", True)
        moving = effect(other, "activation_fraction", lambda e, s=sign: s * 0.005 * (e - 10))
        unsettled = together(a=one, b=moving)
        assert (unsettled.settled, math.isnan(unsettled.contradicts)) == (False, True)
        part = other[other["sigma2"] < 0.2]
        assert together(a=one, b=part).settled is False
        flat = together(a=one, b=loose("flat"))
        assert math.isnan(flat.contradicts)
        assert flat.settled


def test_over_data_sets_the_least_seeds_and_sensitivity_count_and_one_seed_decides_nothing():
    few = together(a=loose("increasing", seeds=5), b=loose("decreasing", seeds=2, noise=0.001))
    assert few.seeds == 2
    one = together(a=loose("increasing"), b=loose("decreasing", seeds=1))
    assert (one.seeds, math.isnan(one.supports), math.isnan(one.contradicts)) == (1, True, True)
    limit = loose("flat").assign(activation_fraction=0.99)
    assert together(a=loose("increasing"), b=limit).sensitive is False
    assert UNPREDICTABLE.together({"a": found(UNPREDICTABLE, curve("flat"))}) is None


def test_one_irregular_curve_is_enough_to_be_unpredictable():
    bent, flat = loose("irregular", noise=0.02), loose("flat")
    finding = together(a=bent, b=flat)
    (case,) = [found(UNPREDICTABLE, bent)]
    # Either of two ways, and either of two curves; a p-value each.
    assert finding.supports == pytest.approx(2 * 2 * case.supports)
    assert together(a=bent).supports == pytest.approx(2 * case.supports)


(TANH, MAXOUT) = predictions.NoGuarantee.cases()


def test_a_guarantee_is_missing_where_one_model_gets_no_sparser():
    assert (TANH.label, MAXOUT.label) == (
        "no-saturation-no-guarantee: tanh", "no-saturation-no-guarantee: maxout"
    )  # fmt: skip
    falls = curve("decreasing", model="dae", activation="tanh")
    rises = curve("increasing", model="cae", activation="tanh", noise=0.02)
    bends = curve("irregular", model="sae", activation="tanh", noise=0.03)
    finding = found(TANH, falls, rises, bends, curve("increasing", activation="maxout"))
    p = p_direction(rises, 1)
    assert finding.supports == pytest.approx(3 * p)
    change = table(rises)[1.0] - table(rises)[0.0]
    assert (finding.effect, finding.low, finding.high) == pytest.approx(student(change))
    assert finding.evidence == "dae decreasing; cae increasing; sae irregular"
    assert [c.name["model"] for c, _ in finding.curves] == ["dae", "cae", "sae"]
    said = told(finding)
    expected = {"measure": "activation_fraction", "seeds": 3, "settled": True, "sensitive": True,
                "lacks": "seeds", "tested": True}  # fmt: skip
    assert {key: said[key] for key in expected} == expected
    assert math.isnan(finding.contradicts)


def test_a_guarantee_is_not_missed_where_every_model_gets_sparser():
    falls = [curve("decreasing", model=m, activation="maxout") for m in ("mdae", "dae")]
    finding = found(MAXOUT, *falls)
    assert (math.isnan(finding.supports), finding.lacks) == (True, "epochs")
    assert finding.evidence == "dae decreasing; mdae decreasing"
    part = found(MAXOUT, curve("flat", activation="maxout", sigma2=(0.0, 0.01)))
    assert part.evidence == "cae flat (sigma2 goes to 0.01 only)"
    assert found(MAXOUT, curve("flat", activation="maxout", seeds=1)).lacks == "seeds"
    nothing = found(TANH, curve("flat"))
    assert (nothing.tested, nothing.evidence) == (False, "no tanh under unit_norm")
