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


@pytest.mark.parametrize(("onset", "verdict"), [(0.25, "supported"), (0.01, "contradicted")])
def test_dead_units_rise_late(onset, verdict):
    frame = curve("decreasing", model="dae", dead=lambda s: 0.3 if s >= onset else 0.0)
    assert verdicts(frame)["dead-units-late", "digits"] == verdict


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
