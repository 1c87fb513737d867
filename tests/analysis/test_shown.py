"""What a notebook shows of trends, verdicts and results; and that they stay plain data frames."""

from pathlib import Path

import pandas as pd

import sparseae

ROOT = Path(__file__).parents[2]


def test_verdicts_show_every_verdict_and_its_evidence_whole():
    verdicts = sparseae.check_predictions(sparseae.load(ROOT / "results" / "rates"))
    shown = verdicts._repr_html_()
    for row in verdicts.itertuples():
        assert row.verdict in shown
    assert "..." not in shown
    assert type(verdicts) is pd.DataFrame
    assert type(verdicts.head(2)) is pd.DataFrame
    assert verdicts.head(2)._repr_html_() != shown


def test_trends_show_the_trend_of_each_curve_and_name_the_other_columns():
    curves = sparseae.trends(sparseae.load(ROOT / "results" / "rates"))
    shown = curves._repr_html_()
    assert all(trend in shown for trend in curves["trend"])
    assert "further columns" in shown


def test_text_in_a_notebook_is_text(tmp_path):
    import numpy as np

    np.save(tmp_path / "a<b>.npy", np.random.default_rng(0).standard_normal((60, 4)))
    space = {
        "model": ["ae"], "activation": ["relu"], "sigma2": [0],
        "dataset": [str(tmp_path / "a<b>.npy")],
    }  # fmt: skip
    config = {"name": "x", "space": space, "training": {"epochs": 1, "hidden_units": 3}}
    done = sparseae.run(config, results=tmp_path / "r", in_process=True)
    assert "a<b>" not in done._repr_html_()
    assert "1 trials, 1 trained now" in done._repr_html_()
    assert "<b>.npy" not in sparseae.trends(done.frame)._repr_html_()
