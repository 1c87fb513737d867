"""A data set made from docs/data.md's block alone, and what is refused of one that is not whole."""

import re
from pathlib import Path

import numpy as np
import pytest

import sparseae
from sparseae import data
from sparseae.data.dataset import SOURCES, Raw, Source
from sparseae.errors import RequestError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture(autouse=True)
def _as_before():
    before = dict(SOURCES)
    yield
    SOURCES.clear()
    SOURCES.update(before)


def test_the_documented_block_is_a_data_set_that_trains(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(block, {"__name__": "halves"})
    raw = np.random.default_rng(0).random((50, 16))
    wanted = (raw - raw.mean(0)) / raw.std(0)
    prepared = data.prepare("halves", samples=50)
    np.testing.assert_allclose(prepared.x, wanted, atol=1e-5)
    space = {"model": ["cae"], "activation": ["relu"], "sigma2": [0.1], "dataset": ["halves"]}
    training = {"epochs": 1, "hidden_units": 4, "samples": 50}
    config = {"name": "halves", "space": space, "training": training}
    frame = sparseae.run(config, results=tmp_path, in_process=True).frame
    assert (frame["samples"] == 50).all()
    assert (frame["status"] == "ok").all()


@pytest.mark.parametrize("left_out", ["about", "shape", "load"])
def test_a_data_set_without_one_of_its_parts_is_refused_by_class_and_part(left_out):
    parts = {
        "name": "broken",
        "about": "something",
        "shape": lambda self, samples, gaussian_inputs: (samples, 2),
        "load": lambda self, samples, data_seed, gaussian_inputs: Raw(np.ones((samples, 2)), "x"),
    }
    del parts[left_out]
    with pytest.raises(RequestError, match=rf"Broken: has no {left_out}"):
        type("Broken", (Source,), parts)
    assert "broken" not in SOURCES


def test_a_data_set_that_loads_another_shape_than_it_says_is_one_line():
    class Liar(Source):
        name = "liar"
        about = "says 3 inputs, has 2"

        def shape(self, samples, gaussian_inputs):
            return samples, 3

        def load(self, samples, data_seed, gaussian_inputs):
            return Raw(np.random.default_rng(0).random((samples, 2)), "liar")

    with pytest.raises(RequestError, match=r"Liar\.load gives \(20, 2\), Liar\.shape says"):
        data.prepare("liar", samples=20)
