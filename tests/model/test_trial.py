"""A trial's name is its configuration's, and stays it."""

import hashlib

import pytest

from sparseae.model.trial import DEFAULTS, Training, Trial, with_own_keys

#: What a name is the hash of: the keys of the first results, in the order of the alphabet.
FIRST = (
    '"activation": "relu", "batch_size": 50, "constraint": "unit_norm", "corruptions": 1, '
    '"data_seed": 0, "dataset": "mnist", "encoder_bias": true, {}"gaussian_inputs": 64, '
    '"hidden_units": 1000, "learning_rate": 0.001, "max_norm": 1.0, "model": "cae_h", '
    '"momentum": 0.9, "rho": 0.0, "samples": 50000, "seed": 3, "sigma2": 0.25, {}'
    '"weight_decay": 0.0001, "whiten": false'
)


def name(**training: object) -> str:
    how = Training(**training)  # pyright: ignore[reportArgumentType]
    return Trial(model="cae_h", activation="relu", sigma2=0.25, constraint="unit_norm",
                 dataset="mnist", seed=3, training=how).trial_id  # fmt: skip


@pytest.mark.parametrize(
    ("training", "added"),
    [
        ({}, ("", "")),
        ({"epochs": 7}, ("", "")),  # more epochs are the same trial
        ({"gamma": 0.1, "holdout": 0.0}, ("", "")),  # a key that came later, at its default
        ({"gamma": 0.5}, ('"gamma": 0.5, ', "")),
        ({"standardize": "sample"}, ("", '"standardize": "sample", ')),
    ],
)
def test_a_trials_name_is_the_hash_of_its_configuration(training, added):
    text = "{" + FIRST.format(*added) + "}"
    assert name(**training) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_parameter_of_one_model_does_not_tell_trials_of_another_apart():
    chosen = DEFAULTS | {"gamma": 0.7, "f": "log", "q": 3, "hidden_units": 8}
    of = {
        model: with_own_keys(chosen | {"model": model}) for model in ("cae_h", "corollary2", "ae")
    }
    own = {model: {key: values[key] for key in ("gamma", "f", "q")} for model, values in of.items()}
    assert own == {
        "cae_h": {"gamma": 0.7, "f": "linear", "q": 2},
        "corollary2": {"gamma": 0.1, "f": "linear", "q": 3},
        "ae": {"gamma": 0.1, "f": "linear", "q": 2},
    }
    assert {values["hidden_units"] for values in of.values()} == {8}
