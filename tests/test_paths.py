"""A path or a URL that somebody names works as it stands, or is refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sparseae
from sparseae import data, paths
from sparseae.data import files
from sparseae.engine import library
from sparseae.errors import RequestError
from sparseae.results.location import Location, below
from sparseae.sweep.config import Sweep

WRONG = {
    "": "is empty",
    "  ": "is empty",
    "~alice/out": r"there is no user alice; a folder of that name is ./~alice/out",
    "~alice": "there is no user alice",
    "a\0b": "NUL",
    "s3:/bucket/x": r"lacks a slash; did you mean s3://bucket/x\?",
    "file:/tmp/x": "lacks a slash",
    "nonsense://x": "DIR: nonsense://x",
    None: "must be a path or a URL, not None",
    7: "not 7",
    b"out": "not b'out'",
}


@pytest.mark.parametrize("place", WRONG, ids=repr)
def test_what_is_no_place_is_refused_by_whoever_takes_one(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = {"name": "x", "space": {"model": "ae", "activation": "relu", "sigma2": 0,
                                    "dataset": "digits"}}  # fmt: skip
    with pytest.raises(RequestError, match=WRONG[place]) as caught:
        Location.of(place)
    assert str(caught.value).isprintable()
    with pytest.raises(RequestError):
        sparseae.run(sweep, results=place, in_process=True)
    with pytest.raises(RequestError):
        sparseae.load(place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["~alice/x.npy", "~alice", "~/x.npy"])
def test_a_data_set_of_nobody_is_one_line(name, monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(
        RequestError, match=r"there is no user alice|no home folder is known: set HOME"
    ):
        data.check(name)


def test_a_home_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", np.eye(4))
    assert data.shape("~/x.npy", samples=9) == (4, 4)
    assert Location.of("~").path == str(tmp_path)
    assert Location.of("~/a/../b").path == str(tmp_path / "b")
    config = tmp_path / "c.yaml"
    config.write_text("{name: x, space: {model: ae, activation: relu, sigma2: 0, dataset: digits}}")
    assert Sweep.load("~/c.yaml").name == "x"


def test_a_working_directory_that_is_gone_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(RequestError, match="the working directory cannot be used"):
        Location.of("results")
    assert str(Location.of(tmp_path / "results")) == str(tmp_path / "results")


@given(st.text(max_size=12) | st.text("/~.:$[]?#%& s3", max_size=8))
@example("//")
@example("//a")
def test_any_text_is_a_place_or_one_line(text):
    try:
        place = below(text, "n")
        location = Location.of(place)
    except RequestError as error:
        assert str(error)
        assert str(error).isprintable()
        return
    if not paths.is_url(text):
        assert os.path.isabs(location.path)
        assert location.name == "n"
        if not text.startswith("~"):
            # POSIX may give two slashes at the beginning a meaning of their own; here it is one's.
            there, expected = location.path, os.path.join(os.path.abspath(text), "n")
            assert there.lstrip("/") == expected.lstrip("/")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://KEY:hunter2@bucket/x", "s3://...@bucket/x"),
        ("s3://KEY:hun/ter2@bucket/x?region=eu", "s3://...@bucket/x?region=eu"),
        ("s3://KEY@bucket", "s3://...@bucket"),
        ("s3://b/x?secret_key=hunter2&scheme=http", "s3://b/x?secret_key=...&scheme=http"),
        ("abfs://box@account/x?sas_token=hunter2", "abfs://...@account/x?sas_token=..."),
    ],
)
def test_a_key_is_found_wherever_a_url_may_have_one(url, shown):
    assert paths.has_secret(url)
    assert paths.public(url) == shown
    assert paths.in_public(f"{url!r} and {url} no") == f"{shown!r} and {shown} no"


@pytest.mark.parametrize(
    "place", ["s3://bucket/a@b", "hdfs://host:9000/a@b", "/home/me@work/a:b", "gs://b/x?region=eu"]
)
def test_what_has_none_is_left_alone(place):
    assert not paths.has_secret(place)
    assert paths.public(place) == paths.in_public(place) == place


@pytest.mark.parametrize("words", [["analyze"], ["report"], ["run", "{config}", "--results"]])
def test_a_command_repeats_no_key(tmp_path, words):
    (tmp_path / "c.yaml").write_text(
        "name: x\nspace: {model: ae, activation: relu, sigma2: 0, dataset: digits}\n"
    )
    command = [Path(sys.executable).parent / "sparseae", *words, "s4://KEY:hunter2@bucket/x"]
    done = subprocess.run(
        [str(word).format(config="c.yaml") for word in command],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "s4://...@bucket" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_a_relative_cache_is_none_and_nothing_is_written_where_a_command_runs(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    wanted = Path.home() / ".cache" / "sparseae"
    assert files.cache("mnist") == wanted / "mnist"
    assert library._cache() == wanted
