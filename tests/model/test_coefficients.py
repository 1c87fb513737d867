"""The numbers of the members: one where they share it, each its own where they differ."""

import pytest
import torch

from sparseae.model.coefficients import Coefficients, PerMember
from sparseae.model.trial import DEFAULTS, Training, Trial

LIKE = torch.zeros(1, dtype=torch.float64)


def drawn(*sizes):
    stream = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=stream, dtype=torch.float64) for size in sizes]


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.5, 2.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
def test_a_coefficient_is_applied_to_each_members_numbers(values):
    k = PerMember(values, LIKE)
    column = torch.tensor(values, dtype=torch.float64)
    assert torch.equal(k.column, column.unsqueeze(1))
    x, y, wide, into = drawn((2, 3), (2, 4, 3), (2, 4, 3), (2, 4, 3))
    torch.testing.assert_close(k.times(x), column.view(2, 1) * x)
    torch.testing.assert_close(k.times(wide), column.view(2, 1, 1) * wide)
    for scale in ({}, {"scale": 0.25}):
        wanted = y + scale.get("scale", 1.0) * column.view(2, 1, 1) * wide
        torch.testing.assert_close(k.plus(y, wide, **scale), wanted)
        assert k.plus(y, wide, out=into, **scale) is into
        torch.testing.assert_close(into, wanted)
    assert k.is_zero == (values == [0.0, 0.0])
    if values[0] == values[1]:
        assert k.number == values[0]
    else:
        with pytest.raises(ValueError, match=r"^the members have different values$"):
            _ = k.number


def test_the_coefficients_of_trials_are_theirs_in_the_type_of_the_weights():
    keys = {"rho": (0.1, 0.2), "max_norm": (1.5, 2.5), "weight_decay": (0.3, 0.4),
            "learning_rate": (0.01, 0.02)}  # fmt: skip
    trials = [
        Trial(model="cae", activation="relu", sigma2=sigma2, constraint="none", dataset="d", seed=0,
              training=Training(**{name: both[k] for name, both in keys.items()}))
        for k, sigma2 in enumerate((0.25, 4.0))
    ]  # fmt: skip
    c = Coefficients.of(trials, LIKE.float())
    wanted = {"lam": (0.25, 4.0), "sigma": (0.5, 2.0)} | keys
    for name, values in wanted.items():
        column = getattr(c, name).column
        assert column.dtype == torch.float32
        assert torch.equal(column, torch.tensor(values).unsqueeze(1))
    plain = Coefficients(LIKE, [0.25, 0.5, 1.0], rho=[0.1, 0.1, 0.3])
    assert plain.rho.column.flatten().tolist() == [0.1, 0.1, 0.3]
    for name in ("max_norm", "weight_decay", "learning_rate"):
        assert getattr(plain, name).number == DEFAULTS[name]
        assert getattr(plain, name).column.shape == (3, 1)


def test_one_member_is_a_group_and_numbers_lie_where_the_weights_do():
    assert PerMember([0.5], LIKE).number == 0.5
    elsewhere = PerMember([0.5, 1.0], torch.zeros(1, device="meta"))
    assert elsewhere.column.device.type == "meta"
