"""What an option costs, and what the rows may become, by their closed forms."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis import outlook, thresholds
from sparseae.analysis.curves import Curve
from sparseae.analysis.outlook import Open, Option, open_statements
from sparseae.analysis.prediction import Evidence
from sparseae.analysis.trends import judge
from sparseae.analysis.verdicts import Looks, Outcome, outcomes_of
from tests.analysis.frames import curve

nan = float("nan")


def made(*, R: Any = 3, K: Any = 4, epochs: Any = 10, **changed: Any) -> Curve:
    """A curve of R seeds, K values of sigma2 (0, 0.01, 0.04, 0.09, ...); 0.5 everywhere."""
    shape = R, K, epochs + 1
    tables = dict.fromkeys(("activations", "deads", "pre_activations"), np.full(shape, 0.5))
    own: dict[str, Any] = {
        "name": {"model": "dae", "activation": "relu", "constraint": "none", "dataset": "digits"},
        "sigma2": (np.arange(K) / 10) ** 2, "seeds": np.arange(R), **tables,
        "lengths": np.ones((R, K)), "epoch": epochs, "trials": R * K,
        "theory": {"bias_gradient": np.full(shape, 0.5)},
        "trial_ids": np.array([[f"{r}/{k}" for k in range(K)] for r in range(R)], dtype=object),
    }  # fmt: skip
    return Curve(**own | changed)


def outcome(needs: str, *curves: Curve) -> Outcome:
    pairs: Any = [(one, SimpleNamespace(seeds=one.seeds.size)) for one in curves or [made()]]
    return Outcome("inconclusive", "", curves=pairs, needs=needs)


def test_an_option_in_words_is_what_is_added():
    assert Option(seeds=1).words(10) == "1 more seed"
    assert Option(seeds=2, epochs=1_510).words(10) == "2 more seeds and 1,500 more epochs"
    assert Option(sigma2=(0.01234, 0.5)).words(10) == "sigma2 0.0123, 0.5"


def opened(*options: Option, subject: str = "s") -> Open:
    case: Any = SimpleNamespace(name="p", subject=subject)
    of = outcome("seeds", made(epochs=4), made(epochs=7))
    return Open(case, "digits", of, list(options))


def test_the_best_option_is_the_cheapest_that_is_enough_else_the_most_likely():
    low, half, first, second = (
        Option(seeds=n, odds=odds) for n, odds in enumerate([0.1, 0.5, 0.8, 0.9], start=1)
    )
    assert opened(low, half, first, second).best is first
    assert opened(low, half, low).best is half
    assert opened(Option(odds=0.0)).best is None
    assert opened().best is None
    assert opened().epoch == 7


def test_a_statement_is_named_without_what_every_one_has():
    assert opened(subject="relu dae unit_norm").label == "p, relu dae, digits"
    assert opened(subject="").label == "p, digits"


@pytest.mark.parametrize(
    ("option", "cost"),
    [
        (Option(seeds=3), 1.0),  # as many seeds as there are
        (Option(epochs=20), 1.0),
        (Option(sigma2=(0.5, 0.6)), 0.5),
        (Option(seeds=3, epochs=20, sigma2=(0.5, 0.6)), 2 * 2 * 1.5 - 1),
    ],
)
def test_a_cost_is_in_times_of_what_was_spent(option, cost):
    assert outlook._cost(option, 3, 10, 4) == pytest.approx(cost)


def test_a_cost_before_the_first_epoch_is_of_what_is_added():
    assert outlook._cost(Option(seeds=3, epochs=20), 3, 0, 4) == pytest.approx(1.0)


def lengths(options: list[Option]) -> set[tuple[int, int]]:
    return {(option.seeds, option.epochs) for option in options if option.epochs}


def test_what_may_be_tried_costs_at_most_ten_times_and_the_cheapest_comes_first():
    options = outlook._candidates(outcome("seeds", made(R=8)))
    costs = [outlook._cost(option, 8, 10, 4) for option in options]
    assert costs == sorted(costs)
    assert {o.seeds for o in options if not o.epochs} == {1, 2, 3, 5, 8}
    assert lengths(options) == {(2, 20), (2, 50), (4, 20), (4, 50)}
    assert not any(option.sigma2 for option in options)
    # Four seeds more than three and five times the epochs are 10.7 times the cost; than one, 24.
    assert lengths(outlook._candidates(outcome("seeds"))) == {(2, 20), (2, 50), (4, 20)}
    assert lengths(outlook._candidates(outcome("seeds", made(R=1)))) == {(2, 20), (4, 20)}


def test_more_epochs_are_tried_where_they_lack():
    options = outlook._candidates(outcome("epochs", made(R=8)))
    assert [o.epochs for o in options if not o.seeds] == [15, 20, 30, 50, 100]
    assert lengths([o for o in options if o.seeds]) == {
        (n, e) for n in (2, 4) for e in (20, 30, 50)
    }
    # Of twenty seeds two more with ten times the epochs are exactly ten times the cost.
    many = lengths(outlook._candidates(outcome("epochs", made(R=20))))
    assert {option for option in many if option[1] == 100} == {(0, 100), (2, 100)}
    # Two epochs show no pace: the fewest that do.
    few = outlook._candidates(outcome("epochs", made(epochs=2)))
    assert [o.epochs for o in few if not o.seeds] == [5, 6, 10, 20]


def test_more_values_of_sigma2_are_tried_where_dead_units_begin():
    dead = np.full((3, 4, 11), 0.0)
    dead[:, 2:] = 0.2
    options = outlook._candidates(outcome("sigma2", made(deads=dead)))
    assert [o.sigma2 for o in options if not o.seeds] == [
        (0.0225,), (0.0178, 0.0278), (0.0144, 0.0196, 0.0256, 0.0324),
    ]  # fmt: skip
    assert [len(o.sigma2) for o in options if o.seeds == 3] == [2, 4]
    assert outlook._candidates(outcome("sigma2")) == []  # they do not begin: 0.5 everywhere
    unknown = made(deads=np.full((3, 4, 11), nan))
    assert outlook._candidates(outcome("sigma2", unknown)) == []
    for gap in (np.arange(3).reshape(3, 1, 1) == 0, np.arange(4).reshape(1, 4, 1) == 3):
        some = np.where(gap, nan, dead)
        found = outlook._candidates(outcome("sigma2", made(deads=some)))
        assert repr(found) == repr(options)


def test_curves_of_unlike_length_are_made_alike_and_what_is_on_its_way_is_waited_for():
    assert outlook._candidates(outcome("seeds", made(epochs=4), made(epochs=9))) == [
        Option(epochs=9)
    ]
    assert outlook._candidates(outcome("seeds", made(), made(unfinished=1))) == []
    assert outlook._candidates(Outcome("inconclusive", "", needs="seeds")) == []
    assert outlook._candidates(outcome("live units")) == []


def test_the_seeds_of_the_curve_that_has_fewest_tell_the_cost():
    options = outlook._candidates(outcome("seeds", made(R=4), made(R=1)))
    assert [o.seeds for o in options if not o.epochs] == [1, 2, 3, 5, 8]
    assert not [o for o in options if o.epochs == 50]  # (1 + 2/1) 5 - 1 is 14 times


@pytest.mark.parametrize(
    ("power", "way"),
    [
        (0.0, [0.1, 0.2, 0.5]),
        (0.5, 2 * (np.sqrt([1.1, 1.2, 1.5]) - 1)),
        (1.0, np.log([1.1, 1.2, 1.5])),
        (2.0, 1 - 1 / np.array([1.1, 1.2, 1.5])),
    ],
)
def test_a_pace_slows_down_as_a_power_of_the_epochs(power, way):
    epochs = np.arange(11.0)
    table = np.where(epochs > 7, 0.2 + 0.01 * (epochs - 10), 0.9)  # the last fifth alone counts
    one = made(
        activations=table.reshape(1, 1, 11).repeat(3, 0).repeat(4, 1),
        pre_activations=np.broadcast_to(0.3 * epochs, (3, 4, 11)),
        theory={"bias_gradient": np.broadcast_to(-2 * epochs, (3, 4, 11))},
    )
    then = outlook._longer(one, 15, power)
    assert then.epoch == 15
    ahead = np.array(way)
    at = [11, 12, 15]
    assert then.activations[0, 0, at] == pytest.approx(0.2 + 0.1 * ahead)
    assert then.pre_activations[2, 3, at] == pytest.approx(3 + 3 * ahead)
    assert then.theory["bias_gradient"][1, 1, at] == pytest.approx(-20 - 20 * ahead)
    assert (then.deads == 0.5).all()
    assert then.deads.shape == (3, 4, 16)


def test_a_pace_is_that_of_the_last_fifth_by_least_squares():
    square = np.broadcast_to(np.arange(12.0) ** 2 / 1000, (3, 4, 12))
    then = outlook._longer(made(epochs=11, pre_activations=square), 12, 0.0)
    assert then.pre_activations[0, 0, -1] == pytest.approx(0.121 + 0.019)  # of epochs 8 to 11
    two = np.broadcast_to([0.1, 0.3], (3, 4, 2))
    then = outlook._longer(made(epochs=1, pre_activations=two), 4, 1.0)
    assert then.pre_activations[0, 0, 2:] == pytest.approx(0.3 + 0.2 * np.log([2, 3, 4]))


def test_how_the_pace_falls_and_where_a_value_lies_are_drawn():
    """The power is even between 0 and 2; how far along is log-normal about its sigma."""
    steady = made(pre_activations=np.broadcast_to(np.arange(11.0), (3, 4, 11)))
    rng = np.random.default_rng(0)
    ends = np.array([
        outlook._draw([steady], Option(epochs=20), rng)[0].pre_activations[0, 0, -1] - 10
        for _ in range(800)
    ])  # fmt: skip
    # Twice the epochs: at powers 0, 1/2, 1, 3/2 and 2.
    marks = 10 * np.array([1, 2 * (2**0.5 - 1), np.log(2), 2 * (1 - 2**-0.5), 0.5])
    assert ends.max() <= marks[0]
    assert ends.min() >= marks[-1]
    shares = np.histogram(ends, marks[::-1])[0] / ends.size
    assert shares == pytest.approx(0.25, abs=0.06)

    rising = made(pre_activations=np.broadcast_to(np.arange(4.0)[:, None], (3, 4, 11)))
    draws = [outlook._draw([rising], Option(sigma2=(0.0225, 0.0289)), rng)[0] for _ in range(800)]
    first, second = (np.array([d.pre_activations[0, k, 0] for d in draws]) - 1 for k in (2, 3))
    powers = np.log(np.log(first) / np.log(0.5))
    assert powers.mean() == pytest.approx(0, abs=0.06)
    assert powers.std() == pytest.approx(0.5, abs=0.05)
    assert np.log(np.log(second) / np.log(0.7)) == pytest.approx(powers)


def test_one_seed_is_drawn_as_real_runs_deviate_and_two_by_their_own_difference():
    rng = np.random.default_rng(0)
    one = [outlook._draw([made(R=1)], Option(seeds=1), rng)[0] for _ in range(300)]
    assert np.std([d.activations[1, 0, 0] for d in one]) == pytest.approx(0.006, rel=0.15)
    table = np.broadcast_to(np.array([0.4, 0.6]).reshape(2, 1, 1), (2, 4, 11))
    two = [outlook._draw([made(R=2, pre_activations=table)], Option(seeds=1), rng)[0]
           for _ in range(300)]  # fmt: skip
    drawn = np.array([d.pre_activations[2, 0, 0] for d in two])
    # Student's t of one degree of freedom, times sqrt(1 + 1/2) of the deviation: its quartiles.
    quartiles = 0.5 + np.array([-1, 1]) * 0.2 / 2**0.5 * 1.5**0.5
    assert np.quantile(drawn, [0.25, 0.75]) == pytest.approx(quartiles, abs=0.06)


def test_a_pace_ends_at_zero_and_one_and_one_epoch_shows_none():
    up, down = np.linspace(0, 1, 11), np.linspace(1, 0, 11)
    tables = {
        "activations": np.broadcast_to(up, (3, 4, 11)),
        "deads": np.broadcast_to(down, (3, 4, 11)),
        "pre_activations": np.broadcast_to(up, (3, 4, 11)),
    }
    then = outlook._longer(made(**tables), 20, 0.0)
    assert (then.activations[..., 11:] == 1).all()
    assert (then.deads[..., 11:] == 0).all()
    assert then.pre_activations[0, 0, -1] == pytest.approx(2.0)
    fall = {"activations": tables["deads"], "deads": tables["activations"],
            "pre_activations": tables["deads"]}  # fmt: skip
    then = outlook._longer(made(**fall), 20, 0.0)
    assert (then.activations[..., 11:] == 0).all()
    assert (then.deads[..., 11:] == 1).all()
    assert then.pre_activations[0, 0, -1] == pytest.approx(-1.0)
    start = made(epochs=0)
    assert (outlook._longer(start, 3, 0.5).activations == 0.5).all()


def test_a_value_of_sigma2_lies_between_its_neighbours_by_sigma():
    by = np.array([0.1, 0.2, 0.6, 0.7]).reshape(1, 4, 1)
    tables = {name: np.broadcast_to(by, (3, 4, 11)) for name in
              ("activations", "deads", "pre_activations")}  # fmt: skip
    one = made(**tables, lengths=np.broadcast_to(by[..., 0], (3, 4)),
               theory={"bias_gradient": np.broadcast_to(by, (3, 4, 11))})  # fmt: skip
    then = outlook._denser(one, (0.0144, 0.0225), 1.0)  # 0.2 and 0.5 of the way
    assert then.sigma2 == pytest.approx([0.0, 0.01, 0.0144, 0.0225, 0.04, 0.09])
    expected = pytest.approx([0.1, 0.2, 0.28, 0.4, 0.6, 0.7])
    assert then.activations[0, :, 0] == expected
    assert then.deads[1, :, 4] == expected
    assert then.pre_activations[2, :, -1] == expected
    assert then.theory["bias_gradient"][0, :, -1] == expected
    assert then.lengths[0] == expected
    assert then.trial_ids[1].tolist() == ["1/0", "1/1", "", "", "1/2", "1/3"]
    assert then.trials == 12 + 3 * 2
    bent = outlook._denser(one, (0.0225, 0.0625), 2.0)
    assert bent.activations[0, :, 0] == pytest.approx([0.1, 0.2, 0.3, 0.6, 0.625, 0.7])


def test_further_seeds_are_drawn_about_the_mean_by_the_weights():
    deviation = np.array([-0.1, 0.0, 0.1]).reshape(3, 1, 1)
    table = np.broadcast_to(0.5 + deviation, (3, 4, 11))
    one = made(
        activations=table,
        pre_activations=10 * table,
        lengths=table[..., 0],
        deads=np.broadcast_to(0.2 + deviation, (3, 4, 11)),
        theory={"bias_gradient": table},
    )
    weights = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-30.0, 0.0, 0.0]])
    then = outlook._wider(one, weights, 2.0, np.random.default_rng(0))
    assert then.seeds.tolist() == [0, 1, 2, 3, 4, 5]
    # 2 deviation / sqrt(2) is a draw's; the mean's is that / sqrt(3).
    unit = 2 * 0.1 / np.sqrt(2)
    centre = 0.5 + unit / np.sqrt(3)
    assert then.activations[:3] == pytest.approx(table)
    assert then.activations[3] == pytest.approx(centre - unit)
    assert then.activations[4] == pytest.approx(centre)
    assert (then.activations[5] == 1).all()
    assert then.pre_activations[5] == pytest.approx(10 * (centre + 30 * unit))
    assert then.deads[3] == pytest.approx(centre - 0.3 - unit)
    assert (then.deads[5] == 1).all()
    assert then.theory["bias_gradient"][3] == pytest.approx(centre - unit)
    assert then.lengths[3] == pytest.approx(centre - unit)
    assert then.trial_ids[3:].tolist() == [[""] * 4] * 3
    assert then.trial_ids[:3].tolist() == one.trial_ids.tolist()
    assert then.trials == 12 + 3 * 4
    low = outlook._wider(one, -weights, 2.0, np.random.default_rng(0))
    assert (low.activations[5] == 0).all()
    assert (low.deads[5] == 0).all()


def test_seeds_with_a_gap_do_not_tell_the_deviation_unless_all_have_one():
    table = np.broadcast_to(np.array([0.2, 0.4, 0.9]).reshape(3, 1, 1), (3, 4, 11)).copy()
    table[2, 1] = nan
    weights = np.zeros((2, 3))
    then = outlook._wider(made(activations=table), weights, 1.0, np.random.default_rng(0))
    assert then.activations[3] == pytest.approx(0.3)  # of the first two
    table[:, 1] = nan
    then = outlook._wider(made(activations=table), weights, 1.0, np.random.default_rng(0))
    assert then.activations[3, [0, 2, 3]] == pytest.approx(0.5)
    table[:] = nan
    then = outlook._wider(made(activations=table), weights, 1.0, np.random.default_rng(0))
    assert then.activations.shape == (4, 4, 11)
    assert np.isnan(then.activations).all()


def test_one_seed_deviates_as_real_runs_do_and_whole_epochs_with_it():
    one = made(R=1, epochs=10)
    weights = np.zeros((4001, 1))
    then = outlook._wider(one, weights, 1.0, np.random.default_rng(0))
    drawn = then.activations[1:]
    assert drawn.shape == (4000, 4, 11)
    assert (drawn == drawn[..., :1]).all()  # one deviation a trial, at each epoch
    assert drawn[..., 0].std() == pytest.approx(0.006, rel=0.05)
    assert drawn.mean() == pytest.approx(0.5, abs=1e-3)
    assert then.pre_activations[1:, :, 0].std() == pytest.approx(0.006 / 0.4, rel=0.05)
    assert (then.deads == 0.5).all()
    assert (then.lengths == 1).all()
    assert (then.theory["bias_gradient"] == 0.5).all()
    assert np.corrcoef(drawn[..., 0].T)[0, 1] == pytest.approx(0, abs=0.06)


class Says:
    """A statement whose p-values are these, one a test."""

    def __init__(self, *p: float) -> None:
        self.p, self.seen = list(p), []

    def test(self, evidence: Evidence) -> Any:
        self.seen.append(evidence)
        return SimpleNamespace(p=self.p[(len(self.seen) - 1) % len(self.p)])


def odds(case: Any, draws: int, curves=None, here=None) -> float:
    of = outcome("seeds", *(curves or [made()]))
    return outlook._odds(case, of, here or of.curves, Option(seeds=1), 0.02, draws)


def test_odds_are_the_share_of_draws_that_decide():
    assert odds(Says(0.02, 0.0201, nan, 0.5), 48) == 0.25
    assert odds(Says(0.02), 48) == 1.0
    assert odds(Says(nan), 48) == 0.0


def test_draws_end_where_the_first_agree():
    for p, drawn in ((0.01, 12), (0.5, 12)):
        case = Says(p)
        odds(case, 48)
        assert len(case.seen) == drawn
    case = Says(*[0.5] * 11, 0.01)
    assert odds(case, 48) == pytest.approx(1 / 12)
    assert len(case.seen) == 48


def test_a_draw_changes_the_statements_curves_and_no_other():
    own, other = sorted(judge(pd.concat([curve("weak", model="dae"), curve("flat", model="cae")])),
                        key=lambda pair: pair[0].name["model"], reverse=True)  # fmt: skip
    case: Any = Says(0.5)
    outlook._odds(case, Outcome("inconclusive", "", curves=[own], needs="seeds"), [other, own],
                  Option(seeds=2), 0.02, 1)  # fmt: skip
    (evidence,) = case.seen
    assert evidence._found[0] is other
    drawn, trend = evidence._found[1]
    assert drawn.seeds.size == own[0].seeds.size + 2
    assert trend.seeds == own[1].seeds + 2


def test_what_is_inconclusive_is_asked_at_the_level_that_a_further_look_leaves(monkeypatch):
    frames = [curve("weak", model=model, seeds=2, noise=0.006) for model in ("dae", "edae")]
    judged, asked = judge(pd.concat(frames)), []

    def never(case, outcome, here, option, limit, draws):
        asked.append((case.label, option, limit, draws))
        return 0.5

    monkeypatch.setattr(outlook, "_odds", never)
    found = list(open_statements(judged, Looks()))
    outcomes = [o["digits"] for _, o in outcomes_of(judged)]
    undecided = sum(o.verdict == "inconclusive" and o.p == o.p for o in outcomes)
    assert undecided != sum(o.verdict == "inconclusive" and o.p != o.p for o in outcomes)
    assert len(found) == sum(o.verdict == "inconclusive" for o in outcomes)
    limit = thresholds.ALPHA * thresholds.spent(2) / (1 + undecided)
    assert {round(one[2], 12) for one in asked} == {round(limit, 12)}
    for one in found:
        mine = [a for a in asked if a[0] == one.case.label]
        # The dearest first, with few draws; then each.
        assert [a[3] for a in mine] == [12] * bool(mine) + [48] * (len(mine) - 1)
        assert [repr(a[1]) for a in mine[1:]] == [repr(replace(o, odds=nan)) for o in one.options]
        if mine:
            assert mine[0][1] == mine[-1][1]
        assert all(o.odds == 0.5 for o in one.options)


def test_the_options_end_with_the_first_that_is_enough(monkeypatch):
    judged = judge(curve("weak", model="dae", seeds=2, noise=0.006))
    for share, count in ((0.8, {1}), (0.0, {0})):
        monkeypatch.setattr(outlook, "_odds", lambda *_, share=share: share)
        found = [
            one for one in open_statements(judged, Looks()) if outlook._candidates(one.outcome)
        ]
        assert {len(one.options) for one in found} == count


def test_what_was_looked_at_before_leaves_less_and_opens_what_was_decided(monkeypatch):
    judged, limits = judge(curve("decreasing", model="dae", seeds=3)), []

    def never(case, outcome, here, option, limit, draws):
        limits.append(limit)
        return 0.0

    monkeypatch.setattr(outlook, "_odds", never)
    key = "relu-corruption-sparser: relu dae unit_norm, digits"
    labels = [one.case.label for one in open_statements(judged, Looks())]
    assert key.rpartition(",")[0] not in labels
    limits.clear()
    seen = {key: [f"{n} trials" for n in range(300)]}
    found = [one for one in open_statements(judged, Looks(seen)) if key.startswith(one.case.label)]
    assert len(found) == 1
    assert min(limits) == pytest.approx(thresholds.ALPHA * thresholds.spent(302), rel=0.9)


def test_a_statement_about_many_curves_is_drawn_a_few_times(monkeypatch):
    asked = {}
    for variants in (4, 5):
        frames = [curve("weak", model="dae", seeds=2, noise=0.01, learning_rate=rate)
                  for rate in range(variants)]  # fmt: skip
        draws = []
        monkeypatch.setattr(outlook, "_odds", lambda *a, draws=draws: draws.append(a[5]) or 0.5)
        for one in open_statements(judge(pd.concat(frames)), Looks()):
            if one.case.name == "relu-corruption-sparser" and draws:
                asked[variants] = draws[-1]
    assert asked == {4: 48, 5: 12}
