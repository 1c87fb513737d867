"""Each file of cluster/ against the schema of what reads it, and against its promises."""

import importlib.util
import itertools
import json
import re
import subprocess

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sparseae.cluster.guard import boot_script
from tests.conftest import REPOSITORY

CLUSTER = REPOSITORY / "cluster"
LAUNCHED = ["gpu.yaml", "onprem.yaml", "gcp-gpu.yaml"]
EVERY = sorted(path.name for path in CLUSTER.iterdir() if path.suffix in (".yaml", ".sh", ""))

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
    lines = (CLUSTER / name).read_text().removeprefix("#!/usr/bin/env bash\n").splitlines()
    opening = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    wanted = ["build"] if name == "Dockerfile" else ["Starts:", "Costs", "Change:", "Needs:"]
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
    others = {"kuberay-rayjob.yaml", "sky.yaml", "slurm.sh", "Dockerfile"}
    assert set(EVERY) == {*LAUNCHED, *others}


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp-gpu.yaml", "sky.yaml", "slurm.sh"])
def test_what_costs_money_says_how_it_ends_by_itself(name):
    assert "# Ends by itself: " in (CLUSTER / name).read_text()


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp-gpu.yaml"])
def test_a_machine_of_a_cloud_ends_by_itself_and_for_good(name):
    """Without its head, its autoscaler and its owner; tests/cluster/test_guard.py shows how."""
    config = read(name)
    assert boot_script(config, "head") != boot_script(config, "worker")
    assert config["provider"]["module"].startswith("sparseae.cluster.")
    assert config["provider"]["cache_stopped_nodes"] is False
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        if name == "gpu.yaml":
            assert node["InstanceInitiatedShutdownBehavior"] == "terminate"
            assert all(d["Ebs"]["DeleteOnTermination"] for d in node["BlockDeviceMappings"])
        else:
            assert node["scheduling"]["instanceTerminationAction"] == "DELETE"


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_head_s_autoscaler_is_started_again(name):
    started, watched = read(name)["head_start_ray_commands"][-2:]
    assert "ray start --head" in started
    assert "sparseae.cluster.monitor" in watched


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp-gpu.yaml"])
@pytest.mark.parametrize("lacking", ["rsync", "python3"])
def test_a_missing_tool_is_installed(name, lacking, tmp_path):
    (command,) = read(name)["initialization_commands"]
    for tool in {"rsync", "python3"} - {lacking}:
        (tmp_path / tool).write_text("#!/bin/sh\n")
    (tmp_path / "sudo").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n')
    for tool in tmp_path.iterdir():
        tool.chmod(0o755)
    for shell in ("/bin/bash", "/bin/sh"):
        done = subprocess.run([shell, "-c", command], env={"PATH": str(tmp_path)}, check=True)
        assert done.returncode == 0
        assert "install -qq -y rsync python3-venv" in (tmp_path / "log").read_text()
        (tmp_path / "log").unlink()


def test_a_results_url_with_any_character_of_a_url_reaches_the_shell(tmp_path):
    url = "s3://bucket/x?region=eu-west-1&endpoint_override=localhost:9000&scheme=http"
    (command,) = read("onprem.yaml")["head_setup_commands"]
    command = command.replace("/shared/sparseae", url)
    (tmp_path / "sparseae").mkdir()
    done = subprocess.run(
        ["bash", "-c", f'{command}; . ~/sparseae/results.env; printf %s "$SPARSEAE_RESULTS"'],
        env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == url


def test_the_sweep_on_kubernetes_is_cut_for_all_its_cards():
    config_map, rayjob = yaml.safe_load_all((CLUSTER / "kuberay-rayjob.yaml").read_text())
    resources = yaml.safe_load(config_map["data"]["sweep.yaml"])["resources"]
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert resources["workers"] == group["maxReplicas"] / resources["gpu"]


#: What SkyPilot 0.14's reference (docs.skypilot.co, "Task YAML") has of what the file uses. Its own
#: validation (sky.Task.from_yaml) accepts the file; SkyPilot is no dependency of this project.
SKY = {"name", "resources", "envs", "workdir", "setup", "run"}
SKY_RESOURCES = {"accelerators", "cpus", "use_spot", "disk_size", "job_recovery"}


def test_the_file_for_skypilot_has_the_keys_of_its_reference():
    task = read("sky.yaml")
    assert set(task) <= SKY
    assert set(task["resources"]) <= SKY_RESOURCES
    assert task["resources"]["use_spot"]
    assert (REPOSITORY / task["envs"]["CONFIG"]).exists()
    if importlib.util.find_spec("sky"):
        import sky

        sky.Task.from_yaml(str(CLUSTER / "sky.yaml"))


def test_the_script_for_slurm_is_bash_and_may_be_queued_again():
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"], check=True)
    text = (CLUSTER / "slurm.sh").read_text()
    options = re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE)
    assert {"requeue", "open-mode=append", "signal=B:USR1@180"} <= set(options)
    # sbatch reads its options up to the first command.
    assert text.index("#SBATCH") < text.index("set -euo") > text.rindex("#SBATCH")


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
