"""Verdicts on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from sparseae import check_predictions
from sparseae.analysis.predictions import PREDICTIONS
from tests.analysis.frames import curve


def verdicts(*frames: pd.DataFrame) -> dict[tuple[str, str], str]:
    table = check_predictions(pd.concat(frames))
    return table.set_index(["prediction", "dataset"])["verdict"].to_dict()


@pytest.mark.parametrize(
    ("shape", "noise", "verdict"),
    [
        ("flat", 0.003, "supported"),
        ("increasing", 0.003, "contradicted"),
        ("flat", 0.1, "inconclusive"),
    ],
)
def test_relu_cae_is_judged_by_its_trend(shape, noise, verdict):
    found = verdicts(curve(shape, noise=noise))
    assert found["relu-flat: relu cae unit_norm", "digits"] == verdict
    assert found["relu-flat: relu cae unit_norm", "all"] == verdict
    assert found["relu-flat: relu mdae unit_norm", "digits"] == "not tested"


def test_data_sets_are_judged_apart_and_together():
    found = verdicts(curve("flat"), curve("increasing", dataset="mnist"))
    assert found["relu-flat: relu cae unit_norm", "digits"] == "supported"
    assert found["relu-flat: relu cae unit_norm", "mnist"] == "contradicted"
    assert found["relu-flat: relu cae unit_norm", "all"] == "contradicted"


def test_a_curve_that_still_moves_contradicts_nothing():
    moving = curve("increasing")
    moving["activation_fraction"] -= 0.02 * (10 - moving["epoch"])
    assert verdicts(moving)["relu-flat: relu cae unit_norm", "digits"] == "inconclusive"


def test_a_curve_at_its_ceiling_contradicts_nothing_while_the_pre_activation_moves():
    """Sigmoid at 1: the activation fraction stands, the pre-activation is on its way down."""
    frame = curve("flat", activation="sigmoid")
    frame["weight_norm_mean"] = 1.0
    for pace, verdict in ((0.0, "contradicted"), (0.05, "inconclusive")):
        frame["pre_activation_mean"] = -pace * frame["sigma2"] * frame["epoch"]
        assert verdicts(frame)["sigmoid-sparser: sigmoid cae unit_norm", "digits"] == verdict


def test_one_seed_decides_nothing():
    assert verdicts(curve("flat", seeds=1))["relu-flat: relu cae unit_norm", "all"] == (
        "inconclusive"
    )


@pytest.mark.parametrize("model", ["cae", "dae"])
def test_a_small_sigma2_neither_shows_flatness_nor_refutes_a_trend(model):
    found = verdicts(curve("flat", model=model, sigma2=(0.0, 0.0005, 0.001)))
    assert set(found.values()) == {"inconclusive", "not tested"}


def test_initial_weights_show_no_flatness():
    """At epoch 0 every sigma2 has the same weights."""
    both = [curve("flat", model=model).query("epoch == 0") for model in ("cae", "mdae")]
    assert "supported" not in verdicts(*both).values()


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


def test_cae_and_mdae_are_compared_trial_by_trial():
    cae = curve("flat")
    for shift, verdict in ((0.002, "supported"), (0.02, "inconclusive"), (0.05, "contradicted")):
        mdae = curve("flat", model="mdae")
        mdae["activation_fraction"] += shift * (mdae["sigma2"] == 0.25)
        assert verdicts(cae, mdae)["mdae-equals-cae", "digits"] == verdict


@pytest.mark.parametrize(("shape", "verdict"), [("plateau", "supported"), ("flat", "contradicted")])
def test_sigmoid_gets_sparser(shape, verdict):
    found = verdicts(curve(shape, model="sae", activation="sigmoid"))
    assert found["sigmoid-sparser: sigmoid sae unit_norm", "digits"] == verdict
    assert found["sae-sparser: sigmoid sae unit_norm", "digits"] == verdict


@pytest.mark.parametrize(
    ("onset", "verdict"),
    # Between 0.09 and 0.25 the activation fraction falls from 0.14 to 0.04: too coarse to tell.
    [(0.49, "supported"), (0.25, "inconclusive"), (0.01, "contradicted"), (2.0, "supported")],
)
def test_dead_units_rise_late(onset, verdict):
    frame = curve("decreasing", model="dae", dead=lambda s: 0.3 if s >= onset else 0.0)
    assert verdicts(frame)["dead-units-late", "digits"] == verdict


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
        curve(one, constraint="none"), curve(other, constraint="none", dataset="mnist")
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
    assert (table[["claim", "section", "evidence"]].map(len) > 0).all(axis=None)
    assert table.groupby(["prediction", "dataset"]).size().max() == 1
    assert {name.split(":")[0] for name in table["prediction"]} == {p.name for p in PREDICTIONS}


def test_all_diverged_is_no_verdict():
    frame = curve().assign(status="diverged", activation_fraction=np.nan, dead_fraction=np.nan)
    found = verdicts(frame)
    assert found["relu-flat: relu cae unit_norm", "digits"] == "inconclusive"
