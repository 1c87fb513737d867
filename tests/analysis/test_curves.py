"""What makes a curve: trials that are configured alike, whatever was measured of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import sparseae
from sparseae.analysis.curves import curves, read_curves, trial_table
from sparseae.errors import RequestError
from sparseae.model.trial import AXES, NAMED, TRAINING_TYPES
from sparseae.results.schema import epoch_schema
from tests.analysis.frames import curve
from tests.conftest import REPOSITORY

CONFIGURED = {*AXES, *TRAINING_TYPES}
MEASURED = [
    field.name
    for field in epoch_schema(TRAINING_TYPES, theory=True)
    if pa.types.is_floating(field.type) and field.name not in CONFIGURED
]


@pytest.mark.parametrize("column", MEASURED)
def test_a_measured_column_splits_no_curve(column):
    frame = curve("decreasing")
    frame[column] = np.random.default_rng(0).uniform(0.1, 0.9, len(frame))
    assert len(sparseae.trends(frame)) == 1, "see curves._NOT_CONFIGURATION"


@pytest.mark.parametrize("column", sorted(CONFIGURED - {"sigma2", "seed", "epochs", "samples"}))
def test_a_configured_column_splits_curves(column):
    frame = curve("decreasing")
    values = NAMED.get(column, ("one", "another"))
    one, another = (False, True) if TRAINING_TYPES.get(column) is bool else values[:2]
    other = frame.assign(trial_id=frame["trial_id"] + "/other", **{column: another})
    if column not in frame:
        frame[column] = one
    both = sparseae.trends(pd.concat([frame, other], ignore_index=True))
    assert len(both) == 2


def test_a_curve_has_the_lengths_of_the_weights_at_its_epoch_and_a_label():
    frame = pd.concat([curve(rate=0.1), curve(rate=0.5)], ignore_index=True)
    frame["weight_norm_mean"] = np.random.default_rng(0).uniform(0.5, 2, len(frame))
    found = curves(frame)
    for one, rate in zip(found, (0.1, 0.5), strict=True):
        own = frame[(frame["rate"] == rate) & (frame["epoch"] == 10)]
        table = own.pivot_table(index="seed", columns="sigma2", values="weight_norm_mean")
        np.testing.assert_array_equal(one.lengths, table.to_numpy())
        assert one.label == f"relu cae unit_norm, rate={rate}"
    (alone,) = curves(curve(sigma2=(0.25,), seeds=1))
    assert (alone.label, alone.lengths.shape) == ("relu cae unit_norm", (1, 1))


def same(one, other) -> bool:
    for name, value in vars(one).items():
        np.testing.assert_equal(vars(other)[name], value, err_msg=name)
    return True


@pytest.mark.parametrize("sweep", ["explanations", "reference"])
def test_curves_are_the_same_part_by_part(tmp_path, sweep):
    """Of real sweeps with theory, diverged trials, rows that stand twice and rows that miss."""
    frame = sparseae.load(REPOSITORY / "results" / sweep)
    rows = frame.sample(frac=0.9, random_state=0).sort_values("epoch", kind="stable")
    rows = pd.concat([rows, rows.iloc[:100].assign(activation_fraction=0.5)])
    rows.loc[rows.index[50:60], "status"] = "diverged"
    (tmp_path / "epochs").mkdir()
    for part in range(3):
        place = tmp_path / "epochs" / f"part-{part}.parquet"
        rows.iloc[part * len(rows) // 3 : (part + 1) * len(rows) // 3].to_parquet(place)
    whole = curves(sparseae.load(tmp_path))
    parts = read_curves(tmp_path)
    assert len(whole) == len(parts) > 1
    assert all(same(one, other) for one, other in zip(whole, parts, strict=True))


#: The columns that are read of every epoch, and what `Curve` calls them.
READ = {
    "activation_fraction": "activations",
    "dead_fraction": "deads",
    "pre_activation_mean": "pre_activations",
    "weight_norm_mean": "lengths",
    "bias_gradient": "theory",
}


def uneven() -> pd.DataFrame:
    """A curve with a trial that misses, diverges, is behind, or is to go on, and odd rows."""
    frame = curve("irregular", sigma2=(0.25, 0.0, 1.0), seeds=4, rate=0.1)
    frame["corruptions"] = np.nan
    frame["learning_rate"], frame["samples"] = 0.25, 100
    for column in ("dead_units", "reconstruction_error", "regularization", "loss", "bias_mean",
                   "epoch_seconds", "device"):  # fmt: skip
        frame[column] = np.arange(len(frame))
    random = np.random.default_rng(5)
    for column in READ:
        frame[column] = random.uniform(0.2, 0.8, len(frame))
    frame["kink_gradient"] = np.nan
    seed, sigma2, epoch = frame["seed"], frame["sigma2"], frame["epoch"]
    frame.loc[(seed == 0) & (sigma2 == 0.25) & (epoch == 4), "status"] = "diverged"
    frame.loc[(seed == 2) & (sigma2 == 0.0), "epochs"] = 20
    frame.loc[(seed == 2) & (sigma2 == 0.25) & (epoch == 2), "bias_gradient"] = np.nan
    nothing = (seed == 2) & (sigma2 == 0.25) & (epoch == 3)
    frame.loc[nothing, ["weight_norm_mean", "pre_activation_mean"]] = 0.0
    frame.loc[(seed == 2) & (sigma2 == 0.25) & (epoch == 4), "weight_norm_mean"] = 0.0
    left_out = (
        ((seed == 3) & (sigma2 == 1.0))
        | ((seed == 0) & (sigma2 == 0.25) & (epoch > 6))
        | ((seed == 1) & (sigma2 == 0.0) & (epoch > 7))
        | ((seed == 1) & (sigma2 == 1.0) & (epoch == 3))
    )
    frame = frame[~left_out].sample(frac=1, random_state=1)
    again = frame[frame["epoch"] == 5].assign(**dict.fromkeys(READ, 0.99))
    return pd.concat([frame, again], ignore_index=True)


@pytest.mark.parametrize("how", ["table", "parts"])
def test_every_number_of_a_curve_is_that_of_its_row(tmp_path, how):
    frame = uneven()
    if how == "table":
        (made,) = curves(frame)
    else:
        (tmp_path / "epochs").mkdir()
        for k in range(3):
            part = frame.iloc[k * len(frame) // 3 : (k + 1) * len(frame) // 3]
            part.to_parquet(tmp_path / "epochs" / f"part-{k}.parquet")
        (made,) = read_curves(tmp_path)
    shape = (4, 3, 11)
    expected = {column: np.full(shape, np.nan) for column in READ}
    names = np.full(shape[:2], "", dtype=object)
    for row in frame.drop_duplicates(["trial_id", "epoch"]).itertuples():
        at = row.seed, (0.0, 0.25, 1.0).index(row.sigma2)
        names[at] = row.trial_id
        if at != (0, 1):  # it diverged
            for column in READ:
                expected[column][at][row.epoch] = getattr(row, column)
    with np.errstate(invalid="ignore", divide="ignore"):
        in_lengths = expected["pre_activation_mean"] / expected["weight_norm_mean"]
    assert np.isnan(in_lengths[2, 1, 3])
    assert np.isinf(in_lengths[2, 1, 4])
    assert made.name == {
        "model": "cae", "activation": "relu", "constraint": "unit_norm", "dataset": "digits"
    }  # fmt: skip
    assert made.settings == {
        "hidden_units": 1000, "corruptions": None, "rate": 0.1, "learning_rate": 0.25,
        "samples": 100,
    }  # fmt: skip
    assert made.variant == {}
    np.testing.assert_array_equal(made.seeds, [0, 1, 2, 3])
    np.testing.assert_array_equal(made.sigma2, [0.0, 0.25, 1.0])
    np.testing.assert_array_equal(made.trial_ids, names)
    np.testing.assert_array_equal(made.activations, expected["activation_fraction"])
    np.testing.assert_array_equal(made.activation, expected["activation_fraction"][..., 10])
    np.testing.assert_array_equal(made.deads, expected["dead_fraction"])
    np.testing.assert_array_equal(made.dead, expected["dead_fraction"][..., 10])
    np.testing.assert_array_equal(made.pre_activations, in_lengths)
    np.testing.assert_array_equal(made.lengths, expected["weight_norm_mean"][..., 10])
    assert list(made.theory) == ["bias_gradient"]  # of another column there is no number
    np.testing.assert_array_equal(made.theory["bias_gradient"], expected["bias_gradient"])
    counts = (made.epoch, made.trials, made.diverged, made.unfinished, made.behind)
    assert counts == (10, 11, 1, 2, 1)
    assert made.label == "relu cae unit_norm"


def test_a_table_may_have_pandas_types_of_what_may_miss():
    frame = uneven()
    frame["whiten"] = frame["rate"].where(frame["epoch"] < 0).astype("boolean")  # known of none
    ((one,), (other,)) = (curves(made) for made in (frame, frame.convert_dtypes()))
    assert same(one, other)
    assert one.name["dataset"] == "digits"


@pytest.mark.parametrize(
    ("reached", "diverged", "epoch", "behind"),
    [
        ((10, 10, 5, 5), 0, 5, 0),  # half is not more than half
        ((10, 10, 10, 5, 5), 0, 10, 2),
        ((10, 8, 5), 0, 8, 1),
        ((2, 2, 2, 10, 10), 3, 10, 0),  # of what diverged none is waited for
        ((10, 4), 2, 4, 0),
    ],
)
def test_trials_are_compared_at_the_latest_epoch_of_more_than_half(
    reached, diverged, epoch, behind
):
    frame = curve("flat", sigma2=(0.0,), seeds=len(reached))
    frame = frame[frame["epoch"] <= frame["seed"].map(dict(enumerate(reached)))]
    frame.loc[frame["seed"] < diverged, "status"] = "diverged"
    (made,) = curves(frame)
    assert (made.epoch, made.behind, made.diverged) == (epoch, behind, diverged)
    assert made.activations.shape == (len(reached), 1, epoch + 1)


def test_the_last_half_has_the_epoch_before_and_of_few_epochs_is_the_last():
    (made,) = curves(curve("flat"))
    halves = {0: 0, 1: 1, 4: 4, 5: 2, 6: 3, 7: 3, 10: 5}
    found = {epoch: replace(made, epoch=epoch).last_half for epoch in halves}
    assert found == {epoch: slice(start, None) for epoch, start in halves.items()}


def test_curves_come_in_the_order_of_their_names_and_say_in_what_they_differ():
    kinds = [
        {"model": "dae", "dataset": "b"}, {"model": "cae", "dataset": "b", "bias": False},
        {"model": "cae", "dataset": "a"}, {"model": "cae", "dataset": "b"},
        {"model": "cae", "dataset": "a", "rate": 2.0, "bias": False},
        {"model": "cae", "activation": "elu"},
    ]  # fmt: skip
    frames = [curve(sigma2=(0.0, 1.0), **({"rate": 0.5, "bias": True} | kind)) for kind in kinds]
    found = curves(pd.concat(frames).sample(frac=1, random_state=0))
    assert [(c.name["model"], c.name["dataset"], c.label) for c in found] == [
        ("cae", "digits", "elu cae unit_norm"),
        (
            "cae",
            "a",
            "relu cae unit_norm, rate=0.5, bias=True",
        ),  # variants in the order of all trials
        ("cae", "a", "relu cae unit_norm, rate=2, bias=False"),
        ("cae", "b", "relu cae unit_norm, bias=True"),
        ("cae", "b", "relu cae unit_norm, bias=False"),
        ("dae", "b", "relu dae unit_norm"),
    ]
    assert [c.variant for c in found[1:3]] == [
        {"rate": 0.5, "bias": True}, {"rate": 2.0, "bias": False}
    ]  # fmt: skip
    assert [c.settings["bias"] for c in found[3:5]] == [True, False]
    assert all(c.seeds.tolist() == [0, 1, 2] and c.trials == 6 for c in found)


def test_of_each_trial_the_last_epoch_stands_in_the_table():
    frame = uneven().assign(whiten=lambda f: f["seed"].map({0: True, 1: False, 2: np.nan, 3: True}))
    table = trial_table(frame)
    assert table.index.name == "trial_id"
    assert list(table.index) == sorted(set(frame["trial_id"]))
    assert "whiten" not in table
    for row in table.itertuples():
        own = frame[frame["trial_id"] == row.Index]
        place = (row.seed, row.sigma2)
        assert row.reached == row.epoch == own["epoch"].max()
        assert row.diverged == (place == (0, 0.25))
        assert row.unfinished == (place in [(1, 0.0), (2, 0.0)])
        assert row.dataset == ("digits (whitened)" if row.seed in (0, 3) else "digits")
    longer = trial_table(pd.concat([frame, frame.assign(epochs=30)]))
    assert set(longer["epochs"]) == {30}  # of rows of the same epoch the last
    plain = trial_table(frame.drop(columns=["whiten", "epochs"]))
    assert not plain["unfinished"].any()  # how far they are to go is not known
    assert set(plain["dataset"]) == {"digits"}


def test_a_table_that_is_none_of_epochs_is_refused_by_what_it_lacks():
    with pytest.raises(RequestError) as refused:
        curves(curve().drop(columns=["seed", "dead_fraction"]))
    assert str(refused.value) == "the table of epochs has no column seed, dead_fraction"


def test_two_trials_in_one_place_are_refused_with_the_place():
    frame = curve("flat", sigma2=(0.0, 0.25))
    twice = frame[(frame["seed"] == 1) & (frame["sigma2"] == 0.25)]
    twice = twice.assign(trial_id="x", activation_fraction=0.3)
    with pytest.raises(RequestError) as refused:
        curves(pd.concat([frame, twice]))
    assert str(refused.value) == (
        "two trials are cae relu unit_norm digits with sigma2 0.25 and seed 1, yet have different "
        "trial_id: load the folders one by one"
    )
