"""The committed results: what they hold, and that the committed tables follow from them."""

from pathlib import Path

import pandas as pd
import pytest

import sparseae
from sparseae.analysis.trends import judge, trend_table
from sparseae.analysis.verdicts import verdict_table
from sparseae.sweep.config import Sweep
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "results"
FOLDERS = [
    "paper", "by-sample", "section-3-1-1", "reference", "rates", "explanations", "first-order",
    "controls",
]  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_committed_tables_follow_from_the_committed_rows(folder):
    judged = judge(sparseae.load(RESULTS / folder))
    for name, table in (("verdicts", verdict_table(judged)), ("trends", trend_table(judged))):
        pd.testing.assert_frame_equal(table, pd.read_parquet(RESULTS / folder / f"{name}.parquet"))


def test_the_reference_has_the_paper_s_width_on_its_data():
    frame = sparseae.load(RESULTS / "reference")
    last = frame.loc[frame.groupby("trial_id")["epoch"].idxmax()]
    assert len(last) >= 200
    assert set(last["dataset"]) == {"mnist", "cifar10"}
    assert set(last["hidden_units"]) == {1000}
    assert set(last["batch_size"]) == {50}
    assert set(last["samples"]) == {50000}
    for figure, models in (("relu", "dae cae mdae sae edae"), ("sigmoid", "dae cae mdae sae")):
        for dataset in ("mnist", "cifar10"):
            rows = last[(last["activation"] == figure) & (last["dataset"] == dataset)]
            rows = rows[rows["constraint"] == "unit_norm"]
            assert set(rows["model"]) == set(models.split())
            seeds = rows.groupby(["model", "sigma2"])["seed"].nunique()
            assert (seeds == 3).all()


@pytest.mark.parametrize("file", sorted(RESULTS.rglob("sweep.yaml")), ids=lambda f: f.parent.name)
def test_the_committed_configurations_are_those_that_ran(file: Path):
    ran = Sweep.load(file)
    ours = next((REPOSITORY / "tune_configs").rglob(f"{ran.name}.yaml"))
    assert Sweep.load(ours) == ran
    frame = sparseae.load(file.parent)
    assert set(frame["trial_id"]) == {trial.trial_id for trial in ran.trials()}
    assert (
        frame.groupby("trial_id")["epoch"].max() == frame.groupby("trial_id")["epochs"].max()
    ).all()
