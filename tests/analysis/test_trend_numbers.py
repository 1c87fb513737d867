"""Every number and word of a trend, made once more from the rows by pandas and scipy."""

import html
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparseae import trends
from sparseae.analysis import thresholds
from sparseae.analysis.trends import ACTIVATION, MARGINS, PRE_ACTIVATION, Shown, at_the_end, judge
from tests.analysis.frames import SIGMA2, curve, effect


def only(frame: pd.DataFrame):
    (row,) = trends(frame).itertuples()
    return row


def by_sigma2(frame: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """(seeds, sigma2) at the last epoch."""
    last = frame.assign(value=values)[frame["epoch"] == frame["epoch"].max()]
    return last.pivot_table(index="seed", columns="sigma2", values="value")


def student(values: pd.Series) -> tuple[float, float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return values.mean(), low, high


@pytest.mark.parametrize("shape", ["irregular", "decreasing", "increasing"])
@pytest.mark.parametrize("sigma2", [SIGMA2, (0.04, 0.09, 0.49)])
def test_every_number_is_what_its_name_says(shape, sigma2):
    frame = curve(shape, sigma2=sigma2, seeds=4, noise=0.02, dead=lambda s: 0.02 + 0.2 * s)
    random = np.random.default_rng(3)
    frame["weight_norm_mean"] = random.uniform(0.5, 2, len(frame))
    frame["dead_fraction"] *= random.uniform(0.9, 1.1, len(frame))
    row = only(frame)
    activation = by_sigma2(frame, frame["activation_fraction"])
    pre = by_sigma2(frame, frame["pre_activation_mean"] / frame["weight_norm_mean"])
    dead = by_sigma2(frame, frame["dead_fraction"]).mean()
    low, high = sigma2[0], sigma2[-1]
    onset = next(s for s in sigma2 if dead[s] > dead[low] + 0.01)
    pairs = [(a, b) for i, a in enumerate(sigma2) for b in sigma2[i + 1 :]]
    expected = {
        "seeds": 4, "sigma2_values": len(sigma2), "sigma2_first": low, "sigma2_last": high,
        "first": activation[low].mean(), "last": activation[high].mean(),
        "lowest": activation.mean().min(),
        "largest_change": activation.sub(activation[low], axis=0).mean().abs().max(),
        "pre_first": pre[low].mean(), "pre_last": pre[high].mean(),
        "tau": np.mean([np.sign(activation[b] - activation[a]).mean() for a, b in pairs]),
        "dead_first": dead[low], "dead_last": dead[high], "dead_onset_sigma2": onset,
        "dead_onset_activation": activation[onset].mean(),
        "epochs": 10, "trials": 4 * len(sigma2), "diverged": 0, "unfinished": 0,
    }  # fmt: skip
    change, of_pre = (student(of[high] - of[low]) for of in (activation, pre))
    expected |= dict(zip(("change", "change_low", "change_high"), change, strict=True))
    expected |= dict(zip(("pre_change", "pre_low", "pre_high"), of_pre, strict=True))
    found = row._asdict()
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert (row.descriptive, row.alive, row.sensitive, row.measure) == (
        False, True, True, ACTIVATION
    )  # fmt: skip


def test_a_curve_of_nothing_has_no_numbers():
    frame = curve("decreasing").assign(status="diverged", activation_fraction=np.nan)
    row = only(frame)._asdict()
    numbers = ["first", "last", "lowest", "change", "change_low", "change_high", "tau", "p",
               "largest_change", "pre_first", "pre_last", "pre_change", "pre_low", "pre_high",
               "dead_first", "dead_last", "dead_onset_sigma2", "sigma2_first",
               "sigma2_last", "dead_onset_activation"]  # fmt: skip
    assert all(isinstance(row[name], float) and np.isnan(row[name]) for name in numbers)
    assert [row[k] for k in ("seeds", "sigma2_values", "trials", "diverged")] == [0, 0, 18, 18]
    assert not any(row[k] for k in ("settled", "alive", "sensitive", "descriptive"))
    assert row["trend"] == "undecided"


def test_one_value_of_sigma2_has_levels_and_no_change():
    row = only(curve("flat", sigma2=(0.25,), noise=0.0, dead=lambda s: 0.05))._asdict()
    levels = {"first": 0.37, "last": 0.37, "lowest": 0.37, "dead_first": 0.05, "dead_last": 0.05,
              "sigma2_first": 0.25, "sigma2_last": 0.25, "sigma2_values": 1, "seeds": 3,
              "pre_first": -0.325, "pre_last": -0.325}  # fmt: skip
    assert {name: row[name] for name in levels} == pytest.approx(levels)
    for name in ("change", "change_low", "pre_change", "pre_high", "tau", "largest_change"):
        assert isinstance(row[name], float)
        assert np.isnan(row[name]), name
    assert (row["settled"], row["alive"], row["sensitive"]) == (False, True, True)


def test_a_level_within_the_margin_of_0_or_1_is_at_the_end():
    assert [at_the_end(level) for level in (0, 0.03, 0.0301, 0.5, 0.9699, 0.97, 1)] == [
        True, True, False, False, False, True, True
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "change", "measure"),
    [
        (0.5, 0.0, ACTIVATION),
        (0.5, 0.3, ACTIVATION),
        (0.02, 0.0, PRE_ACTIVATION),
        (0.02, 0.3, ACTIVATION),  # it has left its limit
        (0.98, 0.0, PRE_ACTIVATION),
        (0.98, -0.3, ACTIVATION),
    ],
)
def test_e_a_decides_where_the_activation_fraction_stands_at_its_limit(level, change, measure):
    frame = curve("flat", noise=0.0)
    frame["activation_fraction"] = level + change * frame["sigma2"]
    row = only(frame)
    assert row.measure == measure
    assert row.sensitive == (level == 0.5)
    (pair,) = judge(frame)
    known = {ACTIVATION: (row.change, row.change_low, row.change_high),
             PRE_ACTIVATION: (row.pre_change, row.pre_low, row.pre_high)}  # fmt: skip
    assert pair[1].effect == known[measure]
    assert {name: pair[1].change_in(name) for name in known} == known


@pytest.mark.parametrize(
    ("sigma2", "full"),
    [((0.0, 0.1, 0.25), True), ((0.0, 0.1, 0.24), False), ((0.01, 1.0), False), ((0, 1), True)],
)
def test_the_full_range_is_from_0_to_a_quarter_at_least(sigma2, full):
    ((_, trend),) = judge(curve("flat", sigma2=sigma2))
    assert trend.full_range is full


@pytest.mark.parametrize("measure", [ACTIVATION, PRE_ACTIVATION])
@pytest.mark.parametrize(("times", "moved"), [(-2, True), (-0.5, False), (0.5, False), (2, True)])
def test_a_curve_has_moved_where_its_whole_interval_is_beyond_the_margin(measure, times, moved):
    frame = curve("flat", noise=0.0)
    column = {ACTIVATION: measure, PRE_ACTIVATION: "pre_activation_mean"}[measure]
    frame = effect(frame, column, lambda e: times * MARGINS[measure] * (e > 0))
    ((_, trend),) = judge(frame)
    assert trend.moved(measure) is moved
    assert not trend.moved({ACTIVATION: PRE_ACTIVATION, PRE_ACTIVATION: ACTIVATION}[measure])
    # Seeds that disagree: the mean is beyond the margin, the interval is not.
    frame[column] += 0.5 * (frame["seed"] - 1) * frame["sigma2"]
    ((_, trend),) = judge(frame)
    assert not trend.moved(measure)


@pytest.mark.parametrize(
    ("levels", "trend"),
    [
        ((0.0, 0.03), "flat"),  # a margin is no move
        ((0.03, 0.0), "flat"),
        ((0.0, 0.0301), "increasing"),
        ((0.0301, 0.0), "decreasing"),
        ((0.0, 0.03, 0.0), "flat"),
        ((0.0, 0.0301, 0.0), "irregular"),
        ((0.0, 0.0301, 0.02), "increasing"),
        ((0.5, 0.48, 0.52), "flat"),  # what counts is the change from the smallest sigma2
        ((0.5, 0.46, 0.52), "irregular"),
        ((0.01, 0.04, 0.0), "flat"),  # it rises by the margin, and falls by more
        ((0.03, 0.0, 0.5), "increasing"),
    ],
)
def test_of_one_seed_the_class_is_what_is_there(levels, trend):
    sigma2 = (0.0, 0.25, 1.0)[: len(levels)]
    frame = curve("flat", sigma2=sigma2, seeds=1)
    frame["activation_fraction"] = frame["sigma2"].map(dict(zip(sigma2, levels, strict=True)))
    row = only(frame)
    assert (row.trend, row.descriptive) == (trend, True)
    assert np.isnan(row.p)


def test_a_dead_seed_alone_leaves_no_curve_and_one_live_seed_beside_it_none_that_is_alive():
    frame = curve("decreasing", seeds=2)
    assert only(frame[frame["seed"] == 0]).alive
    frame.loc[frame["seed"] == 0, "dead_fraction"] = 0.1001
    row = only(frame)
    assert (row.seeds, row.alive) == (1, False)
    row = only(frame[frame["seed"] == 0])
    assert (row.seeds, row.alive) == (0, False)
    frame.loc[frame["seed"] == 0, "dead_fraction"] = 0.1  # not more than a tenth
    assert only(frame).seeds == 2


def without(frame: pd.DataFrame, seed: int, sigma2: float) -> pd.DataFrame:
    return frame[(frame["seed"] != seed) | (frame["sigma2"] != sigma2)]


def noted(kind: str) -> pd.DataFrame:
    """A frame that has one thing to say."""
    flat = curve("flat", noise=0.0)
    if kind == "no 0":
        return flat[flat["sigma2"] > 0]
    if kind == "short":
        return flat[flat["sigma2"] < 0.2]
    if kind == "one seed":
        return flat[flat["seed"] == 1]
    if kind == "no E":
        return flat.drop(columns="pre_activation_mean")
    if kind == "limit":
        return flat.assign(activation_fraction=0.99)
    if kind == "few epochs":
        return curve("flat", noise=0.0, epochs=4)
    if kind == "moves":
        return effect(flat, "activation_fraction", lambda e: -0.02 * e)
    if kind == "one sigma2":
        return flat[flat["sigma2"] == 0.25]
    if kind == "a seed without 0":
        return without(curve("flat", noise=0.0, seeds=4), 2, 0.0)
    if kind == "no trials":
        return flat.assign(status="diverged")
    if kind == "few seeds at a sigma2":
        return without(without(flat, 1, 0.25), 2, 0.25)
    assert kind == "one diverged"
    wild = (flat["seed"] == 0) & (flat["sigma2"] == 1.0)
    return flat.assign(status=np.where(wild, "diverged", "ok"))


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("no 0", "no sigma2 = 0: compared with 0.01"),
        ("short", "sigma2 goes to 0.09 only"),
        ("one seed", "one seed: descriptive"),
        ("no E", "E[a_j] unknown"),
        ("limit", "activation fraction at its limit at the smallest sigma2"),
        ("few epochs", "too few epochs to see a pace"),
        ("moves", "the effect still moves"),
        ("one sigma2", "fewer than two values of sigma2"),
        ("a seed without 0", "1 seed left out for missing trials"),
        ("no trials", "18 diverged trials left out; no complete trials"),
        ("few seeds at a sigma2", "1 sigma2 left out for missing trials"),
        ("one diverged", "1 diverged trial left out; 1 sigma2 left out for missing trials"),
    ],
)
def test_a_note_says_what_limits_a_curve_and_nothing_else(kind, note):
    assert only(noted(kind)).note == note


def test_what_nothing_limits_has_no_note():
    assert only(curve("flat", noise=0.0)).note == ""


def test_a_notebook_shows_what_a_curve_is_and_its_numbers():
    shown = trends(curve("flat", learning_rate=0.1))._repr_html_()
    assert re.findall("<th>(.*?)</th>", html.unescape(shown)) == [
        "dataset", "constraint", "activation", "model", "variant", "trend", "first", "last",
        "change", "seeds",
    ]  # fmt: skip


def test_a_statement_needs_a_p_value_of_5_percent_and_takes_the_least():
    """Of a direction twice the one-sided p of the change beyond the margin: it may be either."""
    frame = curve("decreasing", seeds=3, noise=0.0)
    random = np.random.default_rng(0)
    for spread, trend in ((0.02, "decreasing"), (0.3, "undecided")):
        shift = dict(enumerate(random.permutation([-spread, 0.0, spread])))
        moved = frame.assign(
            activation_fraction=frame["activation_fraction"]
            + frame["seed"].map(shift) * (frame["sigma2"] == 1.0)
        )
        row = only(moved)
        changes = -0.36 * (1 - np.exp(-12)) + np.array([-spread, 0.0, spread])
        t = (-changes.mean() - thresholds.MARGIN) / stats.sem(changes)
        p = 2 * stats.t.sf(t, 2)
        assert row.trend == trend
        assert (p <= 0.05) == (trend == "decreasing")
        assert trend == "undecided" or row.p == pytest.approx(p)


def test_a_rise_by_no_more_than_the_margin_leaves_a_fall_a_fall():
    frame = curve("flat", sigma2=(0.0, 0.25, 1.0), noise=0.0)
    for last, trend in ((0.03, "decreasing"), (0.0301, "irregular")):
        levels = frame["sigma2"].map({0.0: 0.25, 0.25: 0.0, 1.0: last})
        assert only(frame.assign(activation_fraction=levels)).trend == trend


def test_flat_is_shown_with_the_p_value_of_the_measure_that_decides():
    """Two one-sided tests of the change to the largest sigma2."""
    shifts = {0: -0.01, 1: 0.0, 2: 0.013}
    frame = curve("flat", noise=0.0).assign(activation_fraction=0.99)
    moved = frame["seed"].map(shifts) * (frame["sigma2"] == 1.0)
    frame["pre_activation_mean"] += moved
    row = only(frame)
    assert (row.trend, row.measure) == ("flat", PRE_ACTIVATION)
    change = np.array(list(shifts.values()))
    t = (MARGINS[PRE_ACTIVATION] - abs(change.mean())) / stats.sem(change)
    assert row.p == pytest.approx(stats.t.sf(t, 2))


def test_what_is_not_shown_has_no_p_value():
    assert np.isnan(Shown()["flat"])
    assert Shown({"flat": 0.01})["flat"] == 0.01
