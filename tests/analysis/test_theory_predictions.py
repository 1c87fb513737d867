"""Verdicts on the theory's columns, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis.readings import reading_table
from sparseae.analysis.trends import judge
from tests.analysis.frames import curve, measured, rows, verdicts


def noisy(frame: pd.DataFrame, column: str, noise: float = 0.01) -> pd.DataFrame:
    """The same rows with seeds that differ in one column."""
    return frame.assign(**{column: frame[column] + noise * (frame["seed"] - 1)})


def test_without_the_columns_nothing_is_tested():
    found = verdicts(curve())
    for name in ("assumption-1", "bias-gradient-moves", "reach", "whitened-fits-better"):
        assert found[name, "all"] == "not tested"
    assert reading_table(judge(curve())).empty


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.05, "supported"), (1.6, "contradicted"), (0.5, "contradicted")]
)
def test_the_variance_tells_whether_assumption_1_holds(ratio, verdict):
    frame = noisy(measured(curve(), variance_ratio=ratio, theorem2_share=0.9), "variance_ratio")
    row = rows(frame).loc[("assumption-1", "digits")]
    assert row["verdict"] == verdict
    assert "Theorem 2's bound holds for 90.00%" in row["evidence"]


def test_bounds_that_hold_by_proof_are_read_not_judged():
    frame = measured(curve(), gradient=0.1, condition_share=0.25)
    table = reading_table(judge(frame)).set_index("reading")
    assert "2.0% of its bound" in table.loc["lemma-1", "words"]
    words = table.loc["theorem-1", "words"]
    assert "held for 25.000% of units and epochs" in words
    assert "relu cae 50 at the start" in words  # lambda = bound / (dR/db) = 5 / 0.1
    assert not {"lemma-1", "theorem-1"} & set(rows(frame).index.get_level_values(0))


@pytest.mark.parametrize(
    ("descent_fell", "verdict"),
    [(0.95, "supported"), (0.5, "contradicted"), (0.65, "inconclusive")],
)
def test_the_gradients_sign_foretells_the_move(descent_fell, verdict):
    frame = noisy(measured(curve(), descent_fell=descent_fell), "descent_fell", 0.001)
    assert verdicts(frame)["bias-gradient-moves", "digits"] == verdict


def test_whitened_data_are_compared_with_the_same_data_unwhitened():
    good, bad = 0.9, 0.6
    for raw, white, verdict in (
        (bad, good, "supported"), (good, bad, "contradicted"), (good, good, "inconclusive"),
    ):  # fmt: skip
        frames = [
            noisy(measured(curve(whiten=whiten), descent_fell=fell), "descent_fell", 0.001)
            for whiten, fell in ((False, raw), (True, white))
        ]
        assert verdicts(*frames)["whitened-fits-better", "all"] == verdict


MODELS = ("cae", "mdae", "cae_h", "ae", "dae", "edae", "sae")


def reaching(gradients: tuple[float, ...]) -> list[pd.DataFrame]:
    """Curves each of which falls farther than the one before."""
    frames = []
    for k, (model, gradient) in enumerate(zip(MODELS, gradients, strict=True)):
        frame = curve("flat", model=model, rng=np.random.default_rng(k))
        frame["activation_fraction"] -= 0.05 * k * np.sqrt(frame["sigma2"])
        frames.append(measured(frame, gradient=gradient))
    return frames


def test_reach_asks_whether_a_larger_gradient_means_a_sparser_code():
    rising = tuple(np.linspace(0, 1, len(MODELS)))
    assert verdicts(*reaching(rising))["reach", "digits"] == "supported"
    assert verdicts(*reaching(rising[::-1]))["reach", "digits"] == "contradicted"


def test_two_curves_cannot_show_that_gradients_reach():
    """However many values of sigma2 they have: exchanged as wholes they do it by chance."""
    sigma2 = tuple(np.linspace(0, 1, 12))
    frames = [
        measured(curve("flat", sigma2=sigma2)),
        measured(curve("decreasing", model="dae", sigma2=sigma2), gradient=1.0),
    ]
    row = rows(*frames).loc[("reach", "digits")]
    assert row["verdict"] == "inconclusive"
    assert not row["p"] < 0.5


def explained(many: str, first_order: str, no_kink: str, **more) -> dict[tuple[str, str], str]:
    return verdicts(
        curve("decreasing", model="dae", corruptions=1, **more),
        curve(many, model="dae", corruptions=10, **more),
        curve(first_order, model="edae", corruptions=1, **more),
        curve("flat", model="edae", corruptions=10, **more),
        curve(no_kink, model="dae2", corruptions=1, **more),
    )


def test_the_first_order_term_contributes_and_is_not_necessary():
    found = explained(many="decreasing", first_order="weak", no_kink="flat", noise=0.001)
    assert found["kink-explains", "digits"] == "supported"
    assert found["first-order-necessary", "digits"] == "contradicted"


def test_the_first_order_term_is_necessary_where_the_effect_vanishes_with_more_corruptions():
    found = explained(many="flat", first_order="decreasing", no_kink="decreasing")
    assert found["kink-explains", "digits"] == "contradicted"
    assert found["first-order-necessary", "digits"] == "supported"
    assert found["first-order-contributes", "digits"] == "supported"


def test_the_first_order_term_does_not_contribute_where_it_changes_nothing():
    found = explained(many="decreasing", first_order="flat", no_kink="flat")
    assert found["first-order-contributes", "digits"] == "contradicted"


@pytest.mark.parametrize("without", ["", "sigma2 != 0", "sigma2 in (0, 0.01)", "sigma2 < 0.25"])
def test_falls_are_compared_over_the_sigma2_that_both_curves_have(without):
    """A mean over other values, or from another first one, is no share of dae's fall."""
    dae = curve("decreasing", model="dae", noise=0.001)
    no_kink = curve("decreasing", model="dae2", noise=0.001)
    found = rows(dae, no_kink.query(without) if without else no_kink).loc["kink-explains", "digits"]
    assert (found["verdict"], found["needs"]) == (
        ("inconclusive", "range") if without else ("contradicted", "")
    )
    sparse = rows(dae, no_kink[no_kink["sigma2"].isin((0, 0.01, 1))]).loc["kink-explains", "digits"]
    # The whole of dae's fall, that is half of it above one half.
    own = dae[(dae["epoch"] == 10) & dae["sigma2"].isin((0, 0.01, 1))]
    means = own.groupby("sigma2")["activation_fraction"].mean()
    assert sparse["effect"] == pytest.approx((means[0] - means[[0.01, 1]].mean()) / 2, abs=0.002)


def test_of_edae_the_papers_one_corruption_is_judged():
    found = explained(many="decreasing", first_order="decreasing", no_kink="flat")
    assert found["relu-corruption-sparser: relu edae unit_norm", "digits"] == "supported"


def test_one_value_of_corruptions_cannot_show_that_the_effect_vanishes():
    frames = [curve("decreasing", model=m, corruptions=1) for m in ("dae", "edae")]
    row = rows(*frames).loc[("first-order-necessary", "digits")]
    assert (row["verdict"], row["needs"]) == ("inconclusive", "corruptions")


def test_a_constraint_that_does_not_bind_is_not_tested_by_what_happens_under_it():
    name = ("bounded-weights-sparser: relu dae max_norm", "digits")
    bound = curve("decreasing", model="dae", constraint="max_norm", max_norm=0.5)
    free = curve("decreasing", model="dae", constraint="none", max_norm=1.0)
    for length, verdict in ((1.0, "inconclusive"), (0.5, "supported")):
        frame = bound.assign(weight_norm_mean=length)
        assert verdicts(frame, free)[name] == verdict
        assert verdicts(frame)[name] == "inconclusive"
