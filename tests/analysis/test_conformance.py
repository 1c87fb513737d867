"""What every registered prediction has to keep to, whatever it says."""

import numpy as np
import pandas as pd
import pytest

from sparseae import check_predictions
from sparseae.analysis.prediction import every_case
from sparseae.analysis.trends import judge
from sparseae.analysis.verdicts import NOT_TESTED, TOGETHER, outcomes_of
from tests.analysis.frames import curve, measured

SIGMA2 = (0.0, 0.09, 0.25, 1.0)

#: Curves that every statement finds what it speaks of in.
WITH_UNITS_OF_LENGTH_ONE = {
    "relu": (
        "ae",
        "dae",
        "edae",
        "dae2",
        "cae",
        "mdae",
        "sae",
        "cae_h",
        "corollary1",
        "corollary2",
    ),
    "sigmoid": ("dae", "cae", "mdae", "sae", "corollary1"),
    "softplus": ("dae", "cae", "mdae", "sae", "corollary1"),
    "tanh": ("dae", "cae"),
    "maxout": ("dae", "cae"),
}
OTHERS = (
    *((model, a, "none") for model in ("dae", "cae", "mdae", "sae") for a in ("relu", "sigmoid")),
    ("sae", "softplus", "none"),
    *((model, "relu", c) for model in ("dae", "sae") for c in ("max_norm", "weight_decay")),
)
FLAT = {"ae", "dae2", "cae", "mdae", "cae_h", "corollary2"}


def one(model: str, activation: str, constraint: str, **more: object) -> pd.DataFrame:
    """A curve with the theory measured."""
    flat = model in FLAT and activation in ("relu", "maxout")
    settings = {"corruptions": 1, "encoder_bias": True, "whiten": False} | more
    frame = curve(
        "flat" if flat else "decreasing", model=model, activation=activation,
        constraint=constraint, sigma2=SIGMA2, epochs=5, noise=0.0003,
        rng=np.random.default_rng(len(model + activation + constraint)), **settings,
    )  # fmt: skip
    if constraint in ("max_norm", "weight_decay"):
        frame["weight_norm_mean"] = 0.5
    accuracy = 0.9 + 0.001 * frame["seed"] + 0.05 * settings["whiten"]
    return measured(frame, gradient=0.0 if flat else 1.0, descent_fell=accuracy)


@pytest.fixture(scope="module")
def base() -> pd.DataFrame:
    curves = [(m, a, "unit_norm") for a, models in WITH_UNITS_OF_LENGTH_ONE.items() for m in models]
    frames = [one(*names) for names in (*curves, *OTHERS)]
    frames += [one(m, "relu", "unit_norm", corruptions=10) for m in ("dae", "edae")]
    frames += [one(m, "relu", "unit_norm", encoder_bias=False) for m in ("dae", "sae")]
    frames += [one(m, "relu", "unit_norm", whiten=True) for m in ("dae", "cae", "sae")]
    return pd.concat(frames, ignore_index=True)


NUMBERS = ["effect", "effect_low", "effect_high", "p", "seeds", "settled", "sensitive", "verdict"]


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """What decides each verdict on the digits, and on all data sets of the base together."""
    table = check_predictions(frame)
    kept = table[table["dataset"].isin(["digits", "digits (whitened)"])]
    return kept.set_index(["prediction", "dataset"])[NUMBERS]


@pytest.fixture(scope="module")
def expected(base) -> pd.DataFrame:
    return judged(base)


def test_the_base_has_trials_for_every_statement(base):
    table = check_predictions(base).set_index(["prediction", "dataset"])["verdict"]
    for case in every_case():
        assert table[case.label, TOGETHER] != NOT_TESTED, case.label


def test_every_verdict_has_an_estimate_of_its_error(base):
    table = check_predictions(base)
    decided = table[table["verdict"].isin(["supported", "contradicted"])]
    own = decided[decided["p"].notna()]
    # A row over all data sets is made of those that have one, or has a test of its own.
    assert set(decided.loc[decided["p"].isna(), "dataset"]) <= {TOGETHER}
    assert (own["p"] <= own["p_corrected"]).all()
    assert (own["p_corrected"] <= 0.05).all()
    assert (own["seeds"] >= 2).all()
    interval = own[own["effect"].notna()]
    assert (interval["effect_low"] <= interval["effect"]).all()
    assert (interval["effect"] <= interval["effect_high"]).all()
    assert len(interval) >= 0.9 * len(own)


def test_every_statement_says_what_would_change_it(base):
    table = check_predictions(base)
    assert (table["would_change"].str.len() > 0).all()
    inconclusive = table["verdict"] == "inconclusive"
    assert (table.loc[inconclusive, "needs"].str.len() > 0).all()
    assert (table.loc[~inconclusive, "needs"] == "").all()


def test_one_seed_decides_nothing(base):
    found = check_predictions(base[base["seed"] == 0])["verdict"]
    assert set(found) <= {"inconclusive", "not tested"}


def test_values_of_sigma2_are_not_counted_as_replicates(base):
    """A curve that stands twice, at neighbouring sigma2, does not halve a p-value."""
    finer = base[base["sigma2"] > 0].copy()
    finer["sigma2"] *= 0.999
    finer["trial_id"] += "/finer"
    before, after = (
        check_predictions(frame).set_index(["prediction", "dataset"])["p"]
        for frame in (base, pd.concat([base, finer]))
    )
    known = before.notna() & after.notna() & (before > 1e-12)
    assert (after[known] > 0.3 * before[known]).all()


def wild(frame: pd.DataFrame, **other: object) -> pd.DataFrame:
    """The same trials as of something else, with numbers that nobody expects."""
    added = frame.assign(**other)
    added["activation_fraction"] = 0.5 + 0.4 * np.cos(7 * added["sigma2"] + added["seed"])
    added["pre_activation_mean"] = 100.0 * added["sigma2"]
    for column in ("variance_ratio", "descent_fell", "bias_gradient"):
        added[column] = 10.0 * (added["seed"] + 1)
    return added.assign(trial_id=added["trial_id"] + "/wild")


def another_seed(frame: pd.DataFrame, **other: object) -> pd.DataFrame:
    added = frame[frame["seed"] == 0].assign(seed=9, **other)
    return added.assign(trial_id=added["trial_id"] + "/9")


#: Trials that statements on the digits do not speak of, or that say nothing.
MORE = {
    "without a bias": lambda f: wild(f[~f["model"].isin(["dae", "sae"])], encoder_bias=False),
    "other data": lambda f: wild(f[f["activation"] == "sigmoid"], dataset="mnist"),
    "another activation": lambda f: wild(f[f["activation"] == "relu"], activation="cube"),
    "another constraint": lambda f: wild(f[f["constraint"] == "none"], constraint="sphere"),
    "another model": lambda f: wild(f[f["model"] == "ae"], model="vae"),
    "more corruptions": lambda f: wild(
        f[f["model"].isin(["dae", "cae", "sae"]) & (f["activation"] != "relu")], corruptions=10
    ),
    "diverged": lambda f: another_seed(
        f, status="diverged", activation_fraction=np.nan, pre_activation_mean=np.nan,
        dead_fraction=np.nan, bias_gradient=np.nan, variance_ratio=np.nan,
    ),
    "dead from the start": lambda f: another_seed(
        f, activation_fraction=0.0005, dead_fraction=0.999, pre_activation_mean=-1e6
    ),
    "twice the rows": lambda f: f,
}  # fmt: skip

#: Statements about every curve of which the theory was measured.
ABOUT_ALL = ["assumption-1", "bias-gradient-moves", "reach"]


@pytest.mark.parametrize("name", MORE)
def test_trials_that_a_statement_does_not_speak_of_change_nothing(name, base, expected):
    found = judged(pd.concat([base, MORE[name](base)]))
    spoken_of = ABOUT_ALL if name.startswith(("another", "more")) else []
    pd.testing.assert_frame_equal(
        found.drop(spoken_of, level=0), expected.drop(spoken_of, level=0), atol=1e-9
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.sample(frac=1, random_state=0),
        lambda f: f.assign(sweep="other", trial_id="x" + f["trial_id"].str[::-1]),
        lambda f: f.assign(seed=f["seed"].map({0: 12, 1: 5, 2: 7})),
        lambda f: f.assign(epoch_seconds=1.0, device="gpu"),
    ],
    ids=["order of rows", "names of trials", "names of seeds", "how long it took, and where"],
)
def test_what_should_not_matter_does_not(change, base, expected):
    pd.testing.assert_frame_equal(judged(change(base)), expected, atol=1e-9)


def test_one_seed_more_of_another_curve_changes_nothing(base, expected):
    names = {"model": "dae", "activation": "relu", "constraint": "unit_norm"}
    of_dae = (base[list(names)] == pd.Series(names)).all(axis=1)
    more = base[of_dae & (base["seed"] == 0)].assign(seed=9, activation_fraction=0.4)
    more["trial_id"] += "/more"
    frame = pd.concat([base, more])
    own = {
        (case.label, dataset)
        for case, outcomes in outcomes_of(judge(frame))
        for dataset, outcome in outcomes.items()
        if any(
            {k: c.name[k] for k in names} == names and 9 in c.seeds for c, _ in outcome.curves
        )
        # Statements about all curves compare the seeds that most of them have.
        and case.name not in ABOUT_ALL
    }  # fmt: skip
    others = [key for key in expected.index if key not in own]
    assert len(others) > 60
    pd.testing.assert_frame_equal(judged(frame).loc[others], expected.loc[others], atol=1e-9)
