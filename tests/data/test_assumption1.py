"""How far data are from Assumption 1."""

import numpy as np
import pytest

from sparseae import data
from sparseae.data.dataset import assumption1


def test_whitened_data_satisfy_it_and_standardized_data_do_not():
    white = data.prepare("digits", samples=2000, whiten=True).details["assumption1"]
    raw = data.prepare("digits", samples=2000).details["assumption1"]
    assert max(white["mean"], raw["mean"]) < 1e-6
    # The directions that carry no data stay empty: three of the 64 pixels never vary.
    assert white["covariance"] == pytest.approx((3 / 64) ** 0.5, abs=1e-3)
    assert raw["covariance"] == pytest.approx(0.957, abs=1e-3)


def test_it_is_its_definition():
    x = np.random.default_rng(0).normal(1.0, 2.0, (500, 7)).astype(np.float32)
    moments = x.astype(float).T @ x / 500
    expected = np.linalg.norm(moments - np.eye(7)) / np.sqrt(7)
    assert assumption1(x)["covariance"] == pytest.approx(expected, rel=1e-5)
    assert assumption1(x)["mean"] == pytest.approx(abs(x.mean(0)).max(), rel=1e-5)
