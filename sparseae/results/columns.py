"""What every column of the results means, and in which unit it is.

The columns themselves are in `sparseae.results.schema`; a test asks that each has a line here.
Notation as in the paper: x a sample of n inputs, a = W x + b, h = s(a), y = W^T h, r = y - x; W_j
is row j of W, of one hidden unit; lambda = sigma2.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from sparseae.model.documented import meanings
from sparseae.model.trial import TRAINING_TYPES, Training
from sparseae.results.schema import epoch_schema, unit_schema


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: as in the Parquet.
        kind: its Arrow type, with ``or null`` where it may be null.
        unit: what its numbers count or measure; empty for names.
        meaning: a sentence.
    """

    name: str
    kind: str
    unit: str
    meaning: str


#: Of ``epochs/``: (unit, meaning). Measured on the clean, whole training set after the epoch.
EPOCHS: dict[str, tuple[str, str]] = {
    "sweep": ("", "The sweep's name"),
    "trial_id": ("", "16 hex digits: a hash of the trial's configuration, its epochs apart"),
    "model": ("", "What is added to the reconstruction error, or how the input is corrupted"),
    "activation": ("", "The encoder's activation s"),
    "sigma2": ("squared input units", "Variance of the corruption, and lambda of every penalty"),
    "constraint": ("", "The constraint on W"),
    "dataset": ("", "The data set's name, or the path of a matrix"),
    "seed": ("", "Seed of the initial weights, the minibatch order and the corruption noise"),
    "epoch": ("epochs", "Epochs trained; 0 is the initial weights"),
    "status": ("", "ok, or diverged from the epoch whose loss was not finite: nulls from there on"),
    "activation_fraction": (
        "share, 0 to 1",
        "Of all samples and units, how many are active: h_j > delta_min, which is 0 for relu and "
        "maxout and 0.1 for the others (eq. 14)",
    ),
    "dead_fraction": ("share, 0 to 1", "Share of units that are active for no sample"),
    "dead_units": ("units", "How many these are"),
    "reconstruction_error": ("squared input units", "Mean over samples of norm(x - y)^2"),
    "regularization": (
        "as the loss",
        "lambda R over the training set; null where a model has no such term: "
        "ae, dae, dae_pairs, dae_bias, dae_weights, edae",
    ),
    "loss": ("as the loss", "reconstruction_error + regularization"),
    "weight_norm_mean": ("1", "Mean over units of norm(W_j)"),
    "bias_mean": ("as a", "Mean over units of b_j"),
    "pre_activation_mean": ("as a", "Mean over units and samples of a_j: what the theorems are of"),
    "samples": ("samples", "Samples trained on; the fewer of those asked for and those there are"),
    "epoch_seconds": (
        "seconds",
        "Time of the epoch, training and measuring, of the stack's piece, divided by its members",
    ),
    "device": ("", "cpu, or the card's name"),
    "explained_variance": (
        "share, up to 1",
        "Fraction of variance explained: 1 - reconstruction_error / (variance of the samples, "
        "summed over the inputs)",
    ),
    "l0": ("units", "Mean L0: active units a sample, activation_fraction x hidden_units"),
    "heldout_explained_variance": (
        "share, up to 1",
        "The same of samples never trained on: the test set of mnist and cifar10, where its file "
        "is there, or a holdout share; otherwise null",
    ),
    "heldout_l0": ("units", "Mean L0 of those samples"),
    # theory: true
    "sigma_r": ("input units", "Root mean square of the entries of r (Assumption 1)"),
    "ae_bias_gradient": ("gradient of b", "dJ_AE/db_j, mean over units"),
    "ae_bias_gradient_rms": ("gradient of b", "Its root mean square over units"),
    "lemma1_bound": ("gradient of b", "2 sigma_r sqrt(n) norm(W_j), mean over units"),
    "lemma1_share": ("share of units", "Units whose dJ_AE/db_j is within that bound"),
    "bias_gradient": (
        "gradient of b",
        "lambda dR/db_j, mean over units; of dae that of its objective minus J_AE; of edae 0",
    ),
    "bias_gradient_rms": ("gradient of b", "Its root mean square over units"),
    "bias_gradient_positive": ("share of units", "Units where it is above 0"),
    "bias_gradient_negative": ("share of units", "Units where it is below 0"),
    "condition_share": ("share of units", "Units with lambda dR/db_j above the bound (Theorem 1)"),
    "condition_fell": (
        "share of units",
        "Of the units for which that held an epoch before, those whose E[a_j] fell; null if none",
    ),
    "descent_share": ("share of units", "Units whose whole bias gradient is above 0 (eq. 5)"),
    "descent_fell": (
        "share of units",
        "Of the units for which that was so an epoch before, those whose E[a_j] fell; null if none",
    ),
    "fell_share": ("share of units", "Units whose E[a_j] fell over the epoch"),
    "pre_activation_change": ("as a", "Change of E[a_j] over the epoch, mean over units"),
    "variance_ratio": ("1", "Var[a_j] / norm(W_j)^2, mean over units; Theorem 1 has 1"),
    "theorem2_bound": (
        "probability",
        "Lower bound on Pr(h_j <= delta_min), mean over units (Theorem 2); null for maxout",
    ),
    "theorem2_share": ("share of units", "Units that are inactive at least as often as the bound"),
    "first_order_rms": (
        "gradient of b",
        "dae, edae: root mean square over units of what is odd in the noise of a minibatch",
    ),
    "second_order_gradient": (
        "gradient of b",
        "dae: mean bias gradient of eq. 7's smooth terms; 0 for relu and maxout",
    ),
    "kink_gradient": ("gradient of b", "relu dae: mean bias gradient from the kink of relu"),
}

#: Of ``units/``: one row a unit at the trial's last epoch, null where the trial diverged.
UNITS: dict[str, tuple[str, str]] = {
    "trial_id": EPOCHS["trial_id"],
    "unit": ("", "j, from 0"),
    "activation_fraction": ("share, 0 to 1", "Samples for which the unit is active (eq. 14)"),
    "pre_activation_mean": ("as a", "E[a_j] over the training set"),
    "bias": ("as a", "b_j"),
    "weight_norm": ("1", "norm(W_j)"),
    "ae_bias_gradient": ("gradient of b", "dJ_AE/db_j"),
    "bias_gradient": ("gradient of b", "lambda dR/db_j, as in epochs/"),
    "lemma1_bound": ("gradient of b", "2 sigma_r sqrt(n) norm(W_j)"),
    "variance_ratio": ("1", "Var[a_j] / norm(W_j)^2"),
    "theorem2_bound": ("probability", "Lower bound on Pr(h_j <= delta_min); null for maxout"),
    "second_order": ("gradient of b", "dae: bias gradient of eq. 7's smooth terms"),
    "kink": ("gradient of b", "relu dae: bias gradient from the kink of relu"),
}

#: Of ``weights/TRIAL_ID.safetensors`` (``keep_weights: true``): (type and shape, unit, meaning).
WEIGHTS: dict[str, tuple[str, str, str]] = {
    "W": ("float32 (hidden_units, inputs)", "1", "The weights; the decoder is W^T"),
    "b": ("float32 (hidden_units,)", "as a", "The encoder's biases; 0 with encoder_bias: false"),
}


def epochs() -> list[Column]:
    """The columns of ``epochs/`` in their order, those of ``theory: true`` last."""
    keys = {key: ("", text.rstrip(".")) for key, text in meanings(Training).items()}
    return _described(epoch_schema(TRAINING_TYPES, theory=True), keys | EPOCHS)


def units() -> list[Column]:
    """The columns of ``units/`` in their order, those of ``theory: true`` last."""
    return _described(unit_schema(theory=True), UNITS)


def weights() -> list[Column]:
    """The tensors of a trial's kept weights."""
    return [Column(name, *about) for name, about in WEIGHTS.items()]


def _described(schema: pa.Schema, about: dict[str, tuple[str, str]]) -> list[Column]:
    return [
        Column(f.name, f"{f.type} or null" if f.nullable else str(f.type), *about[f.name])
        for f in schema
    ]
