"""Trends of curves whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparseae import trends
from sparseae.errors import RequestError
from tests.analysis.frames import curve, effect


def only(frame: pd.DataFrame):
    (row,) = trends(frame).itertuples()
    return row


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("flat", "flat"),
        ("decreasing", "decreasing"),
        ("plateau", "decreasing"),
        ("increasing", "increasing"),
        ("irregular", "irregular"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_a_clear_shape_is_recognized(shape, expected, seeds):
    row = only(curve(shape, seeds=seeds))
    assert row.trend == expected
    assert row.seeds == seeds
    assert row.descriptive == (seeds == 1)
    assert ("one seed" in row.note) == (seeds == 1)


def test_noise_makes_it_undecided_not_wrong():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert only(curve("flat", noise=0.1, rng=rng)).trend in ("undecided", "flat")


def test_flat_has_to_be_shown():
    """A small change that noise hides is undecided: no evidence of a change is not flatness."""
    assert only(curve("flat", seeds=2, noise=0.02)).trend == "undecided"


def test_changes_are_paired_over_seeds():
    frame = curve("flat", noise=0.0)
    frame["activation_fraction"] += 0.1 * frame["seed"] + 0.2 * frame["sigma2"]
    row = only(frame)
    assert row.change == pytest.approx(0.2)
    assert row.change_low == pytest.approx(0.2)  # between seeds the change does not vary
    assert row.trend == "increasing"


def test_numbers_are_those_of_the_data():
    row = only(curve("decreasing", noise=0.0))
    assert row.first == pytest.approx(0.38)
    assert row.lowest == row.last
    assert row.change == pytest.approx(0.4 * row.pre_change)
    assert row.tau == -1


def test_the_interval_is_students_over_seeds():
    frame = curve("decreasing", seeds=4)
    last = frame.query("epoch == 10").set_index(["sigma2", "seed"])["activation_fraction"]
    change = last[1.0] - last[0.0]
    expected = stats.t.interval(0.95, 3, change.mean(), stats.sem(change))
    row = only(frame)
    assert (row.change_low, row.change_high) == pytest.approx(expected)


def test_values_of_sigma2_are_no_replicates():
    """Two seeds that disagree show nothing, however many values of sigma2 each has."""
    sigma2 = tuple(np.linspace(0, 1, 12))
    frame = curve("flat", sigma2=sigma2, seeds=2, noise=0.0)
    frame = effect(frame, "activation_fraction", lambda e: -0.1 * e / e.max())
    frame.loc[frame["seed"] == 1, "activation_fraction"] = 0.37
    assert only(frame).trend == "undecided"


def test_dead_units_have_an_onset():
    row = only(curve("decreasing", noise=0.0, dead=lambda s: 0.3 if s >= 0.25 else 0.0))
    assert row.dead_onset_sigma2 == 0.25
    assert row.dead_onset_activation == pytest.approx(0.02 + 0.36 * np.exp(-3))
    assert np.isnan(only(curve("decreasing")).dead_onset_sigma2)


def test_diverged_trials_are_left_out_and_counted():
    frame = curve("decreasing")
    wild = (frame["sigma2"] == 1.0) & (frame["epoch"] > 2)
    frame.loc[wild, "status"] = "diverged"
    frame.loc[wild, ["activation_fraction", "dead_fraction"]] = np.nan
    row = only(frame)
    assert row.diverged == 3
    assert row.sigma2_values == 5
    assert row.trend == "decreasing"
    assert "3 diverged trials left out" in row.note


def test_a_half_finished_sweep_says_so():
    frame = curve("decreasing")
    row = only(frame[(frame["seed"] < 2) | (frame["epoch"] < 7)])
    assert row.unfinished == 6
    assert "6 trials unfinished" in row.note


def test_trials_of_a_running_sweep_are_compared_at_the_same_epoch():
    """Every trial falls from 0.5 alike; those of large sigma2 have only begun."""
    frame = curve("flat", noise=0.0)
    behind = frame["sigma2"] >= 0.49
    row = only(frame[~behind | (frame["epoch"] <= 2)])
    assert row.trend == "flat"
    assert (row.epochs, row.sigma2_values) == (10, 4)
    assert "6 trials left out: not yet at epoch 10" in row.note
    assert only(frame[~behind & (frame["seed"] == 0) | (frame["epoch"] <= 2)]).epochs == 2


def test_a_trial_that_diverged_is_finished():
    frame = curve("decreasing")
    wild = (frame["sigma2"] == 1.0) & (frame["epoch"] == 3)
    frame.loc[wild, "status"] = "diverged"
    stopped = frame[~((frame["sigma2"] == 1.0) & (frame["epoch"] > 3))]
    row = only(stopped)
    assert (row.diverged, row.unfinished, row.epochs) == (3, 0, 10)


def test_scattered_gaps_cost_values_of_sigma2_before_seeds():
    frame = curve("decreasing")
    for seed, sigma2 in ((0, 0.01), (1, 0.09)):
        gap = (frame["seed"] == seed) & (frame["sigma2"] == sigma2)
        frame.loc[gap, ["status", "activation_fraction"]] = ["diverged", np.nan]
    row = only(frame)
    assert (row.seeds, row.sigma2_values, row.sigma2_last) == (3, 4, 1.0)


def test_folders_that_share_trials_count_them_once():
    frame = curve("decreasing")
    longer = curve("decreasing", epochs=20)
    pd.testing.assert_frame_equal(trends(pd.concat([frame, frame])), trends(frame))
    assert only(pd.concat([frame, longer])).epochs == 20


def test_what_moves_alike_at_every_sigma2_is_settled():
    moving = curve("decreasing", noise=0.0)
    moving["activation_fraction"] += 0.02 * (10 - moving["epoch"])
    assert only(moving).settled
    row = only(effect(moving, "activation_fraction", lambda e: -0.02 * e))
    assert not row.settled
    assert "the effect still moves" in row.note


@pytest.mark.parametrize("measure", ["activation_fraction", "pre_activation_mean"])
def test_flat_in_one_measure_alone_is_not_flat(measure):
    frame = effect(curve("flat", noise=0.001), measure, lambda e: 0.2 * (e > 5))
    assert only(frame).trend != "flat"


@pytest.mark.parametrize("measure", ["activation_fraction", "pre_activation_mean"])
def test_flat_is_what_stays_flat(measure):
    """Within the margin now, but at the pace of the last fifth not for long."""
    for pace, trend in ((0.0, "flat"), (-0.0025, "undecided")):
        frame = effect(curve("flat", noise=0.0005), measure, lambda e, p=pace: p * e)
        assert only(frame).trend == trend


#: Effects by epoch, of ten: within the margin of 0.03 at their end, beyond it in ten times as many.
DRIFTS = {
    "steady": lambda e: -0.0004 * e,
    "behind an early effect": lambda e: -0.012 * (e > 0) - 0.00025 * e,
    "back through zero": lambda e: 0.012 * (e > 0) - 0.0006 * e,
    "as a square root": lambda e: -0.012 * np.sqrt(e / 10),
    "as a logarithm": lambda e: -0.018 * np.log1p(8 * e / 10) / np.log(9),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_that_leaves_the_margin_in_ten_times_the_epochs_is_not_flat(name):
    by_epoch = DRIFTS[name]
    assert abs(by_epoch(np.array([10.0]))[0]) < 0.03 < abs(by_epoch(np.array([100.0]))[0])
    for measure, scale in (("activation_fraction", 1), ("pre_activation_mean", 2.5)):
        frame = effect(curve("flat", noise=0.0), measure, lambda e, k=scale: k * by_epoch(e))
        assert only(frame).trend == "undecided"


def test_an_effect_that_has_come_to_rest_is_flat():
    frame = effect(curve("flat", noise=0.0), "activation_fraction",
                   lambda e: -0.01 * (1 - np.exp(-e)))  # fmt: skip
    assert only(frame).trend == "flat"


def test_a_seed_that_is_dead_from_the_start_is_left_out():
    frame = curve("decreasing", seeds=4)
    dead = frame["seed"] == 3
    frame.loc[dead, ["activation_fraction", "dead_fraction"]] = 0.001, 0.998
    row = only(frame)
    assert (row.seeds, row.trend) == (3, "decreasing")
    assert "1 seed left out: units dead" in row.note


def test_one_trial_that_diverged_does_not_shorten_the_curve_of_the_others():
    frame = curve("decreasing", seeds=4)
    wild = (frame["seed"] == 3) & (frame["sigma2"] == 1.0)
    frame.loc[wild, ["status", "activation_fraction"]] = ["diverged", np.nan]
    row = only(frame)
    assert (row.seeds, row.sigma2_values, row.sigma2_last) == (4, 6, 1.0)


def test_different_configurations_are_different_curves():
    both = pd.concat([curve("flat", learning_rate=0.001), curve("increasing", learning_rate=0.005)])
    found = trends(both).set_index("variant")["trend"].to_dict()
    assert found == {"learning_rate=0.001": "flat", "learning_rate=0.005": "increasing"}


def test_whitened_data_are_another_data_set():
    both = pd.concat([curve("flat", whiten=False), curve("increasing", whiten=True)])
    found = trends(both).set_index("dataset")["trend"].to_dict()
    assert found == {"digits": "flat", "digits (whitened)": "increasing"}


def test_data_standardized_by_sample_are_another_data_set():
    """Rows of before the key are by input."""
    ways = [{}, {"standardize": "sample"}, {"standardize": "sample", "whiten": True}]
    shapes = ["flat", "increasing", "decreasing"]
    table = pd.concat([curve(shape, **way) for shape, way in zip(shapes, ways, strict=True)])
    found = trends(table).set_index("dataset")["trend"].to_dict()
    names = ["digits", "digits (by sample)", "digits (by sample) (whitened)"]
    assert found == dict(zip(names, shapes, strict=True))


def test_one_value_of_sigma2_decides_nothing():
    row = only(curve("flat", sigma2=(0.0,)))
    assert row.trend == "undecided"
    assert "two values" in row.note


def test_a_missing_column_is_named():
    with pytest.raises(RequestError, match="activation_fraction"):
        trends(curve().drop(columns="activation_fraction"))


def test_two_trials_in_one_place_are_refused():
    doubled = pd.concat([curve(), curve().assign(trial_id=lambda f: f["trial_id"] + "x")])
    with pytest.raises(RequestError, match="two trials"):
        trends(doubled)


def test_an_empty_table_has_no_curves():
    assert trends(curve().iloc[:0]).empty
