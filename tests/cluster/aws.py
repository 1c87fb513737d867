"""An AWS account of a test: moto on loopback, and a machine that can reach nothing else."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import botocore.client
import pytest
import requests
import yaml
from ray.autoscaler._private.aws import utils

from tests.conftest import REPOSITORY

REGION = "us-west-2"
HOME_RANGE = "198.51.100.7/32"
IMAGE = {
    "ami_id": "ami-03cf127a", "name": "of a test", "description": "-", "owner_id": "801119661308",
    "public": True, "virtualization_type": "hvm", "architecture": "x86_64", "state": "available",
    "platform": None, "image_type": "machine", "hypervisor": "xen",
    "root_device_name": "/dev/sda1", "root_device_type": "ebs", "sriov": "simple",
    "creation_date": "2024-02-23T12:00:00.000Z",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Where moto answers for AWS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    images = tmp_path_factory.mktemp("moto") / "images.json"  # moto's own take seconds to load
    images.write_text(json.dumps([IMAGE]))
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ | {"MOTO_AMIS_PATH": str(images)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    stop = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < stop, "moto did not start"
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def account(server, tmp_path, monkeypatch):
    """An empty account, and a machine that can reach nothing but it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    ssh = tools / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/ssh.log\nexit 255\n')
    ssh.chmod(0o755)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of a test")
    for name, value in {
        "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path), "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.setup_default_session()
    # Ray keeps its clients; those of another module's account ask a server that has ended.
    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()
    requests.post(f"{server}/moto-api/reset", timeout=10).raise_for_status()
    return tmp_path


def filled_in(path: Path) -> dict:
    """The YAML as its reader fills it in, with an image that moto has."""
    text = (REPOSITORY / "cluster" / "gpu.yaml").read_text()
    text = text.replace("203.0.113.0/32", HOME_RANGE).replace("CHANGE-ME", "my-bucket")
    config = yaml.safe_load(text)
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/")
        kind["node_config"]["ImageId"] = IMAGE["ami_id"]
    path.write_text(yaml.safe_dump(config))
    return config


def rules(group: dict) -> list:
    return [
        (p["IpProtocol"], p.get("FromPort"), [r["CidrIp"] for r in p["IpRanges"]],
         [pair["GroupId"] for pair in p["UserIdGroupPairs"]])
        for p in group["IpPermissions"]
    ]  # fmt: skip


def listed(value) -> list:
    """A policy's one or many, as many."""
    return [value] if isinstance(value, str) else value


def rights_of(instance: dict) -> tuple[list[str], dict[str, str], str]:
    """Of a machine: the policies attached to its role, what it may do on what, the role's ARN."""
    iam = boto3.client("iam")
    name = instance["IamInstanceProfile"]["Arn"].rsplit("/", 1)[-1]
    (role,) = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
    attached = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName="sparseae")
    allowed = {
        action: statement["Resource"]
        for statement in document["PolicyDocument"]["Statement"]
        for action in listed(statement["Action"])
    }
    return [policy["PolicyName"] for policy in attached], allowed, role["Arn"]


def user_data(instance: dict) -> str:
    """What a machine runs at boot."""
    found = boto3.client("ec2").describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="userData"
    )
    return base64.b64decode(found["UserData"]["Value"]).decode()


@pytest.fixture
def calls(monkeypatch):
    """Every call to AWS from here on, as (service, operation, parameters)."""
    made = []
    send = botocore.client.BaseClient._make_api_call

    def told(self, operation, parameters):
        made.append((self.meta.service_model.service_name, operation, parameters))
        return send(self, operation, parameters)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", told)
    return made
