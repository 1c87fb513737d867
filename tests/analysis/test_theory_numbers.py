"""Every number and word of the theory's predictions, made once more from the rows."""

import math

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis import theory_predictions as theory
from sparseae.analysis import thresholds
from sparseae.analysis.prediction import Finding
from sparseae.analysis.trends import judge
from tests.analysis.exact import NAN, found, p_above, p_below, student, table, told
from tests.analysis.frames import curve, measured

BOUNDED = next(
    case for case in theory.BoundedWeightsSparser.cases() if case.subject == "relu dae max_norm"
)


def bounded(length: float = 0.5, **more) -> pd.DataFrame:
    return curve("decreasing", model="dae", constraint="max_norm", **more).assign(
        weight_norm_mean=length
    )


def free(length: float = 1.0, **more) -> pd.DataFrame:
    frame = curve("decreasing", model="dae", constraint="none", **more)
    return frame.assign(weight_norm_mean=length)


def test_a_constraint_binds_where_it_changes_the_lengths_of_the_same_trials_by_a_share(monkeypatch):
    monkeypatch.setattr(thresholds, "BINDS", 0.125)
    plain = found(BOUNDED, bounded(0.875, max_norm=0.5))
    for frame in (free(max_norm=1.0), free(0.875 / 1.125, max_norm=1.0)):
        finding = found(BOUNDED, bounded(0.875, max_norm=0.5), frame)
        assert finding.evidence.endswith("; the constraint changes the lengths by 12%")
        assert finding.supports < 0.01
        assert finding.lacks == "seeds"
        assert finding.effect == plain.effect
    for frames, words in (
        ((free(0.95, max_norm=1.0),), "; the constraint changes the lengths by 7.9% only"),
        ((), "; by how much the constraint changes the lengths is not known: no trials without it"),
        ((free(rate=1.0),), None),
    ):
        rate = {"rate": 2.0} if words is None else {}
        finding = found(BOUNDED, bounded(0.875, max_norm=0.5, **rate), *frames)
        assert finding.evidence.endswith(words or "is not known: no trials without it")
        assert math.isnan(finding.supports)
        assert math.isnan(finding.contradicts)
        assert finding.lacks == "a binding constraint"
        assert (finding.effect, finding.seeds) == (plain.effect, plain.seeds)
    variants = [free(1.0, max_norm=1.0, own=1.0), free(0.5, max_norm=1.0, own=2.0)]
    assert found(BOUNDED, bounded(0.875), *variants).evidence.endswith("lengths by 75%")


def test_the_lengths_are_compared_at_the_seeds_and_sigma2_that_both_have():
    random = np.random.default_rng(0)
    one, other = bounded(seeds=4), free(seeds=4)
    for frame in (one, other):
        frame["weight_norm_mean"] = random.uniform(0.5, 1, len(frame))
    one = one[(one["seed"] != 0) & (one["sigma2"] != 0.09)]
    other = other[(other["seed"] != 2) & (other["sigma2"] != 0.25)]
    lost = (other["seed"] == 1) & (other["sigma2"] == 0.01)
    other.loc[lost, "status"] = "diverged"
    ratio = (table(one, "weight_norm_mean") / table(other, "weight_norm_mean")).loc[
        [1, 3], [0.0, 0.01, 0.49, 1.0]
    ]
    ratio.loc[1, 0.01] = np.nan
    ((bound, _), (unbound, _)) = judge(pd.concat([one, other]))
    assert (bound.name["constraint"], unbound.name["constraint"]) == ("max_norm", "none")
    assert theory._shortened(bound, unbound) == pytest.approx(abs(1 - np.nanmean(ratio)))
    apart = [f[f["seed"].isin(s)] for f, s in ((one, [1]), (other, [3]))]
    ((bound, _), (unbound, _)) = judge(pd.concat(apart))
    assert math.isnan(theory._shortened(bound, unbound))


@pytest.mark.parametrize(
    ("sets", "fewest", "shared"),
    [
        ([{1, 2}, {1, 2, 3}, {1, 2, 3}], 2, {1, 2}),  # of as much weight the first
        ([{1, 2}, {1, 2, 3}, {1, 2, 3}, {1, 2, 3}], 2, {1, 2, 3}),
        ([{1, 2}, {3, 4}, {3, 4}], 2, {3, 4}),
        ([{1, 2}, {3, 4}], 2, {1, 2}),
        ([{1}, {1}, {1}, {2, 3}], 2, {2, 3}),
        ([{1}, {1}, {2, 3}], 3, set()),
        ([], 1, set()),
    ],
)
def test_the_seeds_that_most_curves_have(sets, fewest, shared):
    assert theory._shared([frozenset(s) for s in sets], fewest) == shared


def test_curves_with_the_same_seeds_are_compared_and_what_has_more_among_them():
    frames = [
        curve("flat", model="ae", seeds=2), curve("flat", model="cae", seeds=4),
        curve("flat", model="dae", seeds=4), curve("flat", model="mdae", seeds=6),
    ]  # fmt: skip
    # A seed whose units are dead from the start is none.
    frames[3].loc[frames[3]["seed"] == 5, "dead_fraction"] = 0.9
    kept, seeds = theory._comparable(judge(pd.concat(frames)))
    assert seeds == [0, 1, 2, 3]
    assert [c.name["model"] for c, _ in kept] == ["cae", "dae", "mdae"]
    assert theory._comparable(judge(frames[0][frames[0]["seed"] == 0])) == ([], [])


ASSUMPTION = theory.Assumption1()
COLUMNS = ("variance_ratio", "theorem2_share", "descent_share", "descent_fell", "fell_share")


def drawn(model: str, low: float, high: float, seed: int = 0, **more) -> pd.DataFrame:
    """Rows of which each column of the theory is drawn; the same from epoch to epoch is settled."""
    frame = curve("flat", model=model, **more)
    random = np.random.default_rng(seed)
    place = frame.groupby(["sigma2", "seed"]).ngroup()
    columns = {
        name: random.uniform(low, high, place.max() + 1)[place]
        for name in COLUMNS
    }  # fmt: skip
    return measured(frame).assign(**columns)


def logs(frame: pd.DataFrame) -> pd.Series:
    """By seed the mean over sigma2 of the log of the variance's ratio."""
    return np.log(table(frame, "variance_ratio")).mean(axis=1)


WHITE = thresholds.WHITE
MOST = "log of Var[a_j] / norm(W_j)^2 of the curve where it is farthest from 0"


def test_assumption_1_is_judged_by_the_curve_that_is_farthest_from_it():
    near, far = drawn("cae", 0.98, 1.06), drawn("dae", 0.85, 0.99, seed=1, epochs=20)
    without = curve("flat", model="mdae", seeds=5).assign(bias_gradient=0.1)
    finding = found(ASSUMPTION, near, far, without)
    by_curve = [logs(near), logs(far)]
    value, low, high = student(by_curve[1])
    means = [math.exp(log.mean()) for log in by_curve]
    shares = pd.concat([near, far])["theorem2_share"]
    assert finding.evidence == (
        f"Var[a_j] / norm(W_j)^2 is {means[1]:.2f} to {means[0]:.2f} by curve; Theorem 2's bound "
        f"holds for {shares_mean(near, far):.2%} of units, at the worst epoch of a trial for "
        f"{shares.min():.2%}, and by Cantelli's inequality for all with the measured variance; "
        "3 seeds"
    )
    supports = max(max(p_above(log, -WHITE), p_below(log, WHITE)) for log in by_curve)
    assert told(finding) == pytest.approx(
        {"supports": supports, "contradicts": NAN, "effect": value, "low": low, "high": high,
         "measure": MOST, "seeds": 3, "settled": True, "sensitive": True, "lacks": "seeds",
         "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert [c.name["model"] for c, _ in finding.curves] == ["cae", "dae"]


def shares_mean(*frames: pd.DataFrame) -> float:
    return float(np.mean(np.concatenate([frame["theorem2_share"] for frame in frames])))


@pytest.mark.parametrize(("low", "high", "sign"), [(1.6, 2.2, 1), (0.4, 0.6, -1)])
def test_assumption_1_is_contradicted_where_a_curve_is_far_from_it_on_either_side(low, high, sign):
    near, far = drawn("cae", 0.98, 1.02), drawn("dae", low, high, seed=1)
    far = far.drop(columns="theorem2_share")
    finding = found(ASSUMPTION, near.drop(columns="theorem2_share"), far)
    p = p_above(sign * logs(far), WHITE)
    assert finding.contradicts == pytest.approx(2 * 2 * p)  # one of two curves, on one of two sides
    assert math.isnan(finding.supports)
    assert finding.evidence.endswith(" by curve; 3 seeds")
    for pace, settled in ((0.9, True), (1.1, False)):
        moving = far.assign(
            variance_ratio=far["variance_ratio"]
            * np.exp(sign * pace * WHITE * (far["epoch"] - 10) / 10)
        )
        finding = found(ASSUMPTION, near, moving)
        assert finding.settled is settled
        assert math.isnan(finding.contradicts) is not settled
        assert finding.lacks == ("seeds" if settled else "epochs")


def test_what_was_not_measured_of_a_trial_is_left_out_of_its_curves_mean():
    frame = drawn("cae", 0.9, 1.1)
    frame.loc[(frame["seed"] == 1) & (frame["sigma2"] == 0.09), "variance_ratio"] = np.nan
    frame.loc[(frame["seed"] == 2) & (frame["epoch"] == 3), "theorem2_share"] = np.nan
    never = (frame["seed"] == 0) & (frame["sigma2"] == 0.25)
    finding = found(ASSUMPTION, frame.assign(variance_ratio=frame["variance_ratio"].mask(never, 0)))
    frame.loc[never, "variance_ratio"] = np.nan  # a variance of 0 has no logarithm
    assert (finding.effect, finding.low, finding.high) == pytest.approx(student(logs(frame)))
    assert f"bound holds for {frame['theorem2_share'].mean():.2%} of units" in finding.evidence


def test_the_theory_needs_live_units_and_two_seeds():
    nothing = found(ASSUMPTION, curve("flat"))
    assert (nothing.tested, nothing.evidence) == (False, "no trials with theory: true")
    dead = drawn("cae", 0.9, 1.1).assign(dead_fraction=0.9)
    assert not found(ASSUMPTION, dead).tested
    moves = theory.BiasGradientMoves()
    for case, words in (
        (ASSUMPTION, "fewer than two seeds"),
        (moves, "fewer than two seeds, or no sign ever differs"),
    ):
        one = found(case, drawn("cae", 0.9, 0.95, seeds=1))
        assert (one.tested, one.evidence, one.lacks, len(one.curves)) == (True, words, "seeds", 1)


MOVES = theory.BiasGradientMoves()


def accuracy(frame: pd.DataFrame, seed: int, last: int | None = None) -> float:
    """The mean of two shares, over all epochs and sigma2: of units whose gradient was positive
    those that fell over the next epoch, and of the others those that rose."""
    own = frame[frame["seed"] == seed].set_index(["sigma2", "epoch"])
    last = frame["epoch"].max() if last is None else last
    positive = fell = others = rose = 0.0
    for sigma2, epoch in own.index:
        if epoch < last:
            before, after = own.loc[(sigma2, epoch)], own.loc[(sigma2, epoch + 1)]
            share = before["descent_share"]
            if np.isnan(share) or np.isnan(after["fell_share"]):
                continue
            both = share * np.nan_to_num(after["descent_fell"])
            positive, fell = positive + share, fell + both
            others, rose = others + 1 - share, rose + 1 - share - (after["fell_share"] - both)
    return (fell / positive + rose / others) / 2


def foretelling(model: str, fell: float, seed: int = 0, still: bool = True, **more):
    """Half of the units have a positive gradient; of them this share falls.

    The same from epoch to epoch, if it is to be ``still``.
    """
    frame = measured(curve("flat", model=model, **more))
    random = np.random.default_rng(seed)
    place = frame.groupby(["sigma2", "seed"]).ngroup() if still else np.arange(len(frame))

    def near(value: float) -> np.ndarray:
        return value + random.uniform(-0.03, 0.03, len(frame))[place]

    return frame.assign(descent_share=near(0.5), descent_fell=near(fell), fell_share=near(0.5))


def test_the_sign_is_judged_by_balanced_accuracy_over_all_epochs():
    frames = foretelling("cae", 0.9), foretelling("dae", 0.8, 1), foretelling("sae", 0.7, 2)
    by_seed = np.mean([[accuracy(f, seed) for seed in range(3)] for f in frames], axis=0)
    value, low, high = student(by_seed)
    finding = found(MOVES, *frames)
    assert finding.evidence == (
        f"balanced accuracy {value:.3f} [{low:+.3f}, {high:+.3f}], 3 curves, 3 seeds"
    )
    assert told(finding) == pytest.approx(
        {"supports": p_above(by_seed, 0.75), "contradicts": NAN, "effect": value, "low": low,
         "high": high, "measure": "balanced accuracy", "seeds": 3, "settled": True,
         "sensitive": True, "lacks": "seeds", "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert [c.name["model"] for c, _ in finding.curves] == ["cae", "dae", "sae"]


def test_a_sign_that_foretells_no_more_than_chance_contradicts():
    for fell, lacks, contradicted in ((0.5, "seeds", True), (0.65, "nothing", False)):
        frame = foretelling("cae", fell)
        by_seed = [accuracy(frame, seed) for seed in range(3)]
        finding = found(MOVES, frame)
        expected = p_below(by_seed, 0.5 + thresholds.MARGIN) if contradicted else NAN
        assert finding.contradicts == pytest.approx(expected, nan_ok=True)
        assert finding.lacks == lacks
    late = foretelling("cae", 0.5)
    late["descent_fell"] = 0.3 + 0.02 * late["epoch"]
    finding = found(MOVES, late)
    assert (finding.settled, finding.lacks) == (False, "epochs")
    assert math.isnan(finding.contradicts)


def test_the_accuracy_of_a_curve_is_up_to_each_epoch_of_the_last_half():
    frame = foretelling("cae", 0.8, still=False, seeds=4)
    frame.loc[frame["epoch"] == 4, "descent_share"] = np.nan
    frame.loc[frame["epoch"] == 6, "fell_share"] = np.nan
    frame.loc[frame["epoch"] == 8, "descent_fell"] = np.nan
    ((one, _),) = judge(frame)
    made = theory._foretold(one, [0, 2])
    assert made is not None
    expected = [[accuracy(frame, seed, last) for last in range(5, 11)] for seed in (0, 2)]
    np.testing.assert_allclose(made, expected, rtol=1e-12)
    ((short, _),) = judge(frame[frame["epoch"] <= 1])
    made = theory._foretold(short, [1])
    assert made is not None
    np.testing.assert_allclose(made, [[accuracy(frame, 1, 1)]], rtol=1e-12)
    ((nowhere, _),) = judge(frame[frame["epoch"] == 0])
    assert theory._foretold(nowhere, [1]) is None
    alike = frame.assign(descent_share=np.where(frame["seed"] == 1, 1.0, 0.5))
    ((alike, _),) = judge(alike)
    assert theory._foretold(alike, [0, 1]) is None  # no unit whose gradient is not positive
    assert theory._foretold(alike, [0, 2]) is not None


def test_accuracies_of_curves_with_more_epochs_are_compared_over_those_of_all():
    frames = foretelling("cae", 0.8, 0, False), foretelling("dae", 0.7, 1, False, epochs=20)
    judged = judge(pd.concat(frames))
    made = theory._accuracies(judged, [0, 1, 2])
    assert made is not None
    last = np.mean([[accuracy(f, seed) for seed in range(3)] for f in frames], axis=0)
    np.testing.assert_allclose(made.now[:, 0], last, rtol=1e-12)
    windows = [
        [[accuracy(f, seed, last) for last in range(f["epoch"].max() - 5, f["epoch"].max() + 1)]
         for seed in range(3)] for f in frames
    ]  # fmt: skip
    pace = [np.polyfit(np.arange(6), window, 1)[0] for window in np.mean(windows, axis=0)]
    np.testing.assert_allclose(made.trend[:, 0], np.array(pace) * 20, rtol=1e-9)
    assert theory._accuracies(judged, [0]) is None
    assert theory._accuracies([], [0, 1]) is None


WHITENED = theory.WhitenedFitsBetter()


def gains(*sides: tuple[str, str, float, float, dict]) -> Finding | None:
    """By data set and model the share that falls, raw and whitened, and further settings."""
    frames = []
    for k, (dataset, model, raw, white, more) in enumerate(sides):
        for whiten, fell in ((False, raw), (True, white)):
            frame = foretelling(model, fell, 2 * k + whiten, dataset=dataset, whiten=whiten, **more)
            frames.append(frame)
    gains.frames = frames
    judged = judge(pd.concat(frames))
    datasets = sorted({c.name["dataset"] for c, _ in judged})
    findings = {
        name: WHITENED.judge([pair for pair in judged if pair[0].name["dataset"] == name])
        for name in datasets
    }
    assert not any(f.tested for f in findings.values())
    return WHITENED.together(findings)


def test_whitening_is_judged_by_the_gain_of_accuracy_on_each_data_set():
    finding = gains(
        ("a", "cae", 0.6, 0.8, {}), ("a", "dae", 0.7, 0.9, {}), ("b", "cae", 0.6, 0.7, {})
    )
    by_seed = {
        (name, whiten): np.mean(
            [[accuracy(f, seed) for seed in range(3)] for f in gains.frames
             if (f["dataset"].iloc[0], f["whiten"].iloc[0]) == (name, whiten)], axis=0)
        for name in "ab" for whiten in (False, True)
    }  # fmt: skip
    words, gain = [], {}
    for name in "ab":
        gain[name] = by_seed[name, True] - by_seed[name, False]
        value, low, high = student(gain[name])
        raw, white = (by_seed[name, whiten].mean() for whiten in (False, True))
        words.append(
            f"{name} {raw:.3f}, whitened {white:.3f}, {value:+.3f} [{low:+.3f}, {high:+.3f}], "
            "3 seeds"
        )
    assert finding.evidence == f"balanced accuracy: {'; '.join(words)}"
    value, low, high = student(gain["b"])  # the least
    assert told(finding) == pytest.approx(
        {"supports": max(p_above(gain[n], thresholds.MARGIN) for n in "ab"), "contradicts": NAN,
         "effect": value, "low": low, "high": high, "measure": "gain of balanced accuracy",
         "seeds": 3, "settled": True, "sensitive": True, "lacks": "seeds", "tested": True},
        nan_ok=True,
    )  # fmt: skip
    assert [f"{c.name['dataset']} {c.name['model']}" for c, _ in finding.curves] == [
        "a cae", "a dae", "a (whitened) cae", "a (whitened) dae", "b cae", "b (whitened) cae"
    ]  # fmt: skip


def test_one_data_set_that_whitening_makes_worse_contradicts():
    finding = gains(("a", "cae", 0.6, 0.8, {}), ("b", "cae", 0.9, 0.7, {}),
                    ("c", "cae", 0.9, 0.8, {}))  # fmt: skip
    assert math.isnan(finding.supports)
    least = []
    for name in "bc":
        sides = [f for f in gains.frames if f["dataset"].iloc[0] == name]
        raw, white = ([accuracy(f, seed) for seed in range(3)] for f in sides)
        least.append(p_below(np.array(white) - raw, -thresholds.MARGIN))
    assert finding.contradicts == pytest.approx(2 * min(least))


def test_whitened_and_raw_are_compared_in_trials_that_are_alike():
    nothing = "needs the same trials whitened and not"
    for judged in ({}, {"a": Finding("")}):
        made = WHITENED.together(judged)
        assert (made.tested, made.evidence) == (False, nothing)
    one = WHITENED.judge([])
    assert (one.tested, one.evidence) == (False, nothing)
    assert not gains(("a", "cae", 0.6, 0.8, {"seeds": 1})).tested
    few = gains(("a", "cae", 0.6, 0.8, {"seeds": 1}), ("b", "cae", 0.6, 0.8, {"seeds": 4}))
    assert (few.tested, few.seeds, len(few.curves)) == (True, 4, 2)
    raw = foretelling("cae", 0.6, whiten=False, rate=1.0)
    for other, alike in (
        (foretelling("cae", 0.8, whiten=True, rate=1.0), 1),
        (foretelling("cae", 0.8, whiten=True, rate=2.0), 0),
        (foretelling("dae", 0.8, whiten=True, rate=1.0), 0),
    ):
        ((one, _),), ((white, _),) = judge(raw), judge(other)
        sides = theory._alike([(one, None)], [(white, None)])
        assert [len(side) for side in sides] == [alike] * 2
        if alike:
            assert sides[0][0][0] is one
            assert sides[1][0][0] is white


@pytest.mark.parametrize("one_sided", [[False], [True], [False, True]])
def test_without_units_of_both_signs_on_both_sides_whitening_is_not_judged(one_sided):
    frames = [foretelling("cae", 0.7, whiten=whiten) for whiten in (False, True)]
    frames = [f.assign(descent_share=1.0) if f["whiten"].iloc[0] in one_sided else f
              for f in frames]  # fmt: skip
    findings = {}
    for pair in judge(pd.concat(frames)):
        findings[pair[0].name["dataset"]] = WHITENED.judge([pair])
    assert not WHITENED.together(findings).tested


def test_a_column_that_was_not_measured_is_known_nowhere():
    ((one, _),) = judge(measured(curve("flat", seeds=2, sigma2=(0.0, 0.25, 1.0))))
    assert theory._column(one, "lemma1_share") is one.theory["lemma1_share"]
    missing = theory._column(one, "kink_gradient")
    assert missing.shape == (2, 3, 11)
    assert np.isnan(missing).all()
    assert theory._window(one, "lemma1_share").shape == (2, 3, 6)
    x = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(theory._nanmean(x, 0), [2.0, np.nan])
    np.testing.assert_array_equal(theory._nanmean(x, 1), [1.0, 3.0])
