"""Each file of cluster/ against the schema of what reads it, and against its promises."""

import itertools
import json
import re

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import REPOSITORY

CLUSTER = REPOSITORY / "cluster"
LAUNCHED = ["gpu.yaml", "onprem.yaml", "gcp-gpu.yaml"]
EVERY = sorted(path.name for path in CLUSTER.iterdir() if path.suffix in (".yaml", ""))

#: What a credential looks like: AWS and Google keys, tokens of Ray, W&B and GitHub, private keys.
CREDENTIAL = re.compile(
    r"AKIA[0-9A-Z]{16}|aws_secret_access_key|BEGIN [A-Z ]*PRIVATE KEY|\"private_key\"|ghp_\w{20}"
    r"|(?i:RAY_AUTH_TOKEN|WANDB_API_KEY|password|secret)\s*[:=]\s*\S"
    r"|\b[0-9a-f]{32,}\b"
)


def read(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


def strings(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    else:
        yield str(value)


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name):
    config = prepare_config(read(name))
    validate_config(config)


def test_a_mistake_does_not_pass_ray_s_schema():
    config = read("gpu.yaml") | {"worker_count": 3}
    with pytest.raises(Exception, match="worker_count"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("name", EVERY)
def test_no_port_is_open_to_the_world_and_no_credential_is_kept(name):
    text = (CLUSTER / name).read_text()
    assert not CREDENTIAL.search(text)
    content = text
    if name.endswith(".yaml"):  # what comments say opens nothing
        content = "\n".join(s for part in yaml.safe_load_all(text) for s in strings(part))
    for world in ("0.0.0.0", "::/0", "LoadBalancer", "NodePort", "hostPort", "Ingress"):
        assert world not in content


def test_the_search_for_credentials_finds_one():
    assert CREDENTIAL.search("WANDB_API_KEY: abc")
    assert CREDENTIAL.search("RAY_AUTH_TOKEN=abc")
    assert CREDENTIAL.search("token: 0123456789abcdef0123456789abcdef")


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_token_is_asked_for_and_the_dashboard_stays_inside(name):
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any(
        "RAY_AUTH_MODE=token" in c and "> ~/sparseae/env" in c for c in config["setup_commands"]
    )
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "ray start" not in command or command.startswith(". ~/sparseae/env;")
    (head,) = (c for c in config["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in head


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp-gpu.yaml"])
def test_nothing_but_the_head_stays_when_nothing_runs(name):
    config = read(name)
    types = config["available_node_types"]
    assert types["gpu"]["min_workers"] == 0
    assert config["idle_timeout_minutes"] <= 10
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert "spot" in json.dumps(types["gpu"]).lower()


@pytest.mark.parametrize("name", EVERY)
def test_a_file_opens_with_what_it_starts_and_costs(name):
    lines = (CLUSTER / name).read_text().splitlines()
    opening = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    wanted = ["Starts:", "Costs", "Change:", "Needs:"] if name.endswith(".yaml") else ["build"]
    for word in wanted:
        assert word in opening


def test_what_is_sent_to_a_machine_is_there():
    for name in LAUNCHED:
        for local in read(name)["file_mounts"].values():
            assert local.startswith("~") or (REPOSITORY / local).exists()


def test_the_image_has_the_pinned_versions():
    pinned = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert f"torch=={pinned['torch']}" in (CLUSTER / "Dockerfile").read_text()
    rayjob = list(yaml.safe_load_all((CLUSTER / "kuberay-rayjob.yaml").read_text()))[-1]
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]


def test_the_sweep_in_the_manifest_is_a_valid_one():
    from sparseae.sweep.config import Sweep

    config_map = next(yaml.safe_load_all((CLUSTER / "kuberay-rayjob.yaml").read_text()))
    assert len(Sweep.load(yaml.safe_load(config_map["data"]["sweep.yaml"])).trials()) == 576


def test_paths_of_the_tests_are_the_files_of_the_folder():
    assert set(EVERY) == {*LAUNCHED, "kuberay-rayjob.yaml", "Dockerfile"}


#: What KubeRay's reference (docs.ray.io, "KubeRay CRD API reference") has of what the file uses.
KUBERAY = {
    "RayJob": {"apiVersion", "kind", "metadata", "spec"},
    "RayJobSpec": {
        "backoffLimit", "entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes",
        "submissionMode", "ttlSecondsAfterFinished",
    },
    "RayClusterSpec": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec",
        "rayVersion", "workerGroupSpecs",
    },
    "WorkerGroupSpec": {
        "groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template",
    },
}  # fmt: skip


def test_the_manifest_has_the_keys_of_kuberay_s_reference():
    rayjob = list(yaml.safe_load_all((CLUSTER / "kuberay-rayjob.yaml").read_text()))[-1]
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert rayjob["apiVersion"] == "ray.io/v1"
    for part, keys in [
        (rayjob, "RayJob"),
        (rayjob["spec"], "RayJobSpec"),
        (cluster, "RayClusterSpec"),
        *((group, "WorkerGroupSpec") for group in cluster["workerGroupSpecs"]),
    ]:
        assert set(part) <= KUBERAY[keys]
    assert cluster["authOptions"] == {"mode": "token"}
    assert rayjob["spec"]["shutdownAfterJobFinishes"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        # Ray's parameters are text, whatever they look like.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in group["template"]["spec"]["containers"]:
            assert {"name", "image", "resources"} <= set(container)
