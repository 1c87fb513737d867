"""What p-values, intervals and paces are, by scipy and numpy's least squares."""

import math

import numpy as np
import pytest
from scipy import stats

from sparseae.analysis import inference, thresholds
from sparseae.analysis.inference import Effect

NAN = math.nan
#: Seeds (rows) of some components: one whole, one with a seed less, two seeds, one, none.
X = np.array(
    [[0.1, 0.4, 0.3, NAN, NAN], [0.3, NAN, NAN, 0.2, NAN], [0.2, 0.1, NAN, NAN, NAN],
     [0.25, 0.3, 0.35, NAN, NAN]]
)  # fmt: skip


def there(column: int) -> np.ndarray:
    return X[np.isfinite(X[:, column]), column]


def test_a_mean_is_of_the_seeds_that_are_there():
    expected = [there(k).mean() if len(there(k)) else NAN for k in range(5)]
    np.testing.assert_allclose(inference.mean(X), expected)


def test_intervals_are_students_and_of_one_seed_there_is_none():
    low, high = inference.interval(X)
    for k in range(3):
        values = there(k)
        expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        assert (low[k], high[k]) == pytest.approx(expected)
    assert np.isnan(low[3:]).all()
    assert np.isnan(high[3:]).all()


@pytest.mark.parametrize("limit", [-0.1, 0.2, 0.25, 0.6])
def test_p_values_are_students_one_sided_and_one_seed_shows_nothing(limit):
    above, below = inference.p_above(X, limit), inference.p_below(X, limit)
    for k in range(3):
        for found, side in ((above, "greater"), (below, "less")):
            expected = stats.ttest_1samp(there(k), limit, alternative=side).pvalue
            assert found[k] == pytest.approx(expected)
    assert above[3:].tolist() == below[3:].tolist() == [1.0, 1.0]
    within = inference.p_within(X, limit)
    np.testing.assert_array_equal(
        within, np.maximum(inference.p_above(X, -limit), inference.p_below(X, limit))
    )


def test_seeds_that_agree_to_the_bit_show_what_is_beyond_rounding():
    same = np.full((3, 1), 0.5)
    t = 1e-6 / thresholds.ROUNDING
    expected = stats.t.sf([t, -t, 0], 2)
    found = [inference.p_above(same, limit)[0] for limit in (0.5 - 1e-6, 0.5 + 1e-6, 0.5)]
    assert found == pytest.approx(expected, rel=1e-6)


def test_some_of_several_is_shown_by_the_least_times_their_number():
    assert inference.p_some(np.array([0.02, 0.3, 0.01])) == pytest.approx(0.03)
    assert inference.p_some(np.array([0.6, 0.9])) == 1.0
    assert inference.p_some(np.array([])) == 1.0
    p = np.array([0.02, 0.3, 0.01])
    assert inference.p_some_lasting(p, np.array([True, True, False])) == pytest.approx(0.06)
    assert inference.p_some_lasting(p, np.array([False, True, False])) == pytest.approx(0.9)
    assert inference.p_some_lasting(p * 2, np.array([False, True, False])) == 1.0
    assert math.isnan(inference.p_some_lasting(p, np.zeros(3, bool)))


@pytest.mark.parametrize(("epochs", "fifth"), [(10, 3), (11, 4), (20, 5), (21, 6), (50, 11)])
def test_paces_are_least_squares_over_the_last_fifth_and_over_the_window(epochs, fifth):
    length = epochs - epochs // 2 + 1
    window = np.random.default_rng(epochs).standard_normal((3, 2, length))
    effect = Effect.of(window, epochs)
    assert np.array_equal(effect.now, window[..., -1])
    for r in range(3):
        for k in range(2):
            for found, count in ((effect.again, fifth), (effect.trend, length)):
                slope = np.polyfit(np.arange(count), window[r, k, -count:], 1)[0]
                assert found[r, k] == pytest.approx(slope * epochs)
    alone = Effect.of(window[..., -1:], epochs)
    assert np.isnan(alone.again).all()
    assert np.isnan(alone.trend).all()
    assert np.array_equal(effect.later, effect.now + effect.again)
    np.testing.assert_allclose(effect.forecast, effect.now + 9 * effect.trend)


@pytest.mark.parametrize("length", range(2, 12))
def test_what_stands_still_has_no_pace_to_the_bit(length):
    values = np.random.default_rng(length).uniform(-1, 1, (50, 1, 1))
    effect = Effect.of(np.repeat(values, length, axis=-1), 10)
    assert not effect.trend.any()
    assert not effect.again.any()


def effect(*columns: list[float], again: float = 0.0, trend: float = 0.0) -> Effect:
    now = np.array(columns).T
    return Effect(now, np.full_like(now, again), np.full_like(now, trend))


def test_parts_of_an_effect_are_taken_and_two_are_compared():
    random = np.random.default_rng(0)
    one, other = (Effect(*random.standard_normal((3, 4, 3))) for _ in range(2))
    for name in ("now", "again", "trend"):
        whole = getattr(one, name)
        assert np.array_equal(getattr(one[1], name), whole[:, [1]])
        assert np.array_equal(getattr(one[-1], name), whole[:, [2]])
        assert np.array_equal(getattr(one[1:], name), whole[:, 1:])
        assert np.array_equal(getattr(one.of_seeds(np.array([2, 0])), name), whole[[2, 0]])
        assert np.array_equal(getattr(one.less(other), name), whole - getattr(other, name))
    value, low, high = one.interval()
    bounds = stats.t.interval(0.95, 3, one.now[:, 0].mean(), stats.sem(one.now[:, 0]))
    assert (value, low, high) == pytest.approx((one.now[:, 0].mean(), *bounds))


def test_what_lasts_is_shown_of_the_forecast():
    random = np.random.default_rng(1)
    made = Effect(*random.normal(0, 0.02, (3, 4, 5)))
    for limit in (-0.05, 0.0, 0.02, 0.3):
        forecast = made.now + 9 * made.trend
        above = stats.ttest_1samp(forecast, limit, alternative="greater").pvalue
        below = stats.ttest_1samp(forecast, limit, alternative="less").pvalue
        assert made.lasts_above(limit).tolist() == (above <= 0.025).tolist()
        assert made.lasts_below(limit).tolist() == (below <= 0.025).tolist()
        inside = stats.ttest_1samp(forecast, -limit, alternative="greater").pvalue
        within = np.maximum(inside, below) <= 0.025
        assert made.lasts_within(limit).tolist() == within.tolist()


def test_an_effect_is_settled_where_no_mean_moves_by_more_than_the_margin():
    again = np.array([[0.03, -0.5], [0.01, 0.46]])  # means 0.02 and -0.02
    made = Effect(np.zeros((2, 2)), again, again)
    assert made.settled(0.0201)
    assert not made.settled(0.0199)
    assert Effect(again, np.full((2, 2), 0.25), again).settled(0.25)  # a margin is no move
    assert not Effect(again, np.full((2, 2), NAN), again).settled(9.0)
    assert not Effect(again[:, :0], again[:, :0], again[:, :0]).settled(9.0)


LITTLE, WIDE = [-0.001, 0.0, 0.001], [-0.02, 0.0, 0.02]


def test_equivalence_has_the_p_value_of_the_last_component_where_all_else_is_shown():
    one, other = effect(LITTLE, [0.009, 0.01, 0.0112]), effect(WIDE)
    found = inference.equivalence([(one, 0.03), (other, 0.2)])
    assert found.p == inference.p_within(one.now, 0.03)[-1]
    assert found.lacks == "seeds"
    # What is not shown stands for all, wherever it is.
    for effects in (
        [(effect(WIDE, LITTLE), 0.03), (other, 0.2)], [(one, 0.03), (effect(WIDE, LITTLE), 0.03)]
    ):  # fmt: skip
        found = inference.equivalence(effects)
        every = [inference.p_within(e.now, margin).max() for e, margin in effects]
        assert max(every) > 0.05
        # And were it trained on: the same, where nothing moves.
        assert math.isnan(found.p)
        assert found.lacks == "seeds"


@pytest.mark.parametrize(
    ("made", "lacks"),
    [
        (effect(LITTLE, again=0.02), None),
        (effect(LITTLE, again=0.04), "epochs"),  # as long again, and it is beyond
        (effect(LITTLE, again=-0.04), "epochs"),
        (effect(LITTLE, trend=0.002), None),
        (effect(LITTLE, trend=0.004), "epochs"),  # ten times as long
        (effect(LITTLE, trend=-0.004), "epochs"),
        (effect(LITTLE, trend=NAN), "epochs"),
        (effect(LITTLE, [0.01, 0.02, 0.03], again=0.005), "seeds"),  # inside, and not shown
        (effect([0.03, 0.03, 0.03]), "seeds"),  # a margin is inside
    ],
)
def test_equivalence_lacks_epochs_where_the_effect_would_leave_its_margin(made, lacks):
    found = inference.equivalence([(made, 0.03)])
    assert math.isnan(found.p) is (lacks is not None)
    assert found.lacks == (lacks or "seeds")


def test_equivalence_that_is_not_shown_now_has_the_largest_p_value():
    """Seeds that disagree now and agree later."""
    now = np.array([[-0.02, 0.0], [0.0, 0.001], [0.02, -0.001]])
    again = np.array([[0.02, 0.0], [0.0, 0.0], [-0.02, 0.0]])
    made = Effect(now, again, np.zeros_like(now))
    found = inference.equivalence([(made, 0.03)])
    assert found.p == inference.p_within(now, 0.03)[0] > 0.05
    assert found.lacks == "seeds"


def test_holms_correction():
    p = {"a": 0.01, "b": 0.04, "c": NAN, "d": 0.03, "e": 0.005, "f": 0.9}
    assert inference.holm(p) == pytest.approx(
        {"a": 0.04, "b": 0.09, "c": NAN, "d": 0.09, "e": 0.025, "f": 0.9}, nan_ok=True
    )
    assert list(inference.holm(p)) == list(p)
    assert inference.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert inference.holm({}) == {}
    # Of keys nothing is asked but that they are keys.
    assert inference.holm({"a": 0.01, None: 0.01, 3: 0.01}) == {"a": 0.03, None: 0.03, 3: 0.03}
