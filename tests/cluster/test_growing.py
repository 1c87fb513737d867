"""Sweeps on clusters that have no GPU yet: real Ray, a real autoscaler, pretended GPUs."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pyarrow.parquet as pq
import pytest
import yaml

from sparseae.results import load
from tests.cluster import machines as m
from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(m.missing() is not None, reason=f"no machines here: {m.missing()}"),
]

SWEEP = """
name: grown
space: {model: [dae, cae], activation: [relu], sigma2: [0, 0.25], dataset: [digits]}
training: {epochs: 2, hidden_units: 16, samples: 200}
"""

#: Ray's own autoscaler over machines that it makes up on this one.
GROWING = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": "fffffffffffffffffffffffffffffffffffffffffffffffffff00000",
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 2, "GPU": 1},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
}


class Alone:
    """A machine where Ray meets no other, and shell commands on it."""

    def __init__(self, machine: m.Machine) -> None:
        self.machine = machine
        self._words = ("bash", "-c", f"cd /srv; export PATH={REPOSITORY}/.venv/bin:$PATH; ")

    def do(self, command: str) -> str:
        done = self.machine.run(*self._words[:2], self._words[2] + command, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def begin(self, command: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.machine.command(*self._words[:2], self._words[2] + command),
            cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


@pytest.fixture
def alone(tmp_path):
    with m.machines(tmp_path, ["alone"]) as made:
        (tmp_path / "shared" / "sweep.yaml").write_text(SWEEP)
        yield Alone(made["alone"])


def monitors(alone: Alone) -> list[str]:
    """The processes of the autoscaler."""
    lines = alone.machine.run("ps", "axo", "pid,args").stdout.splitlines()
    return [line.split()[0] for line in lines if re.search("autoscaler/.*monitor.py", line)]


def test_auto_has_the_autoscaler_start_gpus(alone, tmp_path):
    node = GROWING["provider"]["head_node_id"]
    # Where `ray up` leaves it.
    (alone.machine.home / "ray_bootstrap_config.yaml").write_text(json.dumps(GROWING))
    alone.do(
        "export RAY_FAKE_CLUSTER=1 RAY_enable_autoscaler_v2=1 AUTOSCALER_UPDATE_INTERVAL_S=1 "
        f"RAY_CLOUD_INSTANCE_ID={node} RAY_OVERRIDE_NODE_ID_FOR_TESTING={node}; "
        "ray start --head --num-cpus=2 --autoscaling-config=~/ray_bootstrap_config.yaml"
    )
    plan = alone.do("sparseae plan sweep.yaml --address auto")
    assert "2 at once on 0 of 2 GPUs up" in " ".join(plan.split())
    said = alone.do("sparseae run sweep.yaml --address auto --results results")
    assert "no GPU is up yet" in said
    assert len(load(tmp_path / "shared" / "results" / "grown")) == 4 * 3
    assert "1.0 GPU" in alone.do("ray status") or "2.0 GPU" in alone.do("ray status")


def test_an_autoscaler_that_died_is_started_again_as_it_was(alone):
    """By the line that the clusters' files have, until the head's Ray ends."""
    alone.do("ray start --head --num-cpus=0 --include-dashboard=false")
    (line,) = (
        command
        for command in yaml.safe_load((REPOSITORY / "cluster" / "gpu.yaml").read_text())[
            "head_start_ray_commands"
        ]
        if "sparseae.cluster.monitor" in command
    )
    (alone.machine.home / "sparseae").mkdir()
    (alone.machine.home / "sparseae" / "env").touch()
    alone.do(line)
    first = monitors(alone)
    assert len(first) == 1
    lines = alone.machine.run("ps", "axo", "pid,args").stdout.splitlines()
    (first_command,) = (line.split()[1:] for line in lines if line.split()[0] == first[0])
    while "is watched" not in (alone.machine.home / "sparseae" / "monitor.log").read_text():
        time.sleep(0.1)
    alone.do(f"kill -9 {first[0]}")
    while not (second := monitors(alone)) or second == first:
        time.sleep(0.3)
    lines = alone.machine.run("ps", "axo", "pid,args").stdout.splitlines()
    (command,) = (line.split()[1:] for line in lines if line.split()[0] == second[0])
    assert command == first_command
    alone.do("ray stop")
    while "sparseae.cluster.monitor" in alone.machine.run("ps", "axo", "args").stdout:
        time.sleep(0.3)


def test_gpus_that_were_asked_for_are_waited_for_and_used_alone(alone, tmp_path):
    alone.do("ray start --head --num-cpus=2 --port=6379")
    run = alone.begin(
        "sparseae run sweep.yaml --address auto --results results --set resources.gpu=0.5"
    )
    while "'GPU': 0.5" not in alone.do("ray status"):  # what measures asks, as a Tune trial will
        assert run.poll() is None, run.communicate()[0]
        time.sleep(1)  # each question is a process of a second
    place = tmp_path / "shared" / "results" / "grown"
    assert not (place / "epochs").exists()
    assert "StackTrainable" not in alone.machine.run("ps", "ax").stdout
    alone.do("ray start --address=127.0.0.1:6379 --num-cpus=2 --num-gpus=1")
    said, _ = run.communicate(timeout=200)
    assert run.returncode == 0, said
    assert "no GPU is up yet" in said
    assert len(load(place)) == 4 * 3
    # The head has no card: one of the cluster's was asked, which here is none.
    assert [way for shape, way in routines_of(place).items() if shape.startswith("gpu ")] == [""]
    (one, *_) = (place / "epochs").glob("*.parquet")
    assert json.loads(pq.read_schema(one).metadata[b"sparseae.gemm"]) == routines_of(place)


def routines_of(place):
    return json.loads((place / "gemm.json").read_text())
