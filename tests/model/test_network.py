"""The products of an auto-encoder, each from its definition."""

import torch

from sparseae.model.network import Network


def noise(*size: int) -> torch.Tensor:
    return torch.randn(
        size, generator=torch.Generator().manual_seed(sum(size)), dtype=torch.float64
    )


def test_the_products_are_those_of_each_member():
    W, b, x, h = noise(2, 4, 3), noise(2, 4), noise(2, 5, 3), noise(2, 5, 4)
    network = Network(W, b)
    for k in range(2):
        for found, expected in (
            (network.encode(x), x[k] @ W[k].T + b[k]),
            (network.back(x), x[k] @ W[k].T),
            (network.decode(h), h[k] @ W[k]),
            (network.residual(h, x), h[k] @ W[k] - x[k]),
            (network.residual(h, x, scale=2.5), 2.5 * (h[k] @ W[k] - x[k])),
            (network.product(h, W), h[k] @ W[k]),
            (network.row_norms(), W[k].norm(dim=1)),
        ):
            assert found is not None
            torch.testing.assert_close(found[k], expected)


def test_rows_of_length_one_are_not_measured():
    assert Network(noise(2, 4, 3), noise(2, 4), unit_rows=True).row_norms() is None
