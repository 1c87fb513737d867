"""`ray up cluster/gpu.yaml` as far as it goes without AWS: against moto's server on loopback.

Not real: AWS itself. moto makes up public addresses for its instances, which Ray then tries by SSH;
a stand-in ssh, first on PATH, fails at once, so that no packet leaves this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import click
import pytest
import yaml

from sparseae.cluster import aws
from tests.cluster.aws import HOME_RANGE, REGION, filled_in, rights_of, rules, user_data
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


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

    # Its own shutdown, which the guard asks for, ends it for good.
    behaviour = ec2.describe_instance_attribute(
        InstanceId=head["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert " 3600 604800 " in user_data(head)

    policies, allowed, _ = rights_of(head)
    assert policies == []
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
    assert " 1200 604800 " in user_data(instance)
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


def test_ray_down_leaves_nothing_that_costs(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    made = aws.Provider.bootstrap_config(filled_in(account / "gpu.yaml"))
    provider = aws.Provider(made["provider"], "sparseae")
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    for kind, count in (("head", 1), ("worker", 2)):
        node = made["available_node_types"]["head" if kind == "head" else "gpu"]["node_config"]
        node = {k: v for k, v in node.items() if k != "InstanceMarketOptions"}
        provider.create_node(node, {"ray-node-type": kind}, count)
    stopped = provider.non_terminated_nodes({"ray-node-type": "worker"})[0]
    ec2.stop_instances(InstanceIds=[stopped])
    foreign = ec2.run_instances(
        ImageId=node["ImageId"], MinCount=1, MaxCount=1, InstanceType="m5.large"
    )["Instances"][0]["InstanceId"]  # fmt: skip
    assert stopped not in provider.non_terminated_nodes({})
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ray"), "down", "--yes", str(account / "gpu.yaml")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    alive = [
        instance["InstanceId"]
        for page in ec2.describe_instances()["Reservations"]
        for instance in page["Instances"]
        if instance["State"]["Name"] not in ("terminated", "shutting-down")
    ]
    assert alive == [foreign]
    names = [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]]
    assert not [name for name in names if "sparseae" in name]
    assert not iam.list_roles()["Roles"]
    assert not iam.list_instance_profiles()["InstanceProfiles"]
    volumes = {v["Attachments"][0]["InstanceId"] for v in ec2.describe_volumes()["Volumes"]}
    assert volumes <= {foreign}


def test_a_results_url_reaches_the_head_s_shell_as_it_is(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    config = filled_in(account / "gpu.yaml")
    url = "s3://my-bucket/a b?region=us-west-2&endpoint_override=$HOST'1"
    config["provider"]["results"] = url
    command = aws.Provider.bootstrap_config(config)["head_setup_commands"][-1]
    assert command.endswith(" > ~/sparseae/results.env")
    (account / "sparseae").mkdir()
    read = f'{command}; . ~/sparseae/results.env; printf %s "$SPARSEAE_RESULTS"'
    for shell in ("bash", "sh"):
        done = subprocess.run([shell, "-c", read], capture_output=True, text=True, check=True)
        assert done.stdout == url
    # As Ray sends it.
    sent = f"bash --login -c -i {shlex.quote(read)}"
    assert subprocess.run(["sh", "-c", sent], capture_output=True, text=True).stdout == url


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ssh_from", "0.0.0.0/0", "the whole internet"),
        ("ssh_from", "my house", "no range"),
        ("ssh_from", "203.0.113.0/32", "the file's example"),
        ("results", "s3://CHANGE-ME/sparseae", "must be s3://BUCKET/PREFIX"),
        ("results", "/tmp/results", "must be s3://BUCKET/PREFIX"),
        (
            "results",
            "s3://AKIA:se/cret@my-bucket/x",
            r"s3://...@my-bucket/x holds a key",
        ),
        ("idle_minutes", {"worker": 5}, "must be more than idle_timeout_minutes"),
        ("idle_minutes", {"workers": 9}, "must be as"),
        ("max_hours", 0, "provider.max_hours: must be a number above 0, not 0"),
    ],
)
def test_what_is_not_filled_in_is_refused_before_anything_is_made(account, key, value, says):
    config = filled_in(account / "gpu.yaml")
    config["provider"][key] = value
    with pytest.raises(click.ClickException, match=says):
        aws.Provider.bootstrap_config(config)
    assert not boto3.client("iam").list_roles()["Roles"]


def test_the_budget_of_the_docs_is_one_that_aws_takes(account):
    """The command's JSON, by AWS's own model of the call (botocore checks it) and moto."""
    text = (REPOSITORY / "docs" / "cluster.md").read_text()
    budget, told = (
        json.loads(re.search(rf"--{option} '(.*)'", text)[1])
        for option in ("budget", "notifications-with-subscribers")
    )
    budgets = boto3.client("budgets")
    budgets.create_budget(
        AccountId="123456789012", Budget=budget, NotificationsWithSubscribers=told
    )
    (made,) = budgets.describe_budgets(AccountId="123456789012")["Budgets"]
    assert made["BudgetName"] == "sparseae"
