"""Every number and word of the explanations of a sparse relu dae, made once more from the rows."""

import math

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis import explanations, thresholds
from sparseae.analysis.prediction import Finding
from sparseae.analysis.trends import judge
from tests.analysis.exact import NAN, found, p_above, p_below, shifted, student, table, told
from tests.analysis.frames import SIGMA2, curve, effect, measured

CONTRIBUTES = explanations.FirstOrderContributes()
NECESSARY = explanations.FirstOrderNecessary()
KINK = explanations.KinkExplains()
EVERY = (CONTRIBUTES, NECESSARY, KINK)


def dae(**more) -> pd.DataFrame:
    return curve("decreasing", model="dae", **({"noise": 0.004, "corruptions": 1} | more))


def other(model: str, shape: str, seed: int = 1, **more) -> pd.DataFrame:
    more = {"noise": 0.004, "corruptions": 1} | more
    return curve(shape, model=model, rng=np.random.default_rng(seed), **more)


def fall(frame: pd.DataFrame, at=SIGMA2) -> pd.Series:
    """By seed: the mean over the sigma2 above the first of how far the fraction falls."""
    level = table(frame)[list(at)]
    return -level.iloc[:, 1:].sub(level.iloc[:, 0], axis=0).mean(axis=1)


def words(name: str, *frames: pd.DataFrame, at=SIGMA2) -> str:
    sizes = [
        f"{fall(frame, at).mean():.3f} at {int(frame['corruptions'].iloc[0])}" for frame in frames
    ]
    return f"{name} falls by {', '.join(sizes)} corruptions a sample"


def models(finding: Finding) -> list[tuple[str, int]]:
    return [(c.name["model"], c.settings["corruptions"]) for c, _ in finding.curves]


BEYOND = "fall of the activation_fraction beyond half of dae's"


@pytest.mark.parametrize(("shape", "supported"), [("flat", True), ("decreasing", False)])
def test_the_kink_explains_what_is_gone_without_it(shape, supported):
    whole, part = dae(seeds=4), other("dae2", shape, seeds=4)
    excess = fall(part) - fall(whole) / 2
    value, low, high = student(excess)
    finding = found(KINK, whole, part, dae(corruptions=10))
    assert finding.evidence == (
        f"{words('dae', whole)}; {words('dae2', part)}; above one half of dae's fall by "
        f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    below = p_below(excess, -thresholds.MARGIN) if supported else NAN
    above = NAN if supported else p_above(excess, thresholds.MARGIN)
    assert told(finding) == pytest.approx(
        {"supports": below, "contradicts": above, "effect": value, "low": low, "high": high,
         "measure": BEYOND, "seeds": 4, "settled": True, "sensitive": True, "lacks": "seeds",
         "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert models(finding) == [("dae", 1), ("dae2", 1)]


def test_an_explanation_that_still_moves_is_not_contradicted():
    for pace, settled in ((0.0028, True), (0.0032, False)):
        # The mean over sigma2 moves, at the pace of a settled curve and of one that is not.
        part = other("dae2", "decreasing")
        move = pace * (part["epoch"] - 10) * (part["sigma2"] > 0)
        part = part.assign(activation_fraction=part["activation_fraction"] - move)
        finding = found(KINK, dae(), part)
        assert finding.settled is settled
        assert math.isnan(finding.contradicts) is not settled
        assert finding.lacks == ("seeds" if settled else "epochs")


def test_the_first_order_term_is_necessary_where_the_fall_vanishes_with_more_corruptions():
    few, middle = dae(), dae(corruptions=4, noise=0.001)
    many = curve("flat", model="dae", corruptions=10, rng=np.random.default_rng(5))
    ones = other("edae", "decreasing"), other("edae", "flat", 3, corruptions=10)
    excess = fall(many) - fall(few) / 2
    value, low, high = student(excess)
    finding = found(NECESSARY, many, few, middle, *ones[::-1])
    assert finding.evidence == (
        f"{words('dae', few, middle, many)}; {words('edae', *ones)}; above one half of dae's fall "
        f"by {value:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    assert finding.supports == pytest.approx(p_below(excess, -thresholds.MARGIN))
    assert math.isnan(finding.contradicts)
    assert models(finding) == [("dae", 1), ("dae", 10)]


@pytest.mark.parametrize(
    ("few", "most", "varied"),
    [(1, 1, False), (1, 9, False), (1, 10, True), (2, 10, False), (2, 19, True)],
)
def test_of_corruptions_that_were_hardly_varied_nothing_is_said(few, most, varied):
    daes = [dae(corruptions=k, noise=0.001) for k in sorted({few, most})]
    finding = found(NECESSARY, *daes, other("edae", "flat"))
    assert (finding.lacks != "corruptions") is varied
    assert finding.evidence.endswith("; the number was not varied") is not varied
    if not varied:
        assert models(finding) == [*(("dae", k) for k in sorted({few, most})), ("edae", 1)]
        assert math.isnan(finding.supports)


@pytest.mark.parametrize("shape", ["decreasing", "weak", "flat"])
def test_the_first_order_term_contributes_where_edae_falls_by_more_than_the_margin(shape):
    alone = other("edae", shape, seeds=4, noise=0.001)
    value, low, high = student(fall(alone))
    finding = found(CONTRIBUTES, dae(seeds=4), alone, other("edae", "flat", 7, corruptions=10))
    assert finding.evidence == (
        f"{words('dae', dae(seeds=4))}; {words('edae', alone)} [{low:+.3f}, {high:+.3f}], 4 seeds"
    )
    above = p_above(fall(alone), thresholds.MARGIN) if shape == "decreasing" else NAN
    below = p_below(fall(alone), thresholds.MARGIN) if shape != "decreasing" else NAN
    assert told(finding) == pytest.approx(
        {"supports": above, "contradicts": below, "effect": value, "low": low, "high": high,
         "measure": "fall of the activation_fraction", "seeds": 4, "settled": True,
         "sensitive": True, "lacks": "seeds", "tested": True}, nan_ok=True,
    )  # fmt: skip
    assert models(finding) == [("dae", 1), ("edae", 1)]
    moving = effect(alone, "activation_fraction", lambda e: 0.02 * (e - 10))
    finding = found(CONTRIBUTES, dae(seeds=4), moving)
    assert (finding.settled, finding.lacks) == (False, "epochs")
    assert math.isnan(finding.contradicts)


def test_an_explanation_is_sensitive_where_both_curves_are():
    # dae's fraction is within its limit at the start; it falls all the same.
    limit = dae(noise=0.0).assign(activation_fraction=lambda f: f["activation_fraction"] + 0.6)
    for case, part in ((KINK, other("dae2", "flat")), (CONTRIBUTES, other("edae", "decreasing"))):
        assert found(case, dae(), part).sensitive is True
        assert found(case, limit, part).sensitive is False


def test_falls_are_over_the_sigma2_that_all_have_and_paired_by_seed():
    whole = dae(seeds=5, noise=0.01)
    part = other("dae2", "weak", seeds=6, noise=0.01)
    whole = whole[(whole["seed"] != 1) & (whole["sigma2"] != 0.09)]
    part = part[(part["seed"] != 2) & (part["sigma2"] != 0.49)]
    at = (0.0, 0.01, 0.25, 1.0)
    excess = (fall(part, at) - fall(whole, at) / 2).dropna()
    assert list(excess.index) == [0, 3, 4]
    finding = found(KINK, whole, part)
    assert (finding.effect, finding.low, finding.high) == pytest.approx(student(excess))
    assert finding.seeds == 3
    assert finding.evidence.startswith(
        f"{words('dae', whole, at=at)}; {words('dae2', part, at=at)};"
    )
    for later in (4, 9):  # one shared seed, or none
        few = found(KINK, whole, part.assign(seed=part["seed"] + later))
        assert (few.lacks, "above" in few.evidence) == ("seeds", False)


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_what_an_explanation_lacks(case):
    model = case.model
    more = [] if case is not NECESSARY else [dae(corruptions=10)]
    few = {0.0, 0.01, 0.09}

    def lacking(*frames: pd.DataFrame) -> str:
        finding = found(case, *frames)
        assert math.isnan(finding.supports)
        assert math.isnan(finding.contradicts)
        return finding.lacks

    long = [frame.assign(epoch=frame["epoch"] * 2) for frame in more]
    nothing = found(case, dae(), *more)
    assert not nothing.tested
    assert nothing.evidence == f"needs relu dae and {model} under unit_norm"
    assert not found(case, other(model, "flat")).tested
    # In the order in which they are asked for.
    if case is not NECESSARY:
        assert lacking(dae(), other(model, "flat", epochs=20)) == "epochs"
    else:
        assert lacking(dae(), *long, other(model, "flat")) == "epochs"
    short = [frame[frame["epoch"] <= 4].assign(epochs=4) for frame in (dae(), *more)]
    assert lacking(*short, other(model, "flat", epochs=4)) == "epochs"
    one = [frame[frame["seed"] == 0] for frame in (dae(), *more)]
    assert lacking(*one, other(model, "flat", seeds=1)) == "seeds"
    for values in (few, {0.01, 0.25, 1.0}, {0.0}):
        some = [f[f["sigma2"].isin(values)] for f in (dae(), *more, other(model, "flat"))]
        assert lacking(*some) == ("trials" if values == {0.0} else "range")
    flat = [frame.assign(activation_fraction=0.37 - 0.029 * (frame["sigma2"] > 0))
            for frame in (dae(), *more)]  # fmt: skip
    assert lacking(*flat, other(model, "flat")) == "control"  # dae itself does not fall
    enough = [frame.assign(activation_fraction=0.37 - 0.031 * (frame["sigma2"] > 0))
              for frame in (dae(), *more)]  # fmt: skip
    assert found(case, *enough, other(model, "flat")).lacks != "control"


def test_curves_that_were_trained_otherwise_are_explained_apart():
    frames = [frame for rate in (0.1, 0.2) for frame in
              (dae(rate=rate), other("dae2", "flat", rate=rate))]  # fmt: skip
    finding = found(KINK, *frames, dae(rate=0.3), other("dae2", "flat", rate=0.4))
    assert finding.evidence.count("above one half") == 2
    rates = [(c.name["model"], c.settings["rate"]) for c, _ in finding.curves]
    assert sorted(rates) == [("dae", 0.1), ("dae", 0.2), ("dae2", 0.1), ("dae2", 0.2)]
    assert rates[0][1] == rates[1][1]


def test_a_seed_whose_row_misses_has_no_fall():
    frame = dae(seeds=3)
    frame = frame[(frame["seed"] != 1) | (frame["sigma2"] != 0.25) | (frame["epoch"] != 8)]
    ((one, _),) = judge(frame)
    falls = explanations._fall(one, np.array([0.0, 0.25, 1.0]))
    assert list(falls) == [0, 2]
    expected = fall(frame, (0.0, 0.25, 1.0))
    assert [f[-1] for f in falls.values()] == pytest.approx([expected[0], expected[2]])
    assert all(f.shape == (6,) for f in falls.values())
    assert explanations._fall(one, np.array([0.25])) == {}
    assert math.isnan(explanations._size(one, np.array([0.25])))


def test_two_seeds_with_a_fall_are_enough_and_one_is_not():
    pair = dae(seeds=2), other("dae2", "flat", seeds=2)
    two = found(KINK, *pair)
    assert (two.seeds, two.supports == two.supports, "above" in two.evidence) == (2, True, True)
    for case, model in ((KINK, "dae2"), (CONTRIBUTES, "edae")):
        part = other(model, "decreasing", seeds=2)
        assert found(case, dae(seeds=2), part).seeds == 2
        misses = (part["seed"] == 1) & (part["sigma2"] == 0.25) & (part["epoch"] == 8)
        one = found(case, dae(seeds=2), part[~misses])
        assert (one.lacks, math.isnan(one.effect)) == ("seeds", True)


def test_the_kinks_share_is_of_all_that_the_noise_adds():
    frame = measured(shifted(dae(), {}), gradient=0.0)
    random = np.random.default_rng(2)
    frame["bias_gradient"] = random.uniform(1, 2, len(frame))
    frame["kink_gradient"] = random.uniform(0, 1, len(frame))
    frame.loc[frame["epoch"] == 3, "kink_gradient"] = np.nan
    frame.loc[frame["epoch"] == 4, "bias_gradient"] = np.nan
    ((one, _),) = judge(frame)
    above = frame[frame["sigma2"] > 0]
    expected = above["kink_gradient"].sum() / above["bias_gradient"].sum()
    assert explanations.kink_share(one) == pytest.approx(expected)
    ((none, _),) = judge(frame.assign(bias_gradient=0.0))
    assert math.isnan(explanations.kink_share(none))
