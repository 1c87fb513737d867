"""`ray up cluster/gpu.yaml` as far as it goes without AWS: against moto's server on loopback.

Not real: AWS itself. moto makes up public addresses for its instances, which Ray then tries by SSH;
a stand-in ssh, first on PATH, fails at once, so that no packet leaves this machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import click
import pytest
import requests
import yaml

from sparseae.cluster import aws
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

REGION = "us-west-2"
HOME_RANGE = "198.51.100.7/32"


@pytest.fixture(scope="module")
def server():
    """Where moto answers for AWS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
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
    requests.post(f"{server}/moto-api/reset", timeout=10).raise_for_status()
    return tmp_path


def filled_in(path: Path) -> dict:
    """The YAML as its reader fills it in, with an image that moto lists."""
    image = boto3.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = (REPOSITORY / "cluster" / "gpu.yaml").read_text()
    text = text.replace("203.0.113.0/32", HOME_RANGE).replace("CHANGE-ME", "my-bucket")
    config = yaml.safe_load(text)
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/")
        kind["node_config"]["ImageId"] = image
    path.write_text(yaml.safe_dump(config))
    return config


def rules(group: dict) -> list:
    return [
        (p["IpProtocol"], p.get("FromPort"), [r["CidrIp"] for r in p["IpRanges"]],
         [pair["GroupId"] for pair in p["UserIdGroupPairs"]])
        for p in group["IpPermissions"]
    ]  # fmt: skip


def _listed(value) -> list:
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
        for action in _listed(statement["Action"])
    }
    return [policy["PolicyName"] for policy in attached], allowed, role["Arn"]


def test_ray_up_makes_a_head_that_one_range_reaches(account):
    filled_in(account / "gpu.yaml")
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "ray"), "up", "--yes", "--no-config-cache",
         str(account / "gpu.yaml")],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        stop = time.monotonic() + 150
        while not (account / "ssh.log").exists():
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < stop
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    ec2 = boto3.client("ec2")
    (reservation,) = ec2.describe_instances()["Reservations"]
    (head,) = reservation["Instances"]
    tags = {tag["Key"]: tag["Value"] for tag in head["Tags"]}
    assert head["InstanceType"] == "m5.large"
    assert "InstanceLifecycle" not in head  # the head is no spot instance
    assert tags["project"] == "sparseae"
    assert tags["ray-node-type"] == "head"
    assert ec2.describe_key_pairs()["KeyPairs"][0]["KeyName"] == head["KeyName"]

    (attached,) = head["SecurityGroups"]
    groups = ec2.describe_security_groups()["SecurityGroups"]
    (group,) = (g for g in groups if g["GroupId"] == attached["GroupId"])
    assert sorted(rules(group)) == [
        ("-1", None, [], [group["GroupId"]]),
        ("tcp", 22, [HOME_RANGE], []),
    ]
    for other in groups:
        assert "0.0.0.0/0" not in json.dumps(other["IpPermissions"])

    policies, allowed, _ = rights_of(head)
    assert policies == ["AmazonEC2FullAccess"]
    assert allowed["s3:PutObject"] == "arn:aws:s3:::my-bucket/*"
    assert allowed["iam:PassRole"].endswith("role/sparseae-sparseae-worker")


def test_a_worker_is_a_spot_machine_with_a_gpu_and_the_same_rules(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    config = aws.Provider.fillout_available_node_types_resources(filled_in(account / "gpu.yaml"))
    worker = config["available_node_types"]["gpu"]["resources"]
    assert (worker["CPU"], worker["GPU"], worker["accelerator_type:A10G"]) == (4, 1, 1)
    made = aws.Provider.bootstrap_config(config)
    node = made["available_node_types"]["gpu"]["node_config"]
    aws.Provider(made["provider"], "sparseae").create_node(node, {"ray-node-type": "worker"}, 1)
    (reservation,) = boto3.client("ec2").describe_instances()["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["InstanceType"] == "g5.xlarge"
    assert instance["InstanceLifecycle"] == "spot"
    policies, allowed, role = rights_of(instance)
    assert policies == []
    assert {action.partition(":")[0] for action in allowed} == {"s3"}
    head = made["available_node_types"]["head"]["node_config"]
    assert rights_of(head)[1]["iam:PassRole"] == role
    assert {"Key": "project", "Value": "sparseae"} in instance["Tags"]
    assert "SPARSEAE_RESULTS=s3://my-bucket/sparseae" in made["head_setup_commands"][-1]


def test_once_more_changes_the_range_and_makes_nothing_twice(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    config = filled_in(account / "gpu.yaml")
    aws.Provider.bootstrap_config(config)
    config["provider"]["ssh_from"] = "2001:db8::1/128"
    aws.Provider.bootstrap_config(config)
    ec2 = boto3.client("ec2")
    groups = [
        g for g in ec2.describe_security_groups()["SecurityGroups"] if "sparseae" in g["GroupName"]
    ]
    (group,) = groups
    ranges = [r["CidrIpv6"] for p in group["IpPermissions"] for r in p["Ipv6Ranges"]]
    assert ranges == ["2001:db8::1/128"]
    assert HOME_RANGE not in json.dumps(group["IpPermissions"])


def test_the_image_of_a_head_that_runs_is_kept(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    made = aws.Provider.bootstrap_config(filled_in(account / "gpu.yaml"))
    head = made["available_node_types"]["head"]["node_config"]
    tags = {"ray-node-type": "head", "ray-cluster-name": "sparseae"}
    aws.Provider(made["provider"], "sparseae").create_node(head, tags, 1)
    newer = yaml.safe_load((account / "gpu.yaml").read_text())
    for kind in newer["available_node_types"].values():
        kind["node_config"]["ImageId"] = "resolve:ssm:/whatever/is/newest"
    again = aws.Provider.bootstrap_config(newer)["available_node_types"]
    assert {kind["node_config"]["ImageId"] for kind in again.values()} == {head["ImageId"]}


def test_an_image_is_found_by_the_name_that_aws_publishes(account):
    session = boto3.Session(region_name=REGION)
    name = "/aws/service/ami-amazon-linux-latest/amzn2-ami-hvm-x86_64-gp2"
    assert aws._image(session, f"resolve:ssm:{name}").startswith("ami-")
    assert aws._image(session, "ami-1") == "ami-1"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ssh_from", "0.0.0.0/0", "the whole internet"),
        ("ssh_from", "my house", "no range"),
        ("ssh_from", "203.0.113.0/32", "the file's example"),
        ("results", "s3://CHANGE-ME/sparseae", "must be s3://BUCKET/PREFIX"),
        ("results", "/tmp/results", "must be s3://BUCKET/PREFIX"),
    ],
)
def test_what_is_not_filled_in_is_refused_before_anything_is_made(account, key, value, says):
    config = filled_in(account / "gpu.yaml")
    config["provider"][key] = value
    with pytest.raises(click.ClickException, match=says):
        aws.Provider.bootstrap_config(config)
    assert not boto3.client("iam").list_roles()["Roles"]
