"""The fused kernels as a card would run them: compiled for an H100, which needs none."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparseae.engine.triton import VARIANTS
from tests.conftest import REPOSITORY

triton = find_spec("triton")
TOOLS = Path(str(triton.origin)).parent / "backends" / "nvidia" / "bin" if triton else None

#: Bytes of shared memory that a program may take on an H100 or H200.
MOST = 227 << 10


@pytest.mark.skipif(TOOLS is None or not (TOOLS / "ptxas").exists(), reason="no ptxas with Triton")
@pytest.mark.parametrize(  # each compiles for ten seconds and more
    "variant",
    ["a", *(pytest.param(name, marks=pytest.mark.minutes) for name in VARIANTS if name != "a")],
)
def test_every_kernel_fits_a_card_at_the_papers_sizes(variant, tmp_path):
    """A launch beyond the shared memory fails, and spilled registers are memory traffic."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.compiled_kernels", variant],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    # Of a step for each of two models, and encode of a measurement of each.
    kinds = {"encode": 4, "decode": 1, "back": 2, "update": 2}
    assert Counter(one["kernel"] for one in found) == kinds
    assert [one for one in found if one["shared"] > MOST or one["spilled"]] == []
