"""What a machine must have for some of the tests."""

import pytest
import torch

from sparseae.engine.library import compiled

with_c = pytest.mark.skipif(
    compiled(torch.float32) is None, reason="there is no C compiler, or no AVX2"
)
