"""A trial: one point of the search space, as plain data that every layer shares.

No torch, no pydantic, no Ray: the numerics train trials, the sweep lists them, the store names
them by ``trial_id``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a trial trains; the defaults are the paper's protocol (section 3).

    Every key here is a key of ``training:`` in a configuration, may be an axis of ``space:``, and
    is a column of the results.
    """

    #: Epochs to train; the only key that is not part of a trial's identity.
    epochs: int = 50
    #: Samples of a minibatch.
    batch_size: int = 50
    #: Hidden units m; of maxout, the pieces.
    hidden_units: int = 1000
    #: Learning rate of SGD.
    learning_rate: float = 0.001
    #: Momentum of SGD.
    momentum: float = 0.9
    #: Training samples, at most; a smaller data set is used whole.
    samples: int = 50_000
    #: Independent corruptions of each sample (dae), pairs of them (dae_pairs, dae_bias,
    #: dae_weights), or the draws averaged (edae).
    corruptions: int = 1
    #: Target mean activation of sae; 0 is eq. 13, above 0 is eq. 12.
    rho: float = 0.0
    #: Whether the encoder has a bias b; false keeps it at 0.
    encoder_bias: bool = True
    #: Largest norm of a W_j under the constraint ``max_norm``.
    max_norm: float = 1.0
    #: Coefficient c of c/2 norm(W)^2 under the constraint ``weight_decay``.
    weight_decay: float = 0.0001
    #: ZCA-whiten the data, so that Assumption 1 holds.
    whiten: bool = False
    #: Seed of patch positions, of sampling and of the gaussian data; apart from the trial's seed.
    data_seed: int = 0
    #: Input dimensions of the data set ``gaussian``.
    gaussian_inputs: int = 64
    #: Share of the samples that are never trained on, but measured (``heldout_*``). At 0 none is
    #: taken away, and ``mnist`` and ``cifar10`` are measured on their test sets.
    holdout: float = 0.0
    #: Of what the mean is subtracted, and by whose standard deviation is divided: of each ``input``
    #: over the samples, or of each ``sample`` over its inputs.
    standardize: str = "input"
    #: cae_h: coefficient of E norm(J(x) - J(x + eps))^2.
    gamma: float = 0.1
    #: cae_h: standard deviation of that eps.
    gamma_sigma: float = 0.1
    #: corollary1: the monotone function: linear, log, square or tanh.
    f: str = "linear"
    #: corollary2: exponent of s'(a_j).
    q: int = 2
    #: corollary2: exponent of norm(W_j).
    p: int = 2


#: The axes of ``space:`` that are not keys of ``training:``, in the order of the results.
AXES = ("model", "activation", "sigma2", "constraint", "dataset", "seed")

#: What may differ between the members of one stack: a number a member, never a shape.
STACKABLE = ("sigma2", "seed", "learning_rate", "rho", "max_norm", "weight_decay")

#: What ``f`` may be.
FUNCTIONS = ("linear", "log", "square", "tanh")

#: What ``standardize`` may be.
STANDARDIZATIONS = ("input", "sample")

#: The keys whose value is one of some names.
NAMED = {"f": FUNCTIONS, "standardize": STANDARDIZATIONS}

#: Keys that are parameters of one model; a trial of another model has them at their defaults, so
#: that an axis of one model does not multiply the trials of the others.
OWN_KEYS = {
    "gamma": "cae_h",
    "gamma_sigma": "cae_h",
    "f": "corollary1",
    "q": "corollary2",
    "p": "corollary2",
}

#: The keys that the first results had: they are always part of a `trial_id`. A key that came later
#: is part of it where it is not at its default, and results without it have the default.
FIRST_KEYS = (
    "epochs", "batch_size", "hidden_units", "learning_rate", "momentum", "samples", "corruptions",
    "rho", "encoder_bias", "max_norm", "weight_decay", "whiten", "data_seed", "gaussian_inputs",
)  # fmt: skip

#: ``training``'s keys and their Python types, in order.
TRAINING_TYPES: dict[str, type] = get_type_hints(Training)

#: ``training``'s keys and their defaults.
DEFAULTS: dict[str, Any] = dict(vars(Training()))

#: Keys that came after the first results.
ADDED_KEYS = tuple(key for key in TRAINING_TYPES if key not in FIRST_KEYS)


def with_own_keys(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the parameters of models that it is not of at their defaults."""
    foreign = {key: DEFAULTS[key] for key, model in OWN_KEYS.items() if values["model"] != model}
    return values | foreign


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run: model x activation x sigma2 x constraint x dataset x seed, and how."""

    model: str
    activation: str
    sigma2: float
    constraint: str
    dataset: str
    seed: int
    training: Training = field(default_factory=Training)

    def values(self) -> dict[str, Any]:
        """Every axis and every training key in one flat dictionary."""
        flat = {axis: getattr(self, axis) for axis in AXES}
        return flat | vars(self.training)

    @cached_property
    def trial_id(self) -> str:
        """A stable hash (16 hex digits) of the whole configuration, the number of epochs apart."""
        values = self.values()
        del values["epochs"]
        for f in fields(self.training):
            if f.name not in FIRST_KEYS and values[f.name] == f.default:
                del values[f.name]
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
