"""Every number and word of a finding, made once more from the rows by pandas and scipy."""

import math

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis import predictions, thresholds
from sparseae.analysis.prediction import Finding
from sparseae.analysis.trends import judge
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

EQUAL = predictions.MdaeEqualsCae()
CONTROL = curve("decreasing", model="dae")
MDAE_LESS_CAE = "activation_fraction of mdae less that of cae"


def pair(noise: float, seeds: int = 4, shift: dict | None = None) -> tuple:
    cae = curve("flat", noise=noise, seeds=seeds)
    mdae = curve("flat", model="mdae", noise=noise, seeds=seeds, rng=np.random.default_rng(4))
    return cae, shifted(mdae, shift or {})


def test_equality_is_of_the_paired_gap_at_each_sigma2_above_0():
    cae, mdae = pair(0.001, shift={0.0: 0.5, 0.09: -0.004})
    gap = (table(mdae) - table(cae)).drop(columns=0.0)
    worst = gap.mean().abs().idxmax()
    value, low, high = student(gap[worst])
    finding = found(EQUAL, cae, mdae, CONTROL)
    assert finding.evidence == (
        f"mdae - cae is {value:+.4f} [{low:+.4f}, {high:+.4f}] where they differ most, 4 seeds; "
        "control dae"
    )
    within = max(p_above(gap[1.0], -0.01), p_below(gap[1.0], 0.01))
    assert told(finding) == pytest.approx(
        {"supports": within, "contradicts": NAN, "effect": value, "low": low, "high": high,
         "measure": MDAE_LESS_CAE, "seeds": 4, "settled": True, "sensitive": True,
         "lacks": "seeds", "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert names(finding) == ["cae unit_norm", "mdae unit_norm"]


@pytest.mark.parametrize(
    ("column", "shift", "supported"),
    [
        ("activation_fraction", 0.008, True),
        ("activation_fraction", 0.012, False),
        ("pre_activation_mean", 0.02, True),
        ("pre_activation_mean", 0.03, False),
    ],
)
def test_curves_are_equal_within_a_hundredth_or_as_much_of_e_a(column, shift, supported):
    cae, mdae = pair(0.0003)
    mdae = shifted(mdae, dict.fromkeys((0.01, 0.09, 0.25, 0.49, 1.0), shift), column)
    finding = found(EQUAL, cae, mdae, CONTROL)
    assert (finding.supports <= 0.05) == supported
    alone = found(EQUAL, cae, mdae)
    assert math.isnan(alone.supports)
    assert alone.lacks == "control"
    assert "control" not in alone.evidence


def test_a_gap_beyond_the_margin_that_stays_contradicts_equality():
    for shift in (0.06, -0.06):
        cae, mdae = pair(0.004, shift={0.25: shift, 1.0: shift})
        gap = (table(mdae) - table(cae)).drop(columns=0.0) * np.sign(shift)
        finding = found(EQUAL, cae, mdae)
        least = min(p_above(gap[sigma2], thresholds.MARGIN) for sigma2 in gap)
        assert finding.contradicts == pytest.approx(len(gap.columns) * least)
        assert np.sign(finding.effect) == np.sign(shift)


@pytest.mark.parametrize("column", ["activation_fraction", "pre_activation_mean"])
@pytest.mark.parametrize(("times", "settled"), [(0.8, True), (1.2, False)])
def test_a_gap_is_settled_where_as_long_again_moves_neither_measure_by_its_margin(
    column, times, settled
):
    margin = 0.01 if column == "activation_fraction" else 0.025
    cae, mdae = pair(0.0)
    mdae = shifted(mdae, {1.0: 0.1})
    moving = effect(mdae, column, lambda e: times * margin * (e - 10) / 10)
    finding = found(EQUAL, cae, moving, CONTROL)
    assert finding.settled is settled
    assert math.isnan(finding.contradicts) is not settled


def test_the_gap_lacks_seeds_or_control_or_nothing_between_equality_and_the_margin():
    for shift, lacks in ((0.0, "seeds"), (0.02, "nothing"), (-0.02, "nothing"), (0.04, "epochs")):
        cae, mdae = pair(0.0003, shift=dict.fromkeys((0.01, 0.09, 0.25, 0.49, 1.0), shift))
        assert found(EQUAL, cae, mdae, CONTROL).lacks == lacks
        if abs(shift) < thresholds.MARGIN:  # or mdae is itself what has moved
            assert found(EQUAL, cae, mdae).lacks == "control"


def test_equality_is_not_sensitive_where_either_curve_stands_at_its_limit():
    cae, mdae = pair(0.0001)
    assert found(EQUAL, cae, mdae).sensitive is True
    for at_the_limit in (cae, mdae):
        frames = [f.assign(activation_fraction=0.99) if f is at_the_limit else f
                  for f in (cae, mdae)]  # fmt: skip
        assert found(EQUAL, *frames).sensitive is False


def test_the_gap_is_of_the_seeds_and_sigma2_that_both_have():
    cae, mdae = pair(0.001, seeds=6)
    cae = cae[(cae["seed"] != 1) & (cae["sigma2"] != 0.09)]
    mdae = mdae[(mdae["seed"] != 3) & (mdae["sigma2"] != 0.49)]
    cae.loc[cae["seed"] == 0, "dead_fraction"] = 0.5  # dead from the start: not compared
    mdae.loc[mdae["seed"] == 5, "dead_fraction"] = 0.5
    gap = (table(mdae) - table(cae)).loc[[2, 4], [0.01, 0.25, 1.0]]
    worst = gap.mean().abs().idxmax()
    finding = found(EQUAL, cae, mdae)
    assert (finding.seeds, finding.effect, finding.low, finding.high) == pytest.approx(
        (2, *student(gap[worst]))
    )


@pytest.mark.parametrize(("there", "components"), [(0, 4), (1, 4), (2, 5)])
def test_a_sigma2_of_which_two_seeds_have_the_gap_is_compared(there, components):
    cae, mdae = pair(0.001, seeds=3, shift={0.25: 0.06})
    lost = (mdae["sigma2"] == 0.01) & (mdae["seed"] >= there)
    mdae = mdae.assign(status=np.where(lost, "diverged", "ok"))
    ((one, _), (other, _)) = judge(pd.concat([cae, mdae]))
    gaps = predictions._gaps(one, other)
    assert list(gaps) == ["activation_fraction", "pre_activation"]
    assert all(gap.now.shape == (3, components) for gap in gaps.values())


def test_what_cannot_be_compared_lacks_epochs_trials_or_what_a_curve_lacks():
    cae, mdae = pair(0.001)
    few = [curve("flat", model=model, epochs=4) for model in ("cae", "mdae")]
    least = [curve("flat", model=model, epochs=5) for model in ("cae", "mdae")]
    assert found(EQUAL, *least).lacks == "control"
    for frames, lacks in (
        ((cae, curve("flat", model="mdae", epochs=20)), "epochs"),
        (few, "epochs"),
        ((cae, mdae[mdae["seed"] == 0]), "seeds"),
        ((cae, mdae.assign(dead_fraction=0.9)), "live units"),
        ((cae[cae["seed"] < 2], mdae[mdae["seed"] > 1]), "trials"),
        ((cae[cae["seed"] < 3], mdae[mdae["seed"] > 1]), "trials"),  # one seed is none
    ):
        finding = found(EQUAL, *frames)
        assert finding.evidence == "cae and mdae cannot be compared"
        assert told(finding) == pytest.approx(told(Finding("", lacks=lacks)), nan_ok=True)
        assert names(finding) == ["cae unit_norm", "mdae unit_norm"]


def test_equality_needs_both_models_with_the_same_settings():
    cae, mdae = (curve("flat", model=model, rate=rate) for model, rate in
                 (("cae", 0.1), ("mdae", 0.2)))  # fmt: skip
    for frames, there in (((cae,), ["cae"]), ((mdae,), ["mdae"]), ((cae, mdae), ["cae", "mdae"])):
        finding = found(EQUAL, *frames)
        assert not finding.tested
        assert finding.evidence == "no pairs of relu cae and mdae under unit_norm"
        assert names(finding) == [f"{model} unit_norm" for model in there]
    both = [curve("flat", model=m, rate=r) for m in ("cae", "mdae") for r in (0.1, 0.2)]
    finding = found(EQUAL, *both)
    assert finding.evidence.count("where they differ most") == 2
    assert [c.settings["rate"] for c, _ in finding.curves] in ([0.1] * 2 + [0.2] * 2,
                                                              [0.2] * 2 + [0.1] * 2)  # fmt: skip


LATE = predictions.DeadUnitsLate()
RISE = thresholds.DEAD_RISE


def test_dead_units_rise_between_two_activation_fractions():
    """Where they can begin to: interpolated, from the last sigma2 without risen dead units."""
    frame = dying({0.0: 0.02, 0.01: 0.02, 0.09: 0.025, 0.25: 0.225, 0.49: 0.5, 1.0: 0.9}, seeds=4)
    activation = table(frame)
    share = (0.02 + RISE - 0.025) / (0.225 - 0.025)
    crossing = activation[0.09] + share * (activation[0.25] - activation[0.09])
    value, low, high = student(crossing)
    finding = found(LATE, frame)
    below = activation[0.25].mean()
    assert below < thresholds.NEAR_FIVE_PERCENT < value
    assert finding.evidence == (
        f"dead units begin to rise between activation {value:.3f} and {below:.3f}, 4 seeds"
    )
    assert told(finding) == pytest.approx(
        {"supports": NAN, "contradicts": NAN, "effect": value, "low": low, "high": high,
         "measure": "activation_fraction where dead units can begin to rise", "seeds": 4,
         "settled": True, "sensitive": True, "lacks": "sigma2", "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert finding.hint == (
        f"More values of sigma2 between those with activation {value:.3f} and {below:.3f}, or "
        "larger ones."
    )
    assert names(finding) == ["dae unit_norm"]


@pytest.mark.parametrize(
    ("first", "supported", "contradicted"), [(0.49, True, False), (0.01, False, True)]
)
def test_dead_units_that_rise_late_or_early_are_judged_by_students_t(
    first, supported, contradicted
):
    frame = dying(dict.fromkeys([s for s in (0.01, 0.09, 0.25, 0.49, 1.0) if s >= first], 0.4))
    activation = table(frame)
    before = {0.49: 0.25, 0.01: 0.0}[first]
    share = RISE / 0.4
    crossing = activation[before] + share * (activation[first] - activation[before])
    finding = found(LATE, frame)
    late = thresholds.NEAR_FIVE_PERCENT
    assert finding.supports == pytest.approx(
        p_below(crossing, late) if supported else NAN, nan_ok=True
    )
    assert finding.contradicts == pytest.approx(
        p_above(activation[first], late) if contradicted else NAN, nan_ok=True
    )
    assert (finding.lacks, finding.hint, finding.settled) == ("seeds", "", True)


def test_where_no_dead_unit_rises_the_lowest_activation_fraction_says_how_far_it_was_seen():
    frame = dying(dict.fromkeys((0.0, 0.01, 0.09, 0.25, 0.49, 1.0), 0.05))
    lowest = table(frame).min(axis=1)
    finding = found(LATE, frame)
    value, low, high = student(lowest)
    words = f"no rise of dead units down to activation {value:.3f}, 3 seeds"
    assert finding.evidence == words
    assert (finding.effect, finding.low, finding.high) == pytest.approx((value, low, high))
    assert finding.supports == pytest.approx(p_below(lowest, thresholds.NEAR_FIVE_PERCENT))
    assert math.isnan(finding.contradicts)
    assert (finding.lacks, finding.settled) == ("seeds", True)
    high_up = frame.assign(activation_fraction=frame["activation_fraction"] + 0.3)
    finding = found(LATE, high_up)
    assert (finding.lacks, finding.supports != finding.supports) == ("sigma2", True)


def test_of_dead_units_that_still_move_nothing_is_contradicted():
    early = dying(dict.fromkeys((0.01, 0.09, 0.25, 0.49, 1.0), 0.4), noise=0.0)
    for pace, settled in ((0.0028, True), (0.0032, False)):
        moving = early.assign(
            activation_fraction=early["activation_fraction"] + pace * (early["epoch"] - 10)
        )
        finding = found(LATE, moving)
        assert finding.settled is settled
        assert math.isnan(finding.contradicts) is not settled
        assert finding.lacks == ("seeds" if settled else "epochs")


def test_dead_units_of_variants_are_told_apart_and_of_one_seed_only_noted():
    frames = [dying({1.0: 0.3}, rate=rate) for rate in (0.1, 0.2)]
    words = found(LATE, *frames).evidence.split("; ")
    assert sorted(word.split(": ")[0] for word in words) == ["rate=0.1", "rate=0.2"]
    one = [frame[frame["seed"] == 0] for frame in frames]
    finding = found(LATE, *one)
    notes = {f"rate={rate}: one seed: descriptive" for rate in (0.1, 0.2)}
    assert set(finding.evidence.split("; ")) == notes
    assert (finding.lacks, len(finding.curves)) == ("seeds", 2)
    nothing = found(LATE, curve("flat"))
    assert (nothing.tested, nothing.evidence) == (False, "no relu dae under unit_norm")


@pytest.mark.parametrize(
    ("dead", "crossing", "seen", "alive"),
    [
        ([0.0, 0.0, 0.0], 0.1, 0.0, 0.1),  # none rises: the lowest
        ([0.1, 0.11, 0.3], 0.3, 0.1, 0.3),  # a rise by DEAD_RISE is none yet
        ([0.0, 0.04, 0.3], 0.45, 0.3, 0.5),  # a quarter of the way
        ([0.0, 0.005, 0.025], 0.25, 0.1, 0.3),
    ],
)
def test_where_dead_units_begin_is_interpolated_over_sigma2(dead, crossing, seen, alive):
    activation, dead = np.array([0.5, 0.3, 0.1]), np.array(dead)
    assert predictions._crossing(activation, dead) == pytest.approx(crossing)
    assert predictions._seen(activation, dead) == pytest.approx(seen)
    assert predictions._alive(activation, dead) == pytest.approx(alive)
    assert predictions._lowest(activation, dead) == 0.1


def test_a_number_of_a_seed_is_of_the_sigma2_that_it_has():
    a, d = np.array([0.5, np.nan, 0.2, 0.1]), np.array([0.0, 0.0, np.nan, 0.0])
    taken = predictions._of_known(lambda a, d: float(a.sum() + d.size), a, d)
    assert taken == pytest.approx(0.6 + 2)
    assert math.isnan(predictions._of_known(lambda a, d: 1.0, a * np.nan, d))
