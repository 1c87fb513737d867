"""What is sent to a cluster and what is refused before; the rest is in tests/cluster."""

import http.server
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from sparseae.cluster import jobs
from sparseae.errors import RequestError
from sparseae.sweep.config import Sweep

SWEEP = {
    "name": "mine",
    "space": {"model": ["ae"], "activation": ["relu"], "sigma2": [0], "dataset": ["data/x.npy"]},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "x.npy", np.random.default_rng(0).normal(size=(20, 4)))
    return tmp_path


def test_a_user_s_own_file_travels_under_its_name(folder):
    sweep = Sweep.load(SWEEP)
    out = folder / "out"
    out.mkdir()
    jobs._collect(out, sweep.text(), jobs._own_files(sweep))
    assert (out / "data" / "x.npy").read_bytes() == (folder / "data" / "x.npy").read_bytes()
    assert Sweep.load(out / "sweep.yaml").trials() == sweep.trials()
    assert (out / "sparseae" / "__main__.py").exists()
    assert not list(out.rglob("*.pyc"))


def test_a_file_from_elsewhere_or_too_large_is_refused(folder, monkeypatch):
    elsewhere = SWEEP | {"space": SWEEP["space"] | {"dataset": [str(folder / "data" / "x.npy")]}}
    with pytest.raises(RequestError, match="not below this folder"):
        jobs._own_files(Sweep.load(elsewhere))
    monkeypatch.setattr(jobs, "_MOST_BYTES", 100)
    with pytest.raises(RequestError, match="too much to send"):
        jobs._own_files(Sweep.load(SWEEP))


@pytest.mark.parametrize("address", ["", "ray://host:10001", "ftp://host", "http://", "host:port"])
def test_an_address_that_is_none_is_refused(folder, address):
    with pytest.raises(RequestError, match="must be http://HOST:8265"):
        jobs.Jobs(address)


def test_what_is_no_dashboard_says_so(folder):
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(500)

        def log_message(self, format, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RequestError, match="is no Ray dashboard"):
            jobs.Jobs(f"127.0.0.1:{server.server_port}")
        server.shutdown()
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)


def test_who_imports_it_is_not_made_to_use_tokens():
    """Ray reads the mode once: what it starts in a process that turned it on later fails."""
    code = "import os, sparseae.cluster.jobs; print(os.environ.get('RAY_AUTH_MODE'))"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "None"


def test_names_are_not_taken_twice():
    assert jobs._free_name("mine", set()) == "mine-1"
    assert jobs._free_name("mine", {"mine-1", "mine-2"}) == "mine-3"


def test_a_tracker_is_one_of_those_there_are():
    assert Sweep.load(SWEEP_OF_DIGITS | {"watch": ["tensorboard"]}).watch == ("tensorboard",)
    with pytest.raises(RequestError, match=r"watch: must be .*'mlflow'.* not 'tensorbord'"):
        Sweep.load(SWEEP_OF_DIGITS | {"watch": ["tensorbord"]})


SWEEP_OF_DIGITS = SWEEP | {"space": SWEEP["space"] | {"dataset": ["digits"]}}
