"""What one is told where there is no Ray: in one line, and soon."""

import os
import socket
import subprocess
import sys

import pytest

from sparseae import cluster
from sparseae.errors import RequestError
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "tune_configs" / "quickstart.yaml"
PROGRAM = """
import sys
from sparseae.errors import RequestError
from sparseae.cluster import connection
connection._PATIENCE = float(sys.argv[1])
for address in sys.argv[2:]:
    try:
        with connection.Connection(address or None) as ray:
            ray.wait()
    except RequestError as error:
        print(error)
"""


def connect(*addresses: str, patience=60.0, **environment: str) -> list[str]:
    """What is said of each, one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(patience), *addresses],
        capture_output=True, text=True, timeout=100, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_where_nothing_listens(closed_port):
    addresses = [f"{scheme}127.0.0.1:{closed_port}" for scheme in ("", "ray://")]
    said = [f"no Ray at --address {address!r}: Connection refused" for address in addresses]
    assert connect(*addresses) == said


def test_the_environments_address_is_named(closed_port):
    address = f"127.0.0.1:{closed_port}"
    said = connect("", RAY_ADDRESS=address)
    assert said == [f"no Ray at RAY_ADDRESS {address!r}: Connection refused"]


def test_what_is_no_address():
    addresses = ["nonsense", "127.0.0.1", "http://127.0.0.1:8265"]
    rule = "must be HOST:6379, ray://HOST:10001 or auto"
    said = [f"no Ray at --address {address!r}: {rule}" for address in addresses]
    assert connect(*addresses) == said


def test_a_port_that_is_not_rays():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        said = connect(address, patience=0.5)
    assert said == [f"no Ray at --address {address!r}: no answer in 0.5 s"]


@pytest.mark.parametrize("value", ["abc", "1.5", "", "15 "])
def test_a_setting_at_which_ray_would_crash_is_refused(monkeypatch, value):
    monkeypatch.setenv("RAY_worker_niceness", value)
    monkeypatch.setenv("RAY_own", "of ours")
    with pytest.raises(RequestError, match=f"^RAY_worker_niceness={value!r}: Ray cannot read it"):
        cluster._require_readable_settings()


def test_a_setting_at_which_ray_would_crash_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sparseae", "plan", QUICKSTART, "--address", "auto"],
        env=os.environ | {"RAY_worker_niceness": "abc"},
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("sparseae: RAY_worker_niceness='abc': Ray cannot read it")
    assert done.stderr.count("\n") == 1
