"""The checks of the mathematics hold, and one that should not hold is seen to."""

import pytest

from sparseae.model.activations import ReLU
from sparseae.theory import checks


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_the_mathematics_holds(check):
    found = check()
    assert found.passed, found.evidence
    assert all(len(line.x) == len(line.y) > 0 for line in found.lines)


def test_a_wrong_slope_is_seen(monkeypatch):
    monkeypatch.setattr(ReLU, "slope", lambda self, a, h: (h > 0).to(h.dtype) * 1.01)
    assert not checks.remark_1().passed
