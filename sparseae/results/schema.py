"""The columns of the results, in one place; `sparseae.results.columns` says what each means.

``epochs/`` holds one row a trial and epoch, ``units/`` one row a unit at the last epoch.
"""

from __future__ import annotations

import pyarrow as pa

#: Columns of ``epochs/`` before the remaining keys of ``training``.
EPOCH_FIELDS: tuple[pa.Field, ...] = (
    pa.field("sweep", pa.string(), nullable=False),
    pa.field("trial_id", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
    pa.field("activation", pa.string(), nullable=False),
    pa.field("sigma2", pa.float64(), nullable=False),
    pa.field("constraint", pa.string(), nullable=False),
    pa.field("dataset", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("epoch", pa.int64(), nullable=False),
    pa.field("status", pa.string(), nullable=False),  # "ok" | "diverged"
    pa.field("activation_fraction", pa.float64()),
    pa.field("dead_fraction", pa.float64()),
    pa.field("dead_units", pa.int64()),
    pa.field("reconstruction_error", pa.float64()),
    pa.field("regularization", pa.float64()),
    pa.field("loss", pa.float64()),
    pa.field("weight_norm_mean", pa.float64()),
    pa.field("bias_mean", pa.float64()),
    pa.field("pre_activation_mean", pa.float64()),
    pa.field("learning_rate", pa.float64(), nullable=False),
    pa.field("hidden_units", pa.int64(), nullable=False),
    pa.field("samples", pa.int64(), nullable=False),
    pa.field("epoch_seconds", pa.float64()),
    pa.field("device", pa.string()),
)

UNIT_FIELDS: tuple[pa.Field, ...] = (
    pa.field("trial_id", pa.string(), nullable=False),
    pa.field("unit", pa.int64(), nullable=False),
    pa.field("activation_fraction", pa.float64()),
    pa.field("pre_activation_mean", pa.float64()),
    pa.field("bias", pa.float64()),
    pa.field("weight_norm", pa.float64()),
)


def _numbers(*names: str) -> tuple[pa.Field, ...]:
    return tuple(pa.field(name, pa.float64()) for name in names)


#: Columns of ``epochs/`` where the sweep has ``theory: true`` (docs/theory.md).
THEORY_FIELDS: tuple[pa.Field, ...] = _numbers(
    "sigma_r",
    "ae_bias_gradient",
    "ae_bias_gradient_rms",
    "lemma1_bound",
    "lemma1_share",
    "bias_gradient",
    "bias_gradient_rms",
    "bias_gradient_positive",
    "bias_gradient_negative",
    "condition_share",
    "condition_fell",
    "descent_share",
    "descent_fell",
    "fell_share",
    "pre_activation_change",
    "variance_ratio",
    "theorem2_bound",
    "theorem2_share",
    "first_order_rms",
    "second_order_gradient",
    "kink_gradient",
)

#: And of ``units/``.
THEORY_UNIT_FIELDS: tuple[pa.Field, ...] = _numbers(
    "ae_bias_gradient",
    "bias_gradient",
    "lemma1_bound",
    "variance_ratio",
    "theorem2_bound",
    "second_order",
    "kink",
)

#: Columns of ``epochs/`` that came after the first results, which load without them: as null.
ADDED_FIELDS: tuple[pa.Field, ...] = _numbers(
    "explained_variance",
    "l0",
    "heldout_explained_variance",
    "heldout_l0",
)

#: A trial's configuration types to the columns' types.
_ARROW_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def epoch_schema(
    training_types: dict[str, type],
    metadata: dict[str, str] | None = None,
    *,
    theory: bool = False,
) -> pa.Schema:
    """The schema of ``epochs/`` for a sweep whose ``training`` has these keys and types."""
    fixed = {field.name for field in EPOCH_FIELDS}
    extra = [
        pa.field(name, _ARROW_TYPES[kind])
        for name, kind in training_types.items()
        if name not in fixed
    ]
    measured = THEORY_FIELDS if theory else ()
    return pa.schema([*EPOCH_FIELDS, *extra, *ADDED_FIELDS, *measured], metadata=metadata)


def unit_schema(metadata: dict[str, str] | None = None, *, theory: bool = False) -> pa.Schema:
    """The schema of ``units/``."""
    measured = THEORY_UNIT_FIELDS if theory else ()
    return pa.schema([*UNIT_FIELDS, *measured], metadata=metadata)
