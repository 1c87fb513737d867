"""What would decide an open statement, simulated from the rows."""

import numpy as np
import pandas as pd
import pytest

from sparseae.analysis.outlook import ENOUGH, Option, _draw, open_statements
from sparseae.analysis.trends import judge
from sparseae.analysis.verdicts import Looks
from tests.analysis.frames import curve

LABEL = "relu-corruption-sparser, relu dae, digits"


def opened(frame: pd.DataFrame) -> dict:
    return {one.label: one for one in open_statements(judge(frame), Looks())}


def test_what_is_decided_is_not_open():
    assert LABEL not in opened(curve("decreasing", model="dae", seeds=5))


def test_a_clear_trend_of_two_seeds_needs_a_few_more():
    frame = curve("weak", model="dae", seeds=2, noise=0.006)
    one = opened(frame)[LABEL]
    assert one.best is not None
    assert one.best.odds >= ENOUGH
    assert 1 <= one.best.seeds <= 5
    assert one.best.words(one.epoch).endswith("more seeds") or one.best.seeds == 1


def test_more_noise_takes_more_seeds_and_the_odds_say_so():
    odds = []
    for noise in (0.002, 0.05):
        frame = curve("weak", model="dae", seeds=3, noise=noise, rng=np.random.default_rng(1))
        found = opened(frame).get(LABEL)
        odds.append({o.seeds: o.odds for o in found.options if not o.epochs} if found else {})
    assert max(odds[1].values(), default=0.0) < 0.5


def test_the_same_rows_give_the_same_odds():
    frame = curve("weak", model="dae", seeds=2, noise=0.006)
    first, second = (opened(frame)[LABEL].options for _ in range(2))
    assert first == second


def test_where_all_units_are_dead_nothing_is_proposed():
    frame = curve("decreasing", model="dae", seeds=3, dead=lambda s: 0.9)
    one = opened(frame)[LABEL]
    assert one.outcome.needs == "live units"
    assert one.best is None


@pytest.mark.parametrize(
    "option", [Option(seeds=2), Option(epochs=25), Option(seeds=1, epochs=15, sigma2=(0.16,))]
)
def test_a_draw_keeps_what_is_there_and_has_what_is_added(option):
    (now,) = (c for c, _ in judge(curve("decreasing", model="dae", noise=0.01)))
    (then,) = _draw([now], option, np.random.default_rng(0))
    rows, columns, epochs = now.activations.shape
    assert then.activations.shape == (
        rows + option.seeds, columns + len(option.sigma2), option.epochs + 1 or epochs
    ) if option.epochs else (rows + option.seeds, columns, epochs)  # fmt: skip
    kept = np.isin(then.sigma2, now.sigma2)
    assert np.array_equal(then.activations[:rows][:, kept][..., :epochs], now.activations)
    assert np.isfinite(then.activations).all()
    assert ((then.activations >= 0) & (then.activations <= 1)).all()
    assert (np.diff(then.sigma2) > 0).all()


def test_a_drawn_seed_deviates_as_the_seeds_that_are_there():
    (now,) = (c for c, _ in judge(curve("flat", seeds=6, noise=0.01)))
    rng = np.random.default_rng(0)
    drawn = [_draw([now], Option(seeds=1), rng)[0].activation[-1] for _ in range(400)]
    spread = np.std(drawn, axis=0) / now.activation.std(0, ddof=1)
    # As they, and wider by what six seeds leave unknown: t of 5 has 1.29 times the spread.
    assert ((spread > 1) & (spread < 2)).all()
    assert np.mean(drawn, axis=0) == pytest.approx(now.activation.mean(0), abs=0.003)
