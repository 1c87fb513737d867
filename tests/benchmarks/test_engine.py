"""The benchmark compares like with like: its peers' updates are the engine's (no timing here)."""

import pytest
import torch

from benchmarks.engine import COLUMNS, check, compare, rows_of, trials
from benchmarks.peers import PEERS, TorchModule


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("model", "activation"),
    [("cae", "sigmoid"), ("cae", "relu"), ("dae", "relu"), ("sae", "sigmoid")],
)
def test_a_peer_updates_as_the_engine(peer, model, activation):
    check(peer, trials(model, activation, 2, units=12, batch=5), torch.randn(15, 7))


def test_another_update_is_noticed():
    class Faster(TorchModule):
        def step(self, x, eps):
            super().step(x, eps)
            super().step(x, eps)

    with pytest.raises(AssertionError):
        check(Faster, trials("cae", "sigmoid", 2, units=12, batch=5), torch.randn(15, 7))


def test_every_ratio_is_printed():
    least = compare("dae", "relu", 7, units=12, batch=5, steps=3, rounds=1, size=2)
    rows = rows_of(7, "dae", "relu", 2, least)
    assert [row[:4] for row in rows] == [["7", "dae", "relu", "1"], ["7", "dae", "relu", "2"]]
    numbers = [cell for row in rows for cell in row[4:] if cell not in ("", "nan")]
    assert all(float(cell) > 0 for cell in numbers)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    (row, _) = rows_of(64, "dae", "relu", 2, least)
    assert row[COLUMNS.index("aim")] == "1.35"
