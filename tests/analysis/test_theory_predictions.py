"""Verdicts on the theory's columns, on tables whose answer is known."""

import pandas as pd
import pytest

from sparseae import check_predictions
from tests.analysis.frames import curve


def verdicts(*frames: pd.DataFrame) -> dict[tuple[str, str], str]:
    table = check_predictions(pd.concat(frames))
    return table.set_index(["prediction", "dataset"])["verdict"].to_dict()


def measured(shape="flat", slope=0.0, **columns) -> pd.DataFrame:
    """A curve whose lambda dR/db_j is ``slope`` sigma2."""
    known = {"lemma1_share": 1.0, "lemma1_bound": 5.0, "ae_bias_gradient_rms": 0.1}
    names = ("model", "activation", "dataset", "constraint")
    own = {k: v for k, v in columns.items() if k in names}
    frame = curve(shape, **own)
    for name, value in (known | columns).items():
        if name not in names:
            frame[name] = value
    frame["bias_gradient"] = slope * frame["sigma2"]
    return frame


def test_without_the_columns_nothing_is_tested():
    found = verdicts(curve())
    for name in ("lemma-1", "theorem-1", "theorem-2", "reach", "whitened-fits-better"):
        assert found[name, "all"] == "not tested"


@pytest.mark.parametrize(("share", "verdict"), [(1.0, "supported"), (0.9, "contradicted")])
def test_lemma_1_and_theorem_2_hold_for_all_units_or_do_not(share, verdict):
    columns = {"lemma1_share": share, "theorem2_share": share, "variance_ratio": 1.0}
    found = verdicts(measured(**columns))
    assert found["lemma-1", "digits"] == found["theorem-2", "digits"] == verdict


@pytest.mark.parametrize(
    ("held", "fell", "verdict"),
    [(0.5, 1.0, "supported"), (0.5, 0.4, "contradicted"), (0.0, float("nan"), "inconclusive")],
)
def test_theorem_1_is_judged_where_its_condition_held(held, fell, verdict):
    found = verdicts(measured(condition_share=held, condition_fell=fell))
    assert found["theorem-1", "digits"] == verdict


@pytest.mark.parametrize(
    ("descent_fell", "fell", "verdict"),
    [(1.0, 0.5, "supported"), (0.5, 0.5, "contradicted"), (0.6, 0.5, "inconclusive")],
)
def test_the_gradients_sign_foretells_the_move(descent_fell, fell, verdict):
    columns = {"descent_share": 0.5, "descent_fell": descent_fell, "fell_share": fell}
    assert verdicts(measured(**columns))["bias-gradient-moves", "digits"] == verdict


def test_whitened_data_are_compared_with_the_same_data_unwhitened():
    good = {"descent_share": 0.5, "descent_fell": 1.0, "fell_share": 0.5, "variance_ratio": 1.0}
    bad = good | {"descent_fell": 0.6}
    for raw, white, verdict in (
        (bad, good, "supported"), (good, bad, "contradicted"), (good, good, "inconclusive"),
    ):  # fmt: skip
        frames = [measured(whiten=False, **raw), measured(whiten=True, **white)]
        frames[1]["trial_id"] += "/white"
        assert verdicts(*frames)["whitened-fits-better", "all"] == verdict


def test_reach_asks_whether_a_larger_gradient_means_a_sparser_code():
    flat, falling = {"shape": "flat", "slope": 0.0}, {"shape": "decreasing", "slope": 1.0}
    frames = [measured(model="cae", **flat), measured(model="dae", **falling)]
    assert verdicts(*frames)["reach", "digits"] == "supported"
    frames = [measured(model="cae", shape="flat", slope=1.0),
              measured(model="dae", shape="decreasing", slope=0.0)]  # fmt: skip
    assert verdicts(*frames)["reach", "digits"] == "contradicted"


def explained(many: str, first_order: str, no_kink: str) -> dict[tuple[str, str], str]:
    return verdicts(
        curve("decreasing", model="dae", corruptions=1),
        curve(many, model="dae", corruptions=10),
        curve(first_order, model="edae", corruptions=1),
        curve("flat", model="edae", corruptions=10),
        curve(no_kink, model="dae2", corruptions=1),
    )


def test_the_kink_explains_what_neither_corruptions_nor_the_first_order_term_do():
    found = explained(many="decreasing", first_order="weak", no_kink="flat")
    assert found["kink-explains", "digits"] == "supported"
    assert found["first-order-explains", "digits"] == "contradicted"


def test_the_first_order_term_explains_what_vanishes_with_more_corruptions():
    found = explained(many="flat", first_order="decreasing", no_kink="decreasing")
    assert found["kink-explains", "digits"] == "contradicted"
    assert found["first-order-explains", "digits"] == "supported"


def test_of_edae_the_papers_one_corruption_is_judged():
    found = explained(many="decreasing", first_order="decreasing", no_kink="flat")
    assert found["relu-corruption-sparser: relu edae unit_norm", "digits"] == "supported"


def test_one_value_of_corruptions_cannot_show_that_the_effect_vanishes():
    frames = [curve("decreasing", model=m, corruptions=1) for m in ("dae", "edae")]
    assert verdicts(*frames)["first-order-explains", "digits"] == "inconclusive"
