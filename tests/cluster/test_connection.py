"""What one is told where there is no Ray: in one line, and soon."""

import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "tune_configs" / "quickstart.yaml"
PROGRAM = """
import sys
from sparseae.errors import RequestError
from sparseae.cluster import connection
connection._PATIENCE = float(sys.argv[2])
try:
    with connection.Connection(sys.argv[1] or None) as ray:
        ray.wait()
except RequestError as error:
    print(error)
    sys.exit(2)
"""


def connect(address: str, patience=60.0, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, address, str(patience)],
        capture_output=True, text=True, timeout=50, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    return done.stdout.removesuffix("\n")


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_listens(closed_port, scheme):
    address = f"{scheme}127.0.0.1:{closed_port}"
    assert connect(address) == f"no Ray at --address {address!r}: Connection refused"


def test_the_environments_address_is_named(closed_port):
    address = f"127.0.0.1:{closed_port}"
    assert (
        connect("", RAY_ADDRESS=address) == f"no Ray at RAY_ADDRESS {address!r}: Connection refused"
    )


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "http://127.0.0.1:8265"])
def test_what_is_no_address(address):
    said = connect(address)
    assert said == f"no Ray at --address {address!r}: must be HOST:6379, ray://HOST:10001 or auto"


def test_a_port_that_is_not_rays():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        said = connect(address, patience=0.5)
    assert said == f"no Ray at --address {address!r}: no answer in 0.5 s"


@pytest.mark.parametrize("value", ["abc", "1.5", "", "15 "])
def test_a_setting_at_which_ray_would_crash_is_one_line(tmp_path, value):
    environment = os.environ | {"RAY_worker_niceness": value, "RAY_own": "of ours"}
    done = subprocess.run(
        [sys.executable, "-m", "sparseae", "plan", QUICKSTART, "--address", "auto"],
        env=environment, capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"sparseae: RAY_worker_niceness={value!r}: Ray cannot read it")
    assert done.stderr.count("\n") == 1
