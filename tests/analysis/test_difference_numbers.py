"""Every number of a comparison, made once more from the rows by pandas and scipy."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparseae import check_predictions
from sparseae.analysis.differences import (
    KEYS,
    as_json,
    at,
    differences,
    half_width,
    origins_differ,
    up_to,
)
from sparseae.errors import RequestError
from tests.analysis.frames import curve

MEASURES = {
    "activation_fraction": lambda f: f["activation_fraction"],
    "pre_activation": lambda f: f["pre_activation_mean"] / f["weight_norm_mean"],
}


def measured(seed: int, *frames: pd.DataFrame) -> pd.DataFrame:
    """The frames as one, with lengths of the weights and noise of their own."""
    frame = pd.concat(frames, ignore_index=True)
    random = np.random.default_rng(seed)
    frame["weight_norm_mean"] = random.uniform(0.5, 2, len(frame))
    for column in ("activation_fraction", "pre_activation_mean"):
        frame[column] += random.normal(0, 0.01, len(frame))
    return frame


@pytest.fixture(scope="module")
def sides() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two models' curves, of the second at another learning rate, with another shape."""
    few = {"sigma2": (0.0, 0.25, 1.0), "seeds": 4}
    one = [curve(shape, model=model, learning_rate=0.001, **few)
           for shape, model in (("flat", "cae"), ("decreasing", "dae"))]  # fmt: skip
    two = [curve(shape, model=model, learning_rate=0.005, **few)
           for shape, model in (("increasing", "cae"), ("decreasing", "dae"))]  # fmt: skip
    return measured(1, *one), measured(2, *two)


def by_seed(frame: pd.DataFrame, model: str, measure: str) -> pd.DataFrame:
    """(seeds, sigma2) at the end."""
    own = frame[(frame["model"] == model) & (frame["epoch"] == 10)]
    own = own.assign(value=MEASURES[measure](own))
    return own.pivot_table(index="seed", columns="sigma2", values="value")


def student(values: np.ndarray, error: float = 0.05) -> tuple[float, float]:
    return stats.t.interval(1 - error, len(values) - 1, np.mean(values), stats.sem(values))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("model", ["cae", "dae"])
def test_every_number_is_the_paired_difference_over_seeds(sides, model, measure):
    found = differences(*sides)
    assert (found.by, found.pairs, found.equal) == (("learning_rate: 0.001 -> 0.005",), 24, 0)
    assert (found.diverged, found.alone) == (0, (0, 0))
    first, second = (by_seed(side, model, measure) for side in sides)
    delta = second - first
    own = found.table[(found.table["model"] == model) & (found.table["measure"] == measure)]
    assert own["sigma2"].tolist() == [0.0, 0.25, 1.0]
    for row in own.itertuples():
        of = delta[row.sigma2]
        assert (row.activation, row.constraint, row.dataset, row.variant, row.seeds) == (
            "relu", "unit_norm", "digits", "", 4
        )  # fmt: skip
        numbers = (row.first, row.second, row.difference, row.low, row.high)
        means = first[row.sigma2].mean(), second[row.sigma2].mean(), of.mean()
        assert numbers == pytest.approx((*means, *student(of)))
        assert row.by_seed == pytest.approx(of.to_dict())
    (row,) = found.curves[
        (found.curves["model"] == model) & (found.curves["measure"] == measure)
    ].itertuples()
    mean = delta.mean(axis=1)
    largest = delta.mean().abs().idxmax()
    assert (row.pairs, row.seeds, row.sigma2) == (12, 4, largest)
    assert (row.mean, row.low, row.high) == pytest.approx((mean.mean(), *student(mean)))
    # Of three looks one is the largest by chance.
    wide = student(delta[largest], 0.05 / 3)
    assert (row.largest, row.largest_low, row.largest_high) == pytest.approx(
        (delta[largest].mean(), *wide)
    )


def test_curves_that_differ_most_in_their_activation_fraction_come_first(sides):
    found = differences(*sides)
    order = [tuple(row) for row in found.curves[["model", "measure"]].to_numpy()]
    assert order == list(itertools.product(["cae", "dae"], MEASURES))
    swapped = [side.assign(model=side["model"].map({"cae": "dae", "dae": "cae"}))
               for side in sides]  # fmt: skip
    assert differences(*swapped).curves["model"].tolist() == ["dae", "dae", "cae", "cae"]
    assert found.curves.index.tolist() == [0, 1, 2, 3]
    assert list(found.curves.columns) == [
        "model", "activation", "constraint", "dataset", "variant", "measure", "pairs", "seeds",
        "mean", "low", "high", "largest", "largest_low", "largest_high", "sigma2",
    ]  # fmt: skip


def test_verdicts_stand_beside_each_other_where_both_sides_test_the_statement(sides):
    found = differences(*sides)
    tables = [check_predictions(side).set_index(["prediction", "dataset"]) for side in sides]
    tested = [
        {k: v for k, v in t["verdict"].items() if v != "not tested" and k[1] != "all"}
        for t in tables
    ]
    both = tested[0].keys() & tested[1].keys()
    assert {(r.prediction, r.dataset) for r in found.verdicts.itertuples()} == both
    for row in found.verdicts.itertuples():
        key = row.prediction, row.dataset
        assert (row.first, row.second) == (tested[0][key], tested[1][key])
        assert row.flips == (row.first != row.second)
    flips = [r.prediction for r in found.verdicts.itertuples() if r.first != r.second]
    assert found.flips["prediction"].tolist() == flips
    assert flips


def test_all_of_it_is_in_the_json(sides):
    found = differences(*sides)
    told = json.loads(as_json(found))
    assert told.keys() == {"by", "pairs", "equal", "diverged", "alone", "curves", "differences",
                           "verdicts"}  # fmt: skip
    for key in ("pairs", "equal", "diverged"):
        assert told[key] == getattr(found, key)
    assert (told["by"], told["alone"]) == (list(found.by), list(found.alone))
    for key, table in (("curves", found.curves), ("differences", found.table),
                       ("verdicts", found.verdicts)):  # fmt: skip
        plain = table.drop(columns="by_seed", errors="ignore")
        assert told[key] == [pytest.approx(row) for row in plain.to_dict("records")]


def test_a_pair_is_equal_where_every_number_that_both_have_is(sides):
    one = sides[0].assign(bias_mean=0.5, dead_units=3, reconstruction_error=np.nan)
    assert differences(one, one).equal == 24
    for column in ("activation_fraction", "dead_units", "reconstruction_error",
                   "weight_norm_mean", "bias_mean", "pre_activation_mean"):  # fmt: skip
        other = one.copy()
        row = (other["seed"] == 2) & (other["sigma2"] == 0.25) & (other["epoch"] == 10)
        other.loc[row, column] = 7
        found = differences(one, other)
        assert (found.pairs, found.equal) == (24, 22), column
    early = one.copy()
    early.loc[early["epoch"] == 4, "bias_mean"] = 9.0  # what is compared is where they end
    assert differences(one, early).equal == 24
    assert differences(one, one.drop(columns="bias_mean")).equal == 24


def test_a_pair_of_which_a_side_diverged_is_none_and_is_not_equal():
    frame = curve(sigma2=(0.0, 1.0))
    lost = [frame["trial_id"].iloc[0], frame["trial_id"].iloc[-1]]
    sides = [
        frame.assign(status=np.where((frame["trial_id"] == t) & (frame["epoch"] > 6), "x", "ok"))
        for t in lost
    ]
    found = differences(*sides)
    assert (found.pairs, found.equal, found.diverged, found.alone) == (4, 4, 2, (0, 0))
    assert found.table[found.table["measure"] == "activation_fraction"]["seeds"].tolist() == [2, 2]


def test_trials_without_a_partner_are_counted_by_side_and_enter_nothing():
    one, two = curve(seeds=4), curve(seeds=3, sigma2=(0.0, 0.25, 0.3))
    found = differences(one, two)
    assert (found.pairs, found.alone) == (6, (18, 3))
    assert set(found.table["sigma2"]) == {0.0, 0.25}
    assert (found.table["seeds"] == 3).all()


def test_what_differs_is_joined_in_the_name_of_the_curve_and_sigma2_is_the_seconds():
    one, two = curve(model="cae"), curve(model="mdae")
    found = differences(one, two)
    assert found.by == ("model: cae -> mdae",)
    assert set(found.table["model"]) == {"cae -> mdae"}
    shifted = [curve(sigma2=(value,)) for value in (0.09, 0.25)]
    found = differences(*shifted)
    assert (found.by, set(found.table["sigma2"])) == (("sigma2: 0.09 -> 0.25",), {0.25})


def test_a_whitened_data_set_has_a_name_of_its_own_and_is_no_variant():
    both = pd.concat([curve(whiten=white, learning_rate=0.1) for white in (False, True)])
    found = differences(both, both)
    assert set(found.table["dataset"]) == {"digits", "digits (whitened)"}
    assert set(found.table["variant"]) == {""}
    sides = [both[both["whiten"] == white] for white in (False, True)]
    found = differences(*sides)
    assert found.by == ("whiten: false -> true",)
    # The statements are compared all the same, as those of one data set.
    assert set(found.verdicts["dataset"]) == {"digits"}


def test_of_a_variant_all_that_varies_within_a_curve_is_named():
    both = pd.concat([
        curve(learning_rate=rate, batch_size=size, momentum=0.9)
        for rate, size in ((0.1, 10), (0.1, 20), (0.5, 10))
    ])  # fmt: skip
    found = differences(both, both)
    assert set(found.table["variant"]) == {
        "learning_rate=0.1, batch_size=10", "learning_rate=0.1, batch_size=20",
        "learning_rate=0.5, batch_size=10",
    } or set(found.table["variant"]) == {
        "batch_size=10, learning_rate=0.1", "batch_size=20, learning_rate=0.1",
        "batch_size=10, learning_rate=0.5",
    }  # fmt: skip


@pytest.mark.parametrize(("keys", "refused"), [(1, False), (3, False), (4, True)])
def test_three_keys_may_differ_without_being_named(keys, refused):
    names = ["learning_rate", "batch_size", "momentum", "corruptions"]
    one = curve(**dict.fromkeys(names, 1))
    two = curve(**{name: 2 if i < keys else 1 for i, name in enumerate(names)})
    two["trial_id"] += "two"
    if refused:
        with pytest.raises(RequestError, match="in all but 3 keys or fewer"):
            differences(one, two)
    else:
        assert len(differences(one, two).by) == keys


def test_other_seeds_pair_nothing_and_are_judged_all_the_same():
    one = curve("decreasing", model="dae")
    two = one.assign(seed=one["seed"] + 7, trial_id=one["trial_id"] + "x")
    found = differences(one, two)
    assert (found.by, found.pairs, found.equal, found.diverged) == (("seed",), 0, 0, 0)
    assert found.alone == (18, 18)
    assert found.table.empty
    assert found.curves.empty
    assert len(found.verdicts)
    assert not found.verdicts["flips"].any()


@pytest.mark.parametrize(
    ("key", "value", "rows"),
    [("whiten", "True", 1), ("whiten", "false", 2), ("learning_rate", "1e-1", 1),
     ("learning_rate", "0.5", 2), ("batch_size", "20", 1), ("batch_size", "1e1", 2),
     ("activation", "relu", 3), ("sigma2", "0.25", 3)],
)  # fmt: skip
def test_the_rows_at_a_value_are_those_and_no_other(key, value, rows):
    kinds = ((True, 0.1, 10), (False, 0.5, 10), (False, 0.5, 20))
    frame = pd.concat([
        curve(whiten=white, learning_rate=rate, batch_size=size, sigma2=(0.0, 0.25))
        for white, rate, size in kinds
    ])  # fmt: skip
    chosen = at(frame, key, value)
    trials = len(chosen["trial_id"].unique())
    assert trials == rows * (3 if key == "sigma2" else 6)
    assert len(chosen[key].unique()) == 1


def test_text_that_looks_like_a_number_is_text():
    frame = curve(dataset="7.0")
    assert len(at(frame, "dataset", "7.0")) == len(frame)
    with pytest.raises(RequestError, match="no trial has '7'"):
        at(frame, "dataset", "7")


def test_pairs_that_still_run_are_compared_each_where_both_are():
    one, two = curve(sigma2=(0.25,)), curve(sigma2=(0.25,), noise=0.1)
    reached = {0: 3, 1: 7, 2: 5}
    running = one[one["epoch"] <= one["seed"].map(reached)]
    (row, *_) = differences(running, two[two["epoch"] <= 6]).table.itertuples()
    ends = [min(epoch, 6) for epoch in reached.values()]
    for frame, mean in ((one, row.first), (two, row.second)):
        levels = frame.set_index(["seed", "epoch"])["activation_fraction"]
        assert mean == pytest.approx(np.mean([levels[pair] for pair in enumerate(ends)]))


def test_rows_that_do_not_say_how_many_epochs_were_asked_for_are_of_finished_trials():
    frame = curve().drop(columns="epochs")
    found = differences(frame, frame)
    assert (found.by, found.pairs, found.equal) == ((), 18, 18)
    short = frame[frame["epoch"] <= 4]
    assert found.table["first"].equals(differences(frame, short).table["first"])


def test_every_axis_and_key_can_be_compared_but_the_seed():
    frame = curve().assign(**{key: 1 for key in KEYS if key not in curve()}, device="cpu")
    for key in [*KEYS, "sweep", "device"]:
        if key not in ("seed",):
            assert len(at(frame, key, str(frame[key].iloc[0]))) > 0
    with pytest.raises(RequestError, match="--by seed: seeds are the replicates"):
        at(frame, "seed", "0")
    for key in ("trial_id", "epoch", "loss", "momentum"):
        with pytest.raises(RequestError, match=f"^--by {key}: no such key"):
            at(curve(), key, "1")
    assert at(curve(), "epochs", "3")["epoch"].max() == 3


@pytest.mark.parametrize("epoch", [0, 4, "4", "4.0", 10])
def test_a_table_up_to_an_epoch_says_that_it_was_to_have_no_more(epoch):
    frame = curve()
    cut = up_to(frame, epoch)
    last = int(float(epoch))
    assert sorted(cut["epoch"].unique()) == list(range(last + 1))
    assert (cut["epochs"] == last).all()
    assert (frame["epochs"] == 10).all()
    assert "epochs" not in up_to(frame.drop(columns="epochs"), epoch)


@pytest.mark.parametrize("epoch", [-1, 11, "3.5", "many", "nan"])
def test_an_epoch_that_no_trial_has_is_refused(epoch):
    with pytest.raises(RequestError, match=rf"^--by epochs: must be 0 to 10, not {epoch!r}$"):
        up_to(curve(), epoch)


@pytest.mark.parametrize("looks", [1, 5])
def test_half_an_interval_is_students(looks):
    values = np.array([0.1, 0.4, 0.2, 0.9])
    low, high = student(values, 0.05 / looks)
    assert half_width(values, looks) == pytest.approx((high - low) / 2)
    assert np.isnan(half_width(values[:1], looks))


def test_what_differs_in_where_rows_come_from_is_told_in_words():
    # fmt: off
    one = {"version": "0.1", "git_commit": "0123456789abcdef", "processor": "a", "tf32": "false",
           "versions": {"torch": "1", "numpy": "1"}, "gemm": {"a": "torch", "b": "torch"},
           "datasets": {"digits": {"fingerprint": "f1", "rows": 3}, "mnist": {"fingerprint": "m"}},
           "configurations": [1]}
    two = {"version": "0.2", "git_commit": "", "processor": "b", "tf32": "true",
           "versions": {"torch": "2", "numpy": "1"}, "gemm": {"b": "c", "z": "c"},
           "datasets": {"digits": {"fingerprint": "f2", "rows": 3}}, "configurations": []}
    # fmt: on
    assert list(origins_differ(one, two)) == [
        "version: 0.1 -> 0.2",
        "git_commit: 0123456789ab -> unknown",
        "processor: a -> b",
        "tf32: false -> true",
        "torch: 1 -> 2",
        "routine of b: torch -> c",
        "data set digits: f1 -> f2",
    ]  # fmt: skip
    assert list(origins_differ(one, {})) == list(origins_differ({}, two)) == []
    assert list(origins_differ(one, one | {"gemm": None})) == []
