"""Whole small runs against `tests.reference`: every number that a run leaves is its definition.

A sweep trains all constraints, two sigma2 and two seeds of a model with an activation. Sizes and
coefficients are drawn by the two's names, around the boundaries at which the engine cuts its work:
a chunk of the measurement, a run of steps whose noise is drawn at once, a short last minibatch, a
checkpoint that a second run goes on from, which also makes a second part of each table.
"""

import itertools
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import sparseae
from sparseae import data
from sparseae.engine.stack import Stack
from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
from sparseae.model.trial import AXES, FUNCTIONS, STANDARDIZATIONS, TRAINING_TYPES, Trial
from sparseae.results.schema import epoch_schema
from sparseae.sweep import Sweep
from tests import reference

KINDS = list(itertools.product(MODELS, ACTIVATIONS))

#: The columns of ``epochs`` that are measured.
MEASURED = [
    "explained_variance",
    "l0","activation_fraction", "dead_fraction", "dead_units", "reconstruction_error",
            "regularization", "loss", "weight_norm_mean", "bias_mean",
            "pre_activation_mean"]  # fmt: skip

#: The others, which say what a row is of.
CONFIGURATION = [*AXES, *TRAINING_TYPES, "sweep", "trial_id", "epoch", "status", "device",
                 "epoch_seconds"]  # fmt: skip

#: float32 has 6e-8; after a hundred steps of sums of a few hundred terms 3e-5 were the largest.
RELATIVE = 1e-4
#: A pre-activation so near a kink may fall on its other side in float32, which turns a sample's
#: gradient; from then on the trial is its definition only roughly.
NEAR, ROUGH = 3e-5, 5e-3


def drawn(model: str, activation: str) -> tuple[dict, np.ndarray]:
    """A sweep of this model and activation, and its raw data."""
    pick = random.Random(f"{model} {activation}")
    # The noise of an epoch on the larger is drawn in two runs or more.
    inputs, samples = pick.choice(
        [(5, 249), (5, 250), (5, 251), (5, 501), (1100, 499), (1100, 500), (1100, 501)]
    )
    sweep = {
        "name": "drawn",
        "space": {
            "model": [model],
            "activation": [activation],
            "constraint": list(CONSTRAINTS),
            "sigma2": [0, pick.choice([0.09, 0.25, 0.49])],
            "seed": pick.sample(range(100), 2),
            "dataset": ["data.npy"],
        },
        "stack": pick.choice([["sigma2", "seed"], ["seed"], []]),
        "training": {
            "epochs": 3,
            "batch_size": pick.choice([70, 100, samples // 3]),
            "hidden_units": pick.choice([6, 8, 16]),
            "learning_rate": pick.choice([0.1, 0.2]) / inputs,
            "momentum": pick.choice([0.5, 0.9]),
            "corruptions": pick.choice([1, 2]),
            "encoder_bias": pick.random() < 0.8,
            "rho": pick.choice([0, 0.05, 0.3]),
            "max_norm": pick.choice([0.8, 1.2]),
            "weight_decay": 0.3,
            "gamma": 0.7,
            "gamma_sigma": 0.4,
            "f": pick.choice(FUNCTIONS),
            "q": pick.choice([1, 2, 3]),
            "p": pick.choice([0, 1, 2, 3]),
            "standardize": pick.choice(STANDARDIZATIONS),
        },
        "checkpoint_every": 1,
        "keep_weights": True,
    }
    return sweep, raw_data(samples, inputs, pick.randrange(1000))


def raw_data(samples: int, inputs: int, seed: int) -> np.ndarray:
    """Correlated inputs of different scales, one of them constant."""
    random = np.random.default_rng(seed)
    sources = random.standard_normal((samples, 3)) @ random.standard_normal((3, inputs))
    x = (sources + random.standard_normal((samples, inputs))) * random.uniform(0.1, 9, inputs)
    x[:, -1] = 4.0
    return x + random.uniform(-5, 5, inputs)


def standardized(x: np.ndarray, soften: float = 0.0, over: int = 0) -> torch.Tensor:
    x = torch.as_tensor(x, dtype=torch.float64)
    deviation = x.std(over, correction=0, keepdim=True)
    centered = x - x.mean(over, keepdim=True)
    return centered / torch.where(deviation > 0, deviation + soften, torch.inf)


def prepared(sweep: dict, raw: np.ndarray) -> torch.Tensor:
    """As a drawn sweep prepares its data."""
    return standardized(raw, over=int(sweep["training"]["standardize"] == "sample"))


def assert_defined(
    sweep: dict, x: torch.Tensor, place: Path, unchecked=(), heldout: torch.Tensor | None = None
) -> None:
    """Every column of ``epochs``, ``units`` and ``weights`` of a sweep on x is its definition.

    Of trials that are ``unchecked`` the rows must be there.
    """
    rows = sparseae.load(place).set_index(["trial_id", "epoch"])
    units = sparseae.load_units(place).set_index(["trial_id", "unit"])
    trials = Sweep.load(sweep).trials()
    epochs, m = trials[0].training.epochs, trials[0].training.hidden_units
    pairs = {(t.trial_id, epoch) for t in trials for epoch in range(epochs + 1)}
    assert len(rows) == len(pairs)
    assert set(rows.index) == pairs
    assert len(units) == len(trials) * m
    for trial in trials:
        if trial in unchecked:
            continue
        for epoch, expected in enumerate(reference.train(trial, x, torch.float32)):
            tolerance = RELATIVE if expected.kink > NEAR else ROUGH
            W, b = expected.W, expected.b
            columns, per_unit, doubtful = reference.measure(
                trial, W, b, x, torch.float32, tolerance
            )
            row = rows.loc[(trial.trial_id, epoch)]
            assert_configuration(row, trial, x, sweep["name"])
            assert_columns(row, columns, per_unit, doubtful, tolerance)
            for prefix, samples in (("", x), ("heldout_", heldout)):
                assert_quality(row, prefix, trial, W, b, samples, tolerance)
        assert_units(units.loc[trial.trial_id].loc[list(range(m))], per_unit, doubtful, tolerance)
        weights = sparseae.load_weights(place, trial.trial_id)
        assert_near(weights["W"], W, tolerance, "W")
        assert_near(weights["b"], b, tolerance, "b")


def assert_configuration(row: pd.Series, trial: Trial, x: torch.Tensor, sweep: str) -> None:
    """The columns that say what a row is of."""
    known = trial.values() | {"sweep": sweep, "status": "ok", "samples": len(x), "device": "cpu"}
    differing = {key: row[key] for key, value in known.items() if key != "epochs"
                 and row[key] != value}  # fmt: skip
    assert not differing
    assert row["epoch_seconds"] > 0


def assert_columns(
    row: pd.Series, columns: dict, units: dict, doubtful: torch.Tensor, tolerance: float
) -> None:
    """The measured columns. A mean is as exact as what it is the mean of is large."""
    assert row["dead_units"] == pytest.approx(columns["dead_units"], abs=int(doubtful.any(0).sum()))
    assert row["dead_fraction"] == row["dead_units"] / doubtful.shape[1]
    share = doubtful.double().mean().item() + 1e-12
    assert row["activation_fraction"] == pytest.approx(columns["activation_fraction"], abs=share)
    for name in ("reconstruction_error", "loss"):
        assert row[name] == pytest.approx(columns[name], rel=tolerance), name
    if columns["regularization"] is None:
        assert pd.isna(row["regularization"])
    else:  # eq. 13's slope is 100 at rho = 0.99
        slack = 0.01 * tolerance * columns["reconstruction_error"]
        penalty = columns["regularization"]
        assert_near(row["regularization"], penalty, 10 * tolerance, "regularization", slack)
    for name, unit in [
        ("weight_norm_mean", "weight_norm"),
        ("bias_mean", "bias"),
        ("pre_activation_mean", "pre_activation_mean"),
    ]:
        largest = max(units[unit].abs().max(), 0.01 * units["weight_norm"].max()).item()
        assert row[name] == pytest.approx(columns[name], abs=tolerance * largest), name


def assert_quality(
    row: pd.Series, prefix: str, trial: Trial, W, b, x: torch.Tensor | None, tolerance: float
) -> None:
    names = [f"{prefix}explained_variance", f"{prefix}l0"]
    if x is None:
        assert row[names].isna().all()
        return
    explained, active, slack = reference.quality(trial, W, b, x, tolerance)
    assert row[names[0]] == pytest.approx(explained, abs=tolerance * (2 + abs(explained)))
    assert row[names[1]] == pytest.approx(active, abs=slack + 1e-9)


def assert_units(of_trial: pd.DataFrame, units: dict, doubtful, tolerance: float) -> None:
    for name, values in units.items():
        slack = {
            "activation_fraction": doubtful.double().mean(0),
            "pre_activation_mean": 0.01 * tolerance * units["weight_norm"],
        }.get(name, 0.0)
        assert_near(of_trial[name].to_numpy(), values, tolerance, name, slack)


def assert_near(actual, expected, tolerance: float, name: str, slack=0.0) -> None:
    """Equal up to ``tolerance`` of the largest number, and ``slack``."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    gap = (torch.tensor(np.asarray(actual), dtype=torch.float64) - expected).abs()
    assert (gap <= tolerance * expected.abs().max() + slack + 1e-12).all(), (name, gap.max())


@pytest.mark.parametrize(("model", "activation"), KINDS)
def test_a_run_is_what_the_specification_says(model, activation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep, raw = drawn(model, activation)
    np.save("data.npy", raw)
    # The epoch that a first run ends with, where there is one.
    if stop := len(model + activation) % 3:
        first = [f"training.epochs={stop}"]
        assert not sparseae.run(sweep, set_values=first, results=tmp_path, in_process=True).failed
    assert not sparseae.run(sweep, results=tmp_path, in_process=True).failed
    # Of the four trials of a constraint one with sigma2 > 0; of one constraint also one with
    # sigma2 = 0, of the other seed: of another constraint for each activation.
    seed = sweep["space"]["seed"][0]
    also = dict(zip(ACTIVATIONS, itertools.cycle(CONSTRAINTS), strict=False))[activation]
    rest = [
        t
        for t in Sweep.load(sweep).trials()
        if (t.sigma2 > 0) == (t.seed == seed) or (t.sigma2 == 0 and t.constraint != also)
    ]
    assert_defined(sweep, prepared(sweep, raw), tmp_path / "drawn", unchecked=rest)


def test_every_measured_column_is_checked_here():
    known = {*CONFIGURATION, *MEASURED, "heldout_explained_variance", "heldout_l0"}
    assert known == {field.name for field in epoch_schema(TRAINING_TYPES)}


@pytest.mark.parametrize(("model", "activation"), KINDS)
def test_in_float64_a_stack_trains_what_the_specification_says(
    model, activation, tmp_path, monkeypatch
):
    """Where no tolerance for rounding can hide a small error."""
    monkeypatch.chdir(tmp_path)
    sweep, raw = drawn(model, activation)
    np.save("data.npy", raw[:, :5])
    x = prepared(sweep, raw[:, :5])
    sweep["training"] |= {"learning_rate": 0.02, "epochs": 2}
    members = {}
    for trial in Sweep.load(sweep).trials():
        if trial.sigma2 > 0:
            members.setdefault(trial.constraint, []).append(trial)
    for trials in members.values():
        stack = Stack(trials, x, dtype=torch.float64)
        for epoch in range(1, 3):
            stack.train_epoch(epoch)
        rows = stack.measure().rows()
        *_, expected = reference.train(trials[-1], x, torch.float64)
        torch.testing.assert_close(stack.W[-1], expected.W, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(stack.b[-1], expected.b, rtol=1e-9, atol=1e-11)
        columns, _, _ = reference.measure(trials[-1], expected.W, expected.b, x, torch.float64)
        there = {name: value for name, value in columns.items() if value is not None}
        measured = {name: rows[-1][name] for name in there}
        assert measured == pytest.approx(there, rel=1e-9, abs=1e-12)
        assert ("regularization" in rows[-1]) == ("regularization" in there)


@pytest.mark.parametrize(("name", "soften"), [("mnist", 0.1), ("cifar10", 0.0)])
def test_a_run_on_real_data_is_what_the_specification_says(name, soften, tmp_path, real_data):
    sweep = {
        "name": name,
        "space": {
            "model": ["dae", "mdae", "sae"],
            "activation": ["relu", "sigmoid"],
            "sigma2": [0.25],
            "dataset": [name],
            "seed": [3, 4],
        },
        "training": {"epochs": 2, "hidden_units": 12, "samples": 320, "learning_rate": 0.0005},
        "keep_weights": True,
    }
    assert not sparseae.run(sweep, results=tmp_path, in_process=True).failed
    raw = data.source(name).load(320, 0, 64).x
    x = standardized(raw / 255 if raw.dtype == np.uint8 else raw, soften)
    test_set = data.prepare(name, samples=320).heldout
    heldout = None if test_set is None else torch.as_tensor(test_set).double()
    assert_defined(sweep, x, tmp_path / name, heldout=heldout)


def test_a_diverged_trial_says_so_and_harms_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep, raw = drawn("cae", "softplus")
    np.save("data.npy", raw)
    sweep["space"] |= {"constraint": ["none"], "learning_rate": [1e-3, 1e30]}
    sweep["stack"] = ["sigma2", "seed", "learning_rate"]
    assert not sparseae.run(sweep, results=tmp_path, in_process=True).failed
    trials = Sweep.load(sweep).trials()
    wild = [t for t in trials if t.training.learning_rate > 1]
    assert len(wild) == len(trials) / 2
    assert_defined(sweep, prepared(sweep, raw), tmp_path / "drawn", unchecked=wild)
    rows = sparseae.load(tmp_path / "drawn").set_index("trial_id").loc[[t.trial_id for t in wild]]
    assert (rows["status"] == np.where(rows["epoch"] == 0, "ok", "diverged")).all()
    diverged = rows[rows["epoch"] > 0]
    assert diverged[MEASURED].isna().all(axis=None)
    units = sparseae.load_units(tmp_path / "drawn").set_index("trial_id").loc[diverged.index]
    assert units.drop(columns="unit").isna().all(axis=None)
