"""Every number and word of how far gradients reach, made once more from the rows."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparseae.analysis import theory_predictions as theory
from sparseae.analysis import thresholds
from sparseae.analysis.trends import judge
from tests.analysis.exact import NAN, found, p_above, p_below, shifted, student, table, told
from tests.analysis.frames import curve, measured

REACH = theory.Reach()


def reaching(order: tuple[int, ...], noise: float = 0.02, **more) -> list[pd.DataFrame]:
    """Curves whose gradient grows, and whose code gets the sparser the higher its place."""
    models = ("cae", "mdae", "sae", "dae", "edae", "cae_h", "corollary1")
    frames = []
    for k, place in enumerate(order):
        frame = curve("flat", model=models[k], rng=np.random.default_rng(k), noise=noise, **more)
        frame = frame.assign(
            activation_fraction=frame["activation_fraction"]
            - 0.05 * place * np.sqrt(frame["sigma2"]) * (frame["epoch"] > 0)
        )
        frames.append(measured(frame, gradient=0.1 + k))
    return frames


def points(frames: list[pd.DataFrame], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(curves, sigma2 > 0) gradients at epoch 0 and changes at the last."""
    grid = [0.01, 0.09, 0.25, 0.49, 1.0]
    gradients, changes = [], []
    for frame in frames:
        start = frame[(frame["epoch"] == 0) & (frame["seed"] == seed)].set_index("sigma2")
        level = table(frame).loc[seed]
        gradients.append(start["bias_gradient"][grid])
        changes.append(level[grid] - level[0.0])
    return np.array(gradients), np.array(changes)


def rank_correlation(gradient: np.ndarray, change: np.ndarray) -> float:
    return float(stats.spearmanr(gradient.ravel(), change.ravel()).statistic)


def reached(frames: list[pd.DataFrame]) -> dict:
    """What the finding is made of."""
    each = [points(frames, seed) for seed in range(3)]
    gradient, change = (np.mean(values, axis=0) for values in zip(*each, strict=True))
    count = len(frames)
    seen = rank_correlation(gradient, change)
    orders = list(itertools.permutations(range(count)))
    as_low = [rank_correlation(gradient, change[list(o)]) <= seen + 1e-9 for o in orders]
    without = [
        rank_correlation(np.delete(gradient, k, 0), np.delete(change, k, 0)) for k in range(count)
    ]
    return {"by_seed": [rank_correlation(*p) for p in each], "chance": np.mean(as_low),
            "without": without}  # fmt: skip


def test_reach_is_a_rank_correlation_of_gradients_and_changes_by_seed():
    frames = reaching((0, 1, 2, 3, 4))
    expected = reached(frames)
    value, low, high = student(expected["by_seed"])
    low, high = max(low, -1.0), min(high, 1.0)
    chance, without = expected["chance"], expected["without"]
    others = [
        measured(curve("flat", model="dae2", constraint="none"), gradient=3.0),
        measured(curve("flat", model="dae2", seeds=2), gradient=3.0),
        measured(curve("flat", model="ae", sigma2=(0.01, 0.09, 0.25, 0.49, 1.0)), gradient=3.0),
        measured(curve("flat", model="dae_bias", sigma2=(0.0, 0.01, 0.3)), gradient=3.0),
    ]
    finding = found(REACH, *frames, *others)
    assert finding.evidence == (
        f"rank correlation {value:+.2f} [{low:+.3f}, {high:+.3f}] over 5 curves at 5 sigma2; "
        f"{min(without):+.2f} to {max(without):+.2f} without one of them; permuting whole curves "
        f"p {chance:.2g}; 3 seeds"
    )
    below = p_below(expected["by_seed"], -thresholds.STRONG)
    assert told(finding) == pytest.approx(
        {"supports": max(below, chance), "contradicts": NAN, "effect": value, "low": low,
         "high": high, "measure": "rank correlation", "seeds": 3, "settled": True,
         "sensitive": True, "lacks": "seeds", "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert len(finding.curves) == 5
    limit = [frames[0].assign(activation_fraction=frames[0]["activation_fraction"] + 0.62)]
    assert found(REACH, *limit, *frames[1:]).sensitive is False


def test_reach_is_contradicted_where_a_larger_gradient_does_not_mean_a_sparser_code():
    frames = reaching((9, 5, 3, 1, 0), noise=0.002)
    expected = reached(frames)
    assert min(expected["without"]) > -thresholds.WEAK
    finding = found(REACH, *frames)
    assert finding.contradicts == pytest.approx(
        p_above(expected["by_seed"], -thresholds.WEAK), rel=1e-6
    )
    assert math.isnan(finding.supports)


def test_reach_that_hangs_on_one_curve_shows_nothing():
    # Without the fifth curve there is no order left.
    frames = reaching((0, 0, 0, 0, 9), noise=0.01)
    expected = reached(frames)
    finding = found(REACH, *frames)
    assert max(expected["without"]) > -thresholds.WEAK
    assert math.isnan(finding.supports)


@pytest.mark.parametrize(
    ("models", "sigma2", "tested"),
    [(2, (0.0, 0.01, 0.09, 0.25, 1.0), True), (2, (0.0, 0.01, 0.09, 0.25), False)],
)
def test_reach_needs_eight_points(models, sigma2, tested):
    frames = reaching(tuple(range(models)), sigma2=sigma2)
    finding = found(REACH, *frames)
    assert finding.tested is tested
    if not tested:
        assert finding.evidence == (
            "too few curves under unit_norm with sigma2 = 0 and the same seeds"
        )
    alone = [measured(curve("flat", rate=r), gradient=1.0) for r in (1.0, 2.0, 3.0)]
    assert not found(REACH, *alone).tested  # of one model


def test_only_sigma2_that_all_seeds_have_are_compared():
    whole, lost, unmeasured = reaching((0, 1, 2))
    # With more seeds a sigma2 stays that one of them has not.
    gone = (lost["seed"] == 1) & (lost["sigma2"] == 0.25)
    lost = lost.assign(status=np.where(gone, "diverged", "ok"))
    unmeasured.loc[
        (unmeasured["seed"] == 0) & (unmeasured["sigma2"] == 0.49), "bias_gradient"
    ] = np.nan  # fmt: skip
    judged = judge(pd.concat([whole, lost, unmeasured]))
    grids = [theory._on_one_grid([pair], [0, 1, 2])[1] for pair in judged]
    assert grids == [
        [0.01, 0.09, 0.25, 0.49, 1.0], [0.01, 0.09, 0.49, 1.0], [0.01, 0.09, 0.25, 1.0]
    ]  # fmt: skip
    kept, grid = theory._on_one_grid(judged, [0, 1, 2])
    assert [c.name["model"] for c, _ in kept] == ["cae", "sae"]
    assert grid == [0.01, 0.09, 0.25, 1.0]
    alike = [judged[0], judged[1], judged[1]]
    kept, grid = theory._on_one_grid(alike, [0, 1, 2])
    assert (len(kept), grid) == (3, [0.01, 0.09, 0.49, 1.0])
    one = judge(whole[whole["sigma2"].isin((0.0, 0.25))])
    assert theory._on_one_grid(one, [0, 1, 2]) == (one, [0.25])
    no_zero = [(c, t) for c, t in judge(whole[whole["sigma2"] > 0])]
    assert theory._on_one_grid(no_zero, [0, 1, 2]) == ([], [])


def test_the_points_are_gradients_at_the_start_and_changes_over_the_last_half():
    frames = reaching((0, 2))
    longer = measured(shifted(curve("flat", model="sae", epochs=20), {0.09: -0.1}), gradient=0.5)
    judged = judge(pd.concat([*frames, longer]))
    gradient, change = theory._points(judged, [0, 2], [0.09, 1.0])
    assert (gradient.shape, change.shape) == ((2, 3, 2), (2, 3, 2, 6))
    for r, seed in enumerate((0, 2)):
        for k, frame in enumerate((*frames, longer)):
            own = frame[frame["seed"] == seed].set_index(["epoch", "sigma2"])
            end = frame["epoch"].max()
            for j, sigma2 in enumerate((0.09, 1.0)):
                assert gradient[r, k, j] == own.loc[(0, sigma2), "bias_gradient"]
                level = own["activation_fraction"]
                expected = [level[e, sigma2] - level[e, 0.0] for e in range(end - 5, end + 1)]
                np.testing.assert_allclose(change[r, k, j], expected, rtol=1e-12)


def test_a_rank_correlation_has_the_ranks_that_ties_share():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 4, (2, 3, 5)).astype(float)
    assert theory._rank_correlation(x, y) == pytest.approx(rank_correlation(x, y))
    assert theory._rank_correlation(x, -x) == pytest.approx(-1)
    assert theory._rank_correlation(x, np.ones_like(x)) == 0.0
    assert theory._rank_correlation(np.ones_like(x), y) == 0.0
    np.testing.assert_array_equal(theory._ranks(x), stats.rankdata(x).reshape(x.shape))


@pytest.mark.parametrize("count", [4, 7, 8])
def test_the_chance_of_an_order_is_counted_up_to_seven_curves_and_drawn_beyond(count):
    x = np.arange(2.0 * count).reshape(count, 2)
    orders = math.factorial(count)
    least, most = (1 / orders, 1.0) if count < 8 else (1 / 10_000, 1.0)
    assert theory._permuted(x, -x) == pytest.approx(least)
    assert theory._permuted(x, x) == pytest.approx(most)
    random = np.random.default_rng(1)
    y = random.permuted(x, axis=0)
    seen = rank_correlation(x, y)
    if count < 8:
        as_low = [
            rank_correlation(x, y[list(order)]) <= seen + 1e-9
            for order in itertools.islice(itertools.permutations(range(count)), orders)
        ] if count == 4 else None  # fmt: skip
        if as_low is not None:
            assert theory._permuted(x, y) == pytest.approx(np.mean(as_low))
    else:
        drawn_ = [rank_correlation(x, y[random.permutation(count)]) <= seen for _ in range(400)]
        assert theory._permuted(x, y) == pytest.approx(np.mean(drawn_), abs=0.1)


def test_each_curve_is_left_out_in_turn():
    x, y = np.random.default_rng(3).standard_normal((2, 4, 3))
    expected = [rank_correlation(np.delete(x, k, 0), np.delete(y, k, 0)) for k in range(4)]
    np.testing.assert_allclose(theory._leave_one_out(x, y), expected)


@pytest.mark.parametrize(
    ("effect", "settled", "lacks"),
    [(0.5, True, "nothing"), (0.4, True, "nothing"), (0.6, True, "nothing"), (0.39, True, "seeds"),
     (0.61, True, "seeds"), (0.5, False, "epochs"), (0.9, False, "epochs")],
)  # fmt: skip
def test_between_two_limits_no_seed_helps(effect, settled, lacks):
    assert theory._between(effect, 0.4, 0.6, settled) == lacks


def test_the_figure_of_reach_has_a_point_a_curve_and_sigma2():
    one, other = reaching((1, 2))
    lost = (one["seed"] == 1) & (one["sigma2"] == 0.25)
    one = one.assign(status=np.where(lost, "diverged", "ok"))
    gone = one["sigma2"] == 0.49
    one.loc[gone, "status"] = "diverged"
    other.loc[other["sigma2"] == 0.09, "bias_gradient"] = np.nan
    left_out = [
        measured(curve("flat", model="sae", constraint="none"), gradient=1.0),
        measured(curve("flat", model="sae", encoder_bias=False), gradient=1.0),
        measured(curve("flat", model="dae", sigma2=(0.01, 1.0)), gradient=1.0),
        curve("flat", model="edae"),
    ]
    curves = [c for c, _ in judge(pd.concat([one, other, *left_out]))]
    found_ = theory.reach_points(curves)
    assert [(p["model"], p["activation"], p["sigma2"]) for p in found_] == [
        *(("cae", "relu", s) for s in (0.01, 0.09, 0.25, 1.0)),
        *(("mdae", "relu", s) for s in (0.01, 0.25, 0.49, 1.0)),
    ]
    for point in found_:
        frame, sigma2 = {"cae": one, "mdae": other}[point["model"]], point["sigma2"]
        seeds = [0, 2] if (point["model"], sigma2) == ("cae", 0.25) else [0, 1, 2]
        level = table(frame).loc[seeds]
        start = frame[(frame["epoch"] == 0) & frame["seed"].isin(seeds)]
        start = start[start["sigma2"] == sigma2]
        assert point["change"] == pytest.approx((level[sigma2] - level[0.0]).mean())
        assert point["gradient"] == pytest.approx(start["bias_gradient"].mean())
        assert set(point) == {"model", "activation", "sigma2", "gradient", "change"}
