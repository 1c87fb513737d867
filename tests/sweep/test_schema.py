"""The JSON schema that editors check configurations with."""

import json
from pathlib import Path

import jsonschema
import pytest

from sparseae.errors import RequestError
from sparseae.sweep.config import Sweep
from sparseae.sweep.reading import read
from sparseae.sweep.schema import schema

CONFIGS = Path(__file__).parents[2] / "tune_configs"
VALID = jsonschema.Draft202012Validator(schema())
BASE = {
    "name": "small",
    "space": {"model": ["dae"], "activation": "relu", "sigma2": "paper", "dataset": ["digits"]},
}


def test_the_file_beside_the_configurations_is_what_the_command_prints():
    """If not: sparseae schema > tune_configs/schema.json."""
    jsonschema.Draft202012Validator.check_schema(schema())
    assert json.loads((CONFIGS / "schema.json").read_text()) == json.loads(json.dumps(schema()))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_names_it_and_is_valid(path):
    first = path.read_text().splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == (CONFIGS / "schema.json").resolve()
    VALID.validate(read(path))
    VALID.validate(Sweep.load(path).resolved())


@pytest.mark.parametrize(
    "wrong",
    [
        {"nmae": "x"},
        {"name": "../x"},
        {"space": {"model": ["dae"]}},
        {"space": BASE["space"] | {"model": ["dea"]}},
        {"space": BASE["space"] | {"sigma2": [-1]}},
        {"space": BASE["space"] | {"seed": []}},
        {"training": {"epohcs": 1}},
        {"training": {"momentum": 1}},
        {"stack": ["model"]},
        {"overrides": [{"when": {"model": "dae"}}]},
        {"resources": {"gpu": "all"}},
        {"watch": ["x"]},
        {"keep_weights": "perhaps"},
    ],
)
def test_what_it_refuses_the_checks_refuse(wrong):
    VALID.validate(BASE)
    assert not VALID.is_valid(BASE | wrong)
    with pytest.raises(RequestError):
        Sweep.load(BASE | wrong)
