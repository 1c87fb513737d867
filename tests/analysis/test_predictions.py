"""Verdicts on tables whose answer is known."""

import numpy as np
import pytest

from sparseae import check_predictions
from sparseae.analysis.prediction import PREDICTIONS
from tests.analysis.frames import curve, effect, rows, verdicts

RELU_CAE = "relu-flat: relu cae unit_norm"
SIGMOID_CAE = "sigmoid-sparser: sigmoid cae unit_norm"


def control(activation: str = "relu", **more):
    """Another model's curve that moves: without one, nothing is called flat."""
    return curve("decreasing", model="dae", activation=activation, **more)


@pytest.mark.parametrize(
    ("shape", "noise", "verdict"),
    [
        ("flat", 0.002, "supported"),
        ("increasing", 0.003, "contradicted"),
        ("irregular", 0.001, "contradicted"),
        ("flat", 0.1, "inconclusive"),
    ],
)
def test_relu_cae_is_judged_by_its_trend(shape, noise, verdict):
    found = verdicts(curve(shape, noise=noise), control())
    assert found[RELU_CAE, "digits"] == verdict
    assert found[RELU_CAE, "all"] == verdict
    assert found["relu-flat: relu mdae unit_norm", "digits"] == "not tested"


def test_data_sets_are_judged_apart_and_together():
    found = verdicts(curve("flat"), control(), curve("increasing", dataset="mnist"))
    assert found[RELU_CAE, "digits"] == "supported"
    assert found[RELU_CAE, "mnist"] == "contradicted"
    assert found[RELU_CAE, "all"] == "contradicted"


def test_a_row_says_what_decided():
    row = rows(curve("flat", noise=0.002), control()).loc[(RELU_CAE, "digits")]
    assert row["effect_low"] < row["effect"] < row["effect_high"]
    assert abs(row["effect"]) < 0.03
    assert (row["measure"], row["seeds"], row["needs"]) == ("activation_fraction", 3, "")
    assert row["p"] < row["p_corrected"] <= 0.05
    assert row["settled"]
    assert row["sensitive"]
    assert row["would_change"]


def test_what_is_inconclusive_says_what_it_needs():
    """One thing at a time is missing."""
    for frames, needs in (
        ([curve("flat", noise=0.012), control()], "seeds"),
        ([curve("flat")], "control"),
        ([curve("flat", seeds=1), control()], "seeds"),
        ([curve("flat", sigma2=(0.0, 0.01, 0.09)), control()], "range"),
        ([curve("flat", epochs=4), control()], "epochs"),
        ([curve("flat", sigma2=(0.0,)), control()], "trials"),
        ([curve("flat", dead=lambda s: 0.9), control()], "live units"),
    ):
        row = rows(*frames).loc[(RELU_CAE, "digits")]
        assert (row["verdict"], row["needs"]) == ("inconclusive", needs)
        assert row["would_change"]


def test_only_a_control_that_was_trained_alike_shows_that_a_curve_could_have_moved():
    flat = curve("flat", learning_rate=0.001)
    for frame, verdict in (
        (control(learning_rate=0.001), "supported"),
        (control(learning_rate=0.005), "inconclusive"),
        (control(learning_rate=0.001, activation="sigmoid"), "inconclusive"),
        (control(learning_rate=0.001, constraint="none"), "inconclusive"),
        (control(learning_rate=0.001, dataset="mnist"), "inconclusive"),
        (control(learning_rate=0.001, epochs=20), "inconclusive"),
        (curve("flat", model="dae", learning_rate=0.001), "inconclusive"),
    ):
        assert verdicts(flat, frame)[RELU_CAE, "digits"] == verdict


def test_a_curve_whose_effect_still_moves_contradicts_nothing():
    moving = effect(curve("increasing"), "activation_fraction", lambda e: 0.02 * e)
    assert verdicts(moving)[RELU_CAE, "digits"] == "inconclusive"


def test_an_effect_that_fades_contradicts_nothing():
    """Beyond the margin now, and settled by the pace of the last fifth; in ten times the epochs it
    is gone."""
    fading = effect(curve("flat"), "activation_fraction", lambda e: (0.06 - 0.001 * e) * (e > 0))
    row = rows(fading).loc[(RELU_CAE, "digits")]
    assert row["effect"] > 0.04
    assert row["settled"]
    assert row["verdict"] == "inconclusive"
    stays = effect(curve("flat"), "activation_fraction", lambda e: 0.05 * (e > 0))
    assert verdicts(stays)[RELU_CAE, "digits"] == "contradicted"


def test_a_direction_may_be_supported_before_it_has_settled_and_says_so():
    moving = curve("decreasing", model="dae")
    moving = effect(moving, "activation_fraction", lambda e: -0.01 * e)
    row = rows(moving).loc[("relu-corruption-sparser: relu dae unit_norm", "digits")]
    assert row["verdict"] == "supported"
    assert not row["settled"]


def test_a_direction_beyond_its_margin_that_seeds_disagree_on_needs_seeds():
    frame = curve("flat", model="dae", noise=0.0)
    change = frame["seed"].map({0: -0.09, 1: -0.05, 2: -0.01}) * (frame["sigma2"] == 1.0)
    frame["activation_fraction"] += change * (frame["epoch"] > 0)
    row = rows(frame).loc[("relu-corruption-sparser: relu dae unit_norm", "digits")]
    assert row["effect"] == pytest.approx(-0.05)
    assert (row["verdict"], row["needs"]) == ("inconclusive", "seeds")


def test_a_direction_that_its_own_pace_would_undo_is_not_supported():
    frame = effect(curve("flat", model="dae", noise=0.0), "activation_fraction",
                   lambda e: -0.01 * (16 - e))  # fmt: skip
    name = ("relu-corruption-sparser: relu dae unit_norm", "digits")
    assert verdicts(frame)[name] == "inconclusive"


def test_one_seed_decides_nothing():
    assert verdicts(curve("flat", seeds=1), control())[RELU_CAE, "all"] == "inconclusive"


@pytest.mark.parametrize("model", ["cae", "dae"])
def test_a_small_sigma2_neither_shows_flatness_nor_refutes_a_trend(model):
    found = verdicts(curve("flat", model=model, sigma2=(0.0, 0.0005, 0.001)))
    assert set(found.values()) == {"inconclusive", "not tested"}


def test_a_move_over_a_part_of_the_range_refutes_no_flatness():
    """Four margins by sigma2 = 0.09, and settled: what comes behind it nobody knows."""
    part = curve("increasing", sigma2=(0.0, 0.01, 0.09))
    row = rows(part, control()).loc[(RELU_CAE, "digits")]
    assert (row["verdict"], row["settled"]) == ("inconclusive", True)
    assert row["effect_low"] > 0.1
    whole = curve("increasing", sigma2=(0.0, 0.01, 0.25))
    assert verdicts(whole, control())[RELU_CAE, "digits"] == "contradicted"


def test_a_gap_between_mdae_and_cae_that_grows_contradicts_nothing_and_is_not_settled():
    for pace, verdict in ((0.01, "inconclusive"), (0.0, "contradicted")):
        apart = effect(curve("flat", model="mdae"), "activation_fraction",
                       lambda e, p=pace: 0.1 * (e > 0) + p * e)  # fmt: skip
        row = rows(curve("flat"), apart, control()).loc[("mdae-equals-cae", "digits")]
        assert (row["verdict"], row["settled"]) == (verdict, pace == 0)


def test_initial_weights_show_no_flatness():
    """At epoch 0 every sigma2 has the same weights."""
    both = [curve("flat", model=model).query("epoch == 0") for model in ("cae", "mdae", "dae")]
    assert "supported" not in verdicts(*both).values()


def test_mdae_equals_cae_where_their_difference_is_shown_to_be_small():
    for shift, noise, verdict in (
        (0.0, 0.0005, "supported"), (0.0, 0.01, "inconclusive"), (0.1, 0.001, "contradicted"),
        (0.02, 0.0005, "inconclusive"),
    ):  # fmt: skip
        mdae = curve("flat", model="mdae", noise=noise, rng=np.random.default_rng(1))
        mdae["activation_fraction"] += shift
        found = verdicts(curve("flat", noise=noise), mdae, control())
        assert found["mdae-equals-cae", "digits"] == verdict


def test_curves_at_different_epochs_are_not_compared():
    frames = [curve("flat"), curve("flat", model="mdae", epochs=20), control(),
              curve("flat", model="dae2", epochs=20),
              curve("flat", model="dae", constraint="none", epochs=4)]  # fmt: skip
    found = rows(*frames)
    for name in ("mdae-equals-cae", "kink-explains", "constraint-sparser"):
        assert found.loc[(name, "digits"), "needs"] == "epochs"


def test_the_floor_needs_to_be_shown():
    """Above 0.1, but still falling, or within the noise."""
    floor = ("free-weights-floor", "digits")
    frame = curve("flat", model="dae", constraint="none")
    assert verdicts(frame)[floor] == "supported"
    falling = frame.assign(activation_fraction=frame["activation_fraction"] - 0.02 * frame["epoch"])
    assert verdicts(falling)[floor] == "inconclusive"
    noisy = frame.assign(
        activation_fraction=frame["activation_fraction"] - 0.26 + 0.02 * frame["seed"]
    )
    assert verdicts(noisy)[floor] == "inconclusive"


def test_the_floor_says_where_the_lowest_activation_fraction_is():
    floor = ("free-weights-floor", "digits")
    frame = curve("irregular", model="dae", constraint="none", noise=0.0)
    lowest = frame.loc[frame["epoch"] == 10, "activation_fraction"].min()
    row = rows(frame).loc[floor]
    assert row["effect"] == pytest.approx(lowest)
    assert (row["measure"], row["sensitive"]) == ("lowest activation_fraction", True)
    said = f"lowest activation {lowest:.3f} [{lowest:+.3f}, {lowest:+.3f}], 3 seeds, sigma2 to 1"
    assert row["evidence"] == said
    row = rows(frame[frame["sigma2"] == 0]).loc[floor]
    assert (row["verdict"], row["needs"]) == ("inconclusive", "trials")


@pytest.mark.parametrize(
    ("onset", "verdict"),
    # Between 0.09 and 0.25 the activation fraction falls from 0.14 to 0.04: too coarse to tell.
    [(0.49, "supported"), (0.25, "inconclusive"), (0.01, "contradicted"), (2.0, "supported")],
)
def test_dead_units_rise_late(onset, verdict):
    frame = curve("decreasing", model="dae", dead=lambda s: 0.3 if s >= onset else 0.0)
    row = rows(frame).loc[("dead-units-late", "digits")]
    assert row["verdict"] == verdict
    assert ("sigma2" in row["needs"]) == (verdict == "inconclusive")


def test_a_wide_step_does_not_show_where_dead_units_rise():
    frame = curve("decreasing", model="dae", sigma2=(0.0, 1.0), dead=lambda s: 0.6 * (s > 0))
    assert verdicts(frame)["dead-units-late", "digits"] == "inconclusive"


def test_the_constraint_reaches_sparser_codes():
    fixed = curve("decreasing", model="dae", dead=lambda s: 0.3 if s >= 0.49 else 0.0)
    free = curve("flat", model="dae", constraint="none")
    found = verdicts(fixed, free)
    assert found["constraint-sparser", "digits"] == "supported"
    assert found["free-weights-floor", "digits"] == "supported"
    low = curve("decreasing", model="dae", constraint="none")
    assert verdicts(fixed, low)["free-weights-floor", "digits"] == "contradicted"


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("increasing", "decreasing", "supported"),
        ("irregular", "decreasing", "supported"),
        ("increasing", "increasing", "contradicted"),
        ("increasing", "flat", "inconclusive"),
    ],
)
def test_free_weights_are_judged_over_data_sets(one, other, verdict):
    found = verdicts(
        curve(one, constraint="none", noise=0.001),
        curve(other, constraint="none", noise=0.001, dataset="mnist"),
    )
    assert found["free-weights-unpredictable: relu cae none", "all"] == verdict


def test_controls():
    found = verdicts(
        curve("increasing", model="dae", activation="tanh"),
        curve("decreasing", model="dae", activation="maxout"),
    )
    assert found["no-saturation-no-guarantee: tanh", "digits"] == "supported"
    assert found["no-saturation-no-guarantee: maxout", "digits"] == "inconclusive"


def test_the_encoder_bias():
    with_bias = curve("decreasing", model="dae", encoder_bias=True)
    without = curve("flat", model="dae", encoder_bias=False)
    found = verdicts(with_bias, without)
    assert found["bias-needed: relu dae", "digits"] == "supported"
    # Trials without a bias are controls: they do not speak on the paper's other claims.
    assert found["relu-corruption-sparser: relu dae unit_norm", "digits"] == "supported"


def test_a_sweep_all_without_bias_is_a_control_too():
    found = verdicts(curve("flat", model="dae", encoder_bias=False))
    assert set(found.values()) == {"not tested"}


def test_every_prediction_has_a_verdict_and_words():
    table = check_predictions(curve())
    assert set(table["verdict"]) <= {"supported", "contradicted", "inconclusive", "not tested"}
    assert (table[["claim", "section", "evidence", "would_change"]].map(len) > 0).all(axis=None)
    assert table.groupby(["prediction", "dataset"]).size().max() == 1
    assert {name.split(":")[0] for name in table["prediction"]} == {p.name for p in PREDICTIONS}


def test_all_diverged_is_no_verdict():
    frame = curve().assign(status="diverged", activation_fraction=np.nan, dead_fraction=np.nan)
    assert verdicts(frame)[RELU_CAE, "digits"] == "inconclusive"
