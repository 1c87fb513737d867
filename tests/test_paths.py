"""A key in a URL stands in no message."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparseae import paths


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
