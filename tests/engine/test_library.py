"""The library of the step in C is there wherever it can be made: else its tests are skipped."""

import pytest
import torch

from sparseae.engine import library


def can_be_made() -> bool:
    return (
        library._compiler() is not None
        and torch.backends.cpu.get_cpu_capability() in library._VECTORS
    )


@pytest.mark.skipif(not can_be_made(), reason="there is no C compiler, or no AVX2")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_can_be_compiled_computes_right(dtype):
    assert library.compiled(dtype) is not None
