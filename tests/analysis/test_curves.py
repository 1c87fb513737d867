"""What makes a curve: trials that are configured alike, whatever was measured of them."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import sparseae
from sparseae.analysis.curves import curves, read_curves
from sparseae.model.trial import AXES, TRAINING_TYPES
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
    one, another = (False, True) if TRAINING_TYPES.get(column) is bool else ("one", "another")
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
