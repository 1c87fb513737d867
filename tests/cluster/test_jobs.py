"""What is sent to a cluster and what is refused before; the rest is in tests/cluster."""

import http.server
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import requests
from ray.job_submission import JobDetails, JobStatus

from sparseae.cluster import jobs
from sparseae.errors import RequestError
from sparseae.sweep.config import Sweep
from tests.conftest import REPOSITORY

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


@pytest.mark.parametrize(
    "address", ["http://10.0.0.5:8265", "head:8265", "http://127.0.0.1.example"]
)
def test_the_token_goes_unencrypted_over_this_machine_alone(folder, monkeypatch, address):
    sent = []
    monkeypatch.setattr("requests.sessions.Session.send", lambda *a, **k: sent.append(a))
    monkeypatch.setattr("requests.request", lambda *a, **k: sent.append(a))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(RequestError, match="unencrypted") as refused:
        jobs.Jobs(address)
    assert "\n" not in str(refused.value)
    assert not sent


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:8265", "localhost:8265", "http://[::1]:8265", "https://ray.example.org"],
)
def test_it_goes_over_loopback_and_over_tls(monkeypatch, address):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert jobs._url(address).endswith(address)


def test_a_cluster_without_a_token_may_be_anywhere(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert jobs._url("http://10.0.0.5:8265") == "http://10.0.0.5:8265"


def test_no_proxy_is_sent_what_is_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("no_proxy", "example.org")
    url = jobs._url("127.0.0.1:8265")
    assert requests.utils.get_environ_proxies(url) == {}
    assert requests.utils.get_environ_proxies("http://example.com")


def test_a_key_in_the_address_is_refused_and_not_repeated(folder):
    with pytest.raises(RequestError) as refused:
        jobs.Jobs("https://me:hunter2@ray.example.org")
    assert "hunter2" not in str(refused.value)


class Cluster:
    """What Ray's client is asked and answers, without a cluster; jobs are as they were sent."""

    def __init__(self, address):
        self.sent = []

    def list_jobs(self):
        return [self.get_job_info(one["submission_id"]) for one in self.sent]

    def submit_job(self, **request):
        files = Path(request["runtime_env"]["working_dir"]).rglob("*")
        self.sent.append(request | {"files": {path.name for path in files}})

    def get_job_info(self, name):
        (one,) = (one for one in self.sent if one["submission_id"] == name)
        return JobDetails(
            type="SUBMISSION",
            submission_id=name,
            entrypoint=one["entrypoint"],
            status=JobStatus.RUNNING,
            metadata=one["metadata"],
        )


@pytest.fixture
def there(folder, monkeypatch):
    """A cluster's jobs, and somebody at a machine who submits."""
    monkeypatch.setattr(jobs, "JobSubmissionClient", Cluster)
    monkeypatch.setattr("socket.gethostname", lambda: "laptop")
    monkeypatch.setenv("LOGNAME", "anna")
    return jobs.Jobs("127.0.0.1:8265")


@pytest.mark.parametrize(
    "url",
    ["s3://AKIA1:hunter2@bucket/x", "s3://AKIA1:hun/ter2@bucket", "s3://b/x?secret_key=hunter2"],
)
def test_a_key_in_the_results_url_is_sent_nowhere(there, url):
    with pytest.raises(RequestError, match="holds a key") as refused:
        there.submit(Sweep.load(SWEEP_OF_DIGITS), url)
    assert there._client.sent == []
    assert "ter2" not in str(refused.value)


def test_who_submitted_it_is_known_and_another_s_run_is_not_to_be_stopped(there, monkeypatch):
    sweep = Sweep.load(SWEEP_OF_DIGITS)
    job, _ = there.submit(sweep)
    assert job.owner == "anna@laptop"
    other = Sweep.load(SWEEP_OF_DIGITS | {"training": {"epochs": 3}})
    with pytest.raises(RequestError, match="first: sparseae stop mine-1"):
        there.submit(other)
    monkeypatch.setenv("LOGNAME", "ben")
    assert there.submit(sweep) == (job, True)
    for request in ((other,), (sweep, "s3://elsewhere/x"), (sweep, None, True)):
        with pytest.raises(RequestError, match=r"runs as mine-1, of anna@laptop,") as refused:
            there.submit(*request)
        assert "stop" not in str(refused.value)
        assert "--set name=NAME" in str(refused.value)


def test_a_job_runs_with_the_python_of_its_machine_s_ray(there, tmp_path):
    """Whatever is on PATH there: the raylet above it tells which Python its workers have."""
    there.submit(Sweep.load(SWEEP_OF_DIGITS))
    (sent,) = there._client.sent
    assert {"launch.sh", "sweep.yaml", "__main__.py"} <= sent["files"]
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    (nowhere / "python").write_text("#!/bin/sh\necho the wrong one; exit 1\n")
    (nowhere / "python").chmod(0o755)
    spaced = tmp_path / "with space" / "python"
    spaced.parent.mkdir()
    for python, quoted in ((sys.executable, sys.executable), (spaced, f'"{spaced}"')):
        if python == spaced:
            spaced.symlink_to("/bin/echo")
        # A raylet, a worker of it, and what the worker runs.
        option = f"--python_worker_command={quoted} default_worker.py"
        worker = f"sh -c '{sent['entrypoint'].replace('run sweep.yaml', '--help')}; true'; true"
        done = subprocess.run(
            ["bash", "-c", f"sh -c {shlex.quote(worker + '; true')} {shlex.quote(option)}; true"],
            cwd=REPOSITORY / "sparseae" / "cluster",
            env=os.environ
            | {"PATH": f"{nowhere}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert "the wrong one" not in done.stdout
        assert ("-m sparseae --help" if python == spaced else "Usage") in done.stdout, done


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
