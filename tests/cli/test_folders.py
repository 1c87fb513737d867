"""Many sweeps: their list, what can go, and what a person wrote beside them."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import sparseae
from sparseae.cli import app
from sparseae.errors import RequestError
from sparseae.results.location import Location
from sparseae.results.lock import only_run

YAML = """\
# My question.
name: {name}
note: does it matter?
tags: [first, digits]
space: {{model: [dae, cae], activation: [relu], sigma2: [0, 0.25], dataset: [digits], seed: [0, 1]}}
training: {{epochs: 1, hidden_units: 8, samples: 100}}
"""


def command(*arguments, text=""):
    return CliRunner().invoke(app, list(map(str, arguments)), input=text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text(YAML.format(name=name))
        sparseae.run(folder / f"{name}.yaml", results=folder / "results", in_process=True)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def listed(folder):
    done = command("list", folder / "results", "--json")
    assert done.exit_code == 0
    return {one["place"].rsplit("/", 1)[1]: one for one in json.loads(done.stdout)}


def test_list_says_of_each_sweep_what_it_is(folder):
    one = listed(folder)["one"]
    assert (one["state"], one["trials"], one["finished"]) == ("finished", 8, 8)
    assert (one["note"], one["tags"]) == ("does it matter?", ["first", "digits"])
    assert one["checkpoints"] > 0
    assert one["verdicts"] == {}
    assert command("analyze", folder / "results" / "one").exit_code == 0
    assert sum(listed(folder)["one"]["verdicts"].values()) > 0
    table = command("list", folder / "results").stdout
    assert "one" in table
    assert "two" in table


def test_a_sweep_that_has_epochs_to_go_or_runs_now_says_so(folder):
    place = folder / "results" / "two"
    text = (place / "sweep.yaml").read_text()
    (place / "sweep.yaml").write_text(text.replace("epochs: 1", "epochs: 2"))
    assert listed(folder)["two"]["state"] == "unfinished"
    with only_run(Location.of(place), print):
        assert listed(folder)["two"]["state"] == "running"


def test_a_sweep_that_cannot_be_read_is_one_line_among_the_others(folder):
    (folder / "results" / "two" / "sweep.yaml").write_text("name: [")
    found = listed(folder)
    assert found["one"]["state"] == "finished"
    assert "sweep.yaml" in found["two"]["state"]


def test_clean_asks_and_leaves_the_results(folder):
    place = folder / "results" / "one"
    before = sparseae.load(place)
    (place / "epochs" / "_unreadable-part.parquet").write_bytes(b"x" * 10)
    (place / "units" / ".part.parquet.1234").write_bytes(b"x" * 10)
    refused = command("clean", place, text="n\n")
    assert refused.exit_code == 1
    assert (place / "checkpoints").exists()
    done = command("clean", place, text="y\n")
    assert done.exit_code == 0
    assert "freed" in done.stdout
    assert not (place / "checkpoints").exists()
    assert not list(place.glob("*/_unreadable*"))
    assert not list(place.glob("*/.part*"))
    assert sparseae.load(place).equals(before)
    assert "nothing to delete" in command("clean", place).stdout


def test_clean_refuses_what_is_no_sweep_or_runs_now(folder):
    assert isinstance(command("clean", folder).exception, RequestError)
    place = folder / "results" / "one"
    with only_run(Location.of(place), print):
        assert isinstance(command("clean", place, "--yes").exception, RequestError)
    assert (place / "checkpoints").exists()


def test_note_tags_and_the_file_as_it_was_written_are_kept(folder):
    place = folder / "results" / "one"
    assert (place / "sweep.source.yaml").read_text() == YAML.format(name="one")
    part = next((place / "epochs").glob("*.parquet"))
    metadata = pq.read_schema(part).metadata
    assert metadata[b"sparseae.note"] == b"does it matter?"
    assert json.loads(metadata[b"sparseae.tags"]) == ["first", "digits"]


def test_a_note_changes_no_trial_and_may_change(folder):
    text = YAML.format(name="one").replace("does it matter?", "it does")
    (folder / "one.yaml").write_text(text)
    done = sparseae.run(folder / "one.yaml", results=folder / "results", in_process=True)
    assert done.trained == 0
    assert listed(folder)["one"]["note"] == "it does"
