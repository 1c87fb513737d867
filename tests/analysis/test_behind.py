"""From a verdict to its trials, and to the same rows again."""

import shlex

import pandas as pd
import pytest

import sparseae
from sparseae.analysis.behind import behind
from sparseae.errors import RequestError
from sparseae.sweep.config import Sweep

SWEEP = {
    "name": "small",
    "space": {
        "model": ["cae", "dae"],
        "activation": ["relu", "sigmoid"],
        "sigma2": [0, 1.0],
        "dataset": ["digits"],
        "seed": [0, 1],
        "learning_rate": [0.001, 0.002],
        "whiten": [False, True],
        "standardize": ["input", "sample"],
    },
    "training": {"epochs": 2, "hidden_units": 8, "samples": 100},
    "exclude": [{"model": "dae", "activation": "sigmoid"}],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    for name in ("small", "other"):
        sweep = SWEEP | {"name": name, "space": SWEEP["space"] | {"seed": [0, 1 + len(name)]}}
        sparseae.run(sweep, results=folder, in_process=True)
    return folder


def test_the_command_trains_the_same_rows(place, tmp_path):
    found = {
        (case.label, dataset): sources
        for case, dataset, _, sources in behind(str(place), "sigmoid-sparser")
    }
    assert not found["sigmoid-sparser: sigmoid dae unit_norm", "digits"]
    assert len(found["sigmoid-sparser: sigmoid cae unit_norm", "digits (by sample)"]) == 4
    sources = found["sigmoid-sparser: sigmoid cae unit_norm", "digits (by sample) (whitened)"]
    # Two learning rates, in two sweeps that share a seed.
    assert len(sources) == 4
    frame = sparseae.load(place)
    for i, source in enumerate(sources):
        program, verb, config, *options = shlex.split(source.command)
        assert (program, verb, options[-2:]) == ("sparseae", "run", ["--results", "again"])
        sweep = Sweep.load(config, options[1:-2:2])
        assert sorted(trial.trial_id for trial in sweep.trials()) == sorted(source.trial_ids)
        if i == 0:
            again = sparseae.run(sweep, results=tmp_path, in_process=True)
            both = again.frame.merge(frame[frame["sweep"] == sweep.name], on=["trial_id", "epoch"])
            assert len(both) == len(source.trial_ids) * 3
            pd.testing.assert_series_equal(both["loss_x"], both["loss_y"], check_names=False)


def test_a_prediction_that_there_is_not(place):
    with pytest.raises(RequestError, match=r"no prediction 'relu-falt': did you mean 'relu-flat'"):
        list(behind(str(place), "relu-falt"))
