"""`ray up cluster/gcp-gpu.yaml` as far as it goes without Google Cloud.

Real: Google's own description of its API (the client library brings it), Ray's provider, the
client. Not real: the other end, which answers as the description says and keeps the machines.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import googleapiclient
import httplib2
import pytest
import yaml
from googleapiclient import discovery
from ray.autoscaler._private.gcp import node_provider
from ray.autoscaler._private.gcp.node import GCPCompute

from sparseae.cluster import gcp
from tests.conftest import REPOSITORY

DOCUMENTS = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
SCHEMAS = json.loads((DOCUMENTS / "compute.v1.json").read_text())["schemas"]


def filled_in() -> dict:
    text = (REPOSITORY / "cluster" / "gcp-gpu.yaml").read_text()
    return yaml.safe_load(text.replace("CHANGE-ME", "my-own"))


def problems(value, schema: dict, where: str):
    """Where a value is not as Google describes it."""
    schema = SCHEMAS[schema["$ref"]] if "$ref" in schema else schema
    kinds = {
        "object": dict, "array": list, "string": str, "boolean": bool,
        "integer": int, "number": (int, float), "any": object,
    }  # fmt: skip
    kind = schema.get("type", "object")
    if kind == "string" and schema.get("format") in ("int64", "uint64"):
        value = str(value)
    if not isinstance(value, kinds[kind]):
        yield f"{where}: {value!r} is no {kind}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    elif kind == "array":
        for i, inner in enumerate(value):
            yield from problems(inner, schema["items"], f"{where}[{i}]")
    elif kind == "object":
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        for key, inner in value.items():
            if key not in known and other is None:
                yield f"{where}.{key}: there is no such key"
            else:
                yield from problems(inner, known.get(key, other), f"{where}.{key}")


@pytest.mark.parametrize("name", ["head", "gpu"])
def test_a_machine_is_as_google_describes_one(name):
    node = filled_in()["available_node_types"][name]["node_config"]
    assert list(problems(node, {"$ref": "Instance"}, name)) == []


def test_the_description_finds_what_was_wrong():
    node = {"scheduling": [{"provisioningModel": "SPOT"}], "disks": [{"typ": "PERSISTENT"}]}
    assert len(list(problems(node, {"$ref": "Instance"}, "gpu"))) == 2
    spot = {"scheduling": {"provisioningModel": "CHEAP"}}
    assert "none of" in next(problems(spot, {"$ref": "Instance"}, "gpu"))


def test_a_gpu_machine_can_start_and_is_deleted_when_it_is_taken_back():
    config = filled_in()
    gpu = config["available_node_types"]["gpu"]["node_config"]
    assert gpu["machineType"].startswith("g2-")
    for disk in gpu["disks"]:  # pd-standard, the default, is not offered for G2
        kind = disk["initializeParams"]["diskType"]
        assert re.fullmatch(r"zones/[a-z0-9-]+/diskTypes/(pd-balanced|pd-ssd|hyperdisk.*)", kind)
        assert disk["autoDelete"]
    assert gpu["scheduling"]["provisioningModel"] == "SPOT"
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["scheduling"]["instanceTerminationAction"] == "DELETE"
        longest = kind["node_config"]["scheduling"]["maxRunDuration"]["seconds"]
        assert longest == 3600 * config["provider"]["max_hours"]


class Google:
    """An HTTP client that answers for Google Cloud."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.machines: dict[str, dict] = {}

    def request(self, uri, method="GET", body=None, headers=None, **options):
        path = uri.split("googleapis.com/")[1].partition("?")[0]
        self.asked.append((method, path))
        answer: dict = {"name": "operation", "status": "DONE"}
        if path.endswith("/projects/my-own") and "compute" not in path:
            answer = {"projectId": "my-own", "lifecycleState": "ACTIVE"}
        elif path.endswith("/instances"):
            if method == "POST":
                machine = json.loads(body)
                assert list(problems(machine, {"$ref": "Instance"}, "sent")) == []
                self.machines[machine["name"]] = machine | {"status": "RUNNING"}
            else:
                answer = {"items": list(self._listed(uri))}
        elif method == "DELETE":
            del self.machines[path.rsplit("/", 1)[-1]]
        else:
            assert "/operations/" in path or path.endswith("/projects/my-own"), path
        return httplib2.Response({"status": 200}), json.dumps(answer).encode()

    def _listed(self, uri):
        """As the filter wants: labels and states."""
        wanted = httplib2.urllib.parse.unquote_plus(uri.partition("filter=")[2].partition("&")[0])
        labels = dict(re.findall(r"labels\.([a-z-]+) = ([a-z-]+)", wanted))
        states = re.findall(r"status = ([A-Z]+)", wanted)
        for machine in self.machines.values():
            if labels.items() <= machine["labels"].items() and machine["status"] in states:
                yield machine


@pytest.fixture
def google(monkeypatch, tmp_path):
    answering = Google()

    def clients(provider):
        made = {
            name: discovery.build(name, "v1", http=answering, static_discovery=True)
            for name in ("cloudresourcemanager", "iam", "compute")
        }
        return *made.values(), None

    monkeypatch.setattr(gcp.ray_gcp, "construct_clients_from_provider_config", clients)
    monkeypatch.setattr(node_provider, "construct_clients_from_provider_config", clients)
    monkeypatch.setattr(GCPCompute, "get_new_authorized_http", lambda self, http: answering)
    key = tmp_path / "key"
    key.write_text("of a test")
    config = filled_in()
    config["auth"]["ssh_private_key"] = str(key)
    monkeypatch.setattr(gcp.ray_gcp, "_configure_key_pair", lambda config, compute: config)
    answering.config = config
    return answering


def test_nobody_gets_the_whole_project_and_every_machine_guards_itself(google):
    made = gcp.Provider.bootstrap_config(google.config)
    assert not [path for _, path in google.asked if "IamPolicy" in path or "/roles" in path]
    provider = gcp.Provider(made["provider"], "sparseae")
    for name, kind in made["available_node_types"].items():
        tags = {
            "ray-node-name": "ray-sparseae-x",
            "ray-node-type": "head" if name == "head" else "worker",
        }
        provider.create_node(kind["node_config"], tags, 1)
    scripts = {}
    for machine in google.machines.values():
        (script,) = (
            item["value"]
            for item in machine["metadata"]["items"]
            if item["key"] == "startup-script"
        )
        scripts[machine["labels"]["ray-node-type"]] = script
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
        # The names that the accounts' condition is about.
        assert machine["name"].startswith("ray-sparseae-")
    assert " 3600 604800 " in scripts["head"]
    assert " 1200 604800 " in scripts["worker"]
    assert "SPARSEAE_RESULTS=gs://my-own/sparseae" in made["head_setup_commands"][-1]


def test_ray_down_deletes_stopped_machines_too(google):
    made = gcp.Provider.bootstrap_config(google.config)
    provider = gcp.Provider(made["provider"], "sparseae")
    worker = made["available_node_types"]["gpu"]["node_config"]
    tags = {"ray-node-name": "ray-sparseae-worker", "ray-node-type": "worker"}
    provider.create_node(worker, tags, 3)
    first, second, _ = google.machines.values()
    first["status"], second["status"] = "TERMINATED", "SUSPENDED"
    assert len(provider.non_terminated_nodes({})) == 1
    while nodes := provider.nodes_for_teardown({"ray-node-type": "worker"}):  # as `ray down` does
        provider.terminate_nodes(nodes)
    assert google.machines == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["provider"].update(project_id="CHANGE-ME"), "project_id: must be"),
        (lambda c: c["provider"].update(results="gs://CHANGE-ME/x"), "results: must be gs://"),
        (lambda c: c["provider"].update(results="gs://me:hunter2@b/x"), "holds a key"),
        (lambda c: c["provider"].update(availability_zone="europe-west4-b"), "diskType: zones/us"),
        (lambda c: c["provider"].update(max_hours=-1), "max_hours: must be a number above 0"),
        (
            lambda c: c["available_node_types"]["gpu"]["node_config"].pop("serviceAccounts"),
            "gpu: serviceAccounts: must name",
        ),
    ],
)
def test_what_is_not_filled_in_is_refused_before_anything_is_asked(google, change, says):
    change(google.config)
    with pytest.raises(click.ClickException) as refused:
        gcp.Provider.bootstrap_config(google.config)
    assert says in refused.value.message
    assert "hunter2" not in refused.value.message
    assert "\n" not in refused.value.message
    assert google.asked == []


def test_a_machine_deletes_itself_with_its_own_token(tmp_path):
    """Against a stand-in curl, which answers for the machine's metadata and notes the rest."""
    (tmp_path / "curl").write_text(f"""#!/bin/sh
        for last; do :; done
        case $last in
            */token) echo '{{"access_token":"ya29.x-y_z","expires_in":3599}}' ;;
            */zone) echo projects/123/zones/us-central1-a ;;
            */name) echo ray-sparseae-worker-1 ;;
            *) printf '%s\\n' "$@" > {tmp_path}/asked ;;
        esac
    """)
    (tmp_path / "shutdown").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/shut\n')
    for tool in ("curl", "shutdown"):
        (tmp_path / tool).chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # Quoted once for the guard's argument, as in the boot script.
    command = f'set -- x {shlex.quote(gcp._END)}; sh -c "$2"'
    subprocess.run(["sh", "-c", command], env=os.environ | path, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-1] == (
        "https://compute.googleapis.com/compute/v1/projects/123/zones/us-central1-a/instances/"
        "ray-sparseae-worker-1"
    )
    assert "DELETE" in asked
    assert "Authorization: Bearer ya29.x-y_z" in asked
    assert (tmp_path / "shut").read_text() == "-h now\n"


def test_the_extra_brings_what_ray_imports():
    assert importlib.util.find_spec("google_auth_httplib2")
