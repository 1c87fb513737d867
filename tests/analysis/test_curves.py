"""What makes a curve: trials that are configured alike, whatever was measured of them."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import sparseae
from sparseae.model.trial import AXES, TRAINING_TYPES
from sparseae.results.schema import epoch_schema
from tests.analysis.frames import curve

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
