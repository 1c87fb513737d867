"""The pages of docs/reference/ are those that the code makes now, and leave nothing out."""

import importlib.util
from pathlib import Path

import pytest

from sparseae.model.documented import meanings
from sparseae.results import columns
from sparseae.results.schema import epoch_schema, unit_schema

DOCS = Path(__file__).parents[2] / "docs"

spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert spec is not None
assert spec.loader is not None
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.pages())
def test_a_generated_page_is_up_to_date(name):
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == generate.pages()[name], "python docs/generate.py writes it again"


def test_every_column_has_a_meaning_and_none_is_described_that_is_not_there():
    from sparseae.model.trial import TRAINING_TYPES

    schemas = epoch_schema(TRAINING_TYPES, theory=True), unit_schema(theory=True)
    for listed, schema, about in zip(
        (columns.epochs(), columns.units()), schemas, (columns.EPOCHS, columns.UNITS), strict=True
    ):
        assert [column.name for column in listed] == schema.names
        assert all(column.meaning and "\n" not in column.meaning for column in listed)
        assert set(about) <= set(schema.names)


def test_a_field_without_a_comment_is_named():
    class Bare:
        #: What it is
        #: in two lines.
        told: int = 1
        untold: int = 2

    with pytest.raises(ValueError, match=r"Bare\.untold"):
        meanings(Bare)


def test_the_kept_weights_are_the_tensors_that_the_page_names(tmp_path):
    import sparseae

    space = {"model": ["ae"], "activation": ["relu"], "sigma2": [0], "dataset": ["digits"]}
    training = {"epochs": 0, "hidden_units": 3, "samples": 50}
    config = {"name": "x", "space": space, "training": training, "keep_weights": True}
    done = sparseae.run(config, results=tmp_path, in_process=True)
    kept = sparseae.load_weights(done.place, done.frame["trial_id"][0])
    assert set(kept) == {column.name for column in columns.weights()}
    assert (kept["W"].shape, kept["b"].shape) == ((3, 64), (3,))
