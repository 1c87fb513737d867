"""`ray up cluster/gpu.yaml` as far as it goes without AWS: against moto's server on loopback.

Not real: AWS itself. moto makes up public addresses for its instances, which Ray then tries by SSH;
a stand-in ssh, first on PATH, fails at once, so that no packet leaves this machine.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import botocore.client
import click
import pytest
import requests
import yaml

from sparseae.cluster import aws
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

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


def user_data(instance: dict) -> str:
    """What a machine runs at boot."""
    found = boto3.client("ec2").describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="userData"
    )
    return base64.b64decode(found["UserData"]["Value"]).decode()


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


def test_what_is_given_is_neither_made_nor_looked_for(account, monkeypatch, calls):
    """An account without a default VPC, a user without rights to IAM."""
    config = filled_in(account / "gpu.yaml")
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(
        VpcId=vpc, CidrBlock="10.1.0.0/24", AvailabilityZone=f"{REGION}a"
    )["Subnet"]["SubnetId"]  # fmt: skip
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    group = ec2.create_security_group(GroupName="ours", Description="-", VpcId=vpc)["GroupId"]
    profile = iam.create_instance_profile(InstanceProfileName="ours")["InstanceProfile"]["Arn"]
    given = {
        "SubnetIds": [subnet],
        "SecurityGroupIds": [group],
        "IamInstanceProfile": {"Arn": profile},
    }
    for kind in config["available_node_types"].values():
        kind["node_config"] |= given
    no_default_vpc(ec2)
    calls.clear()
    made = aws.Provider.bootstrap_config(config)
    for kind in made["available_node_types"].values():
        assert given.items() <= kind["node_config"].items()
    assert not [call for call in calls if call[0] == "iam"]
    assert not [call for call in calls if "SecurityGroup" in call[1] and "Describe" not in call[1]]


def no_default_vpc(ec2) -> None:
    for found in ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])[
        "Subnets"
    ]:
        ec2.delete_subnet(SubnetId=found["SubnetId"])
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    ec2.delete_vpc(VpcId=vpc["VpcId"])


def test_a_group_is_made_in_the_vpc_of_the_subnets(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    config = filled_in(account / "gpu.yaml")
    ec2 = boto3.client("ec2")
    no_default_vpc(ec2)
    with pytest.raises(click.ClickException, match="no default VPC: give SubnetIds"):
        aws.Provider.bootstrap_config(config)
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(
        VpcId=vpc, CidrBlock="10.1.0.0/24", AvailabilityZone=f"{REGION}a"
    )["Subnet"]["SubnetId"]  # fmt: skip
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    for kind in config["available_node_types"].values():
        kind["node_config"]["SubnetIds"] = [subnet]
    made = aws.Provider.bootstrap_config(config)["available_node_types"]
    groups = {g for kind in made.values() for g in kind["node_config"]["SecurityGroupIds"]}
    (group,) = ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    assert group["VpcId"] == vpc


def test_a_worker_s_given_profile_is_what_the_head_may_pass_on(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    iam = boto3.client("iam")
    role = iam.create_role(RoleName="ours", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.create_instance_profile(InstanceProfileName="ours")
    iam.add_role_to_instance_profile(InstanceProfileName="ours", RoleName="ours")
    config = filled_in(account / "gpu.yaml")
    worker = config["available_node_types"]["gpu"]["node_config"]
    worker["IamInstanceProfile"] = {"Name": "ours"}
    made = aws.Provider.bootstrap_config(config)["available_node_types"]
    assert made["gpu"]["node_config"]["IamInstanceProfile"] == {"Name": "ours"}
    _, allowed, _ = rights_of(made["head"]["node_config"])
    assert allowed["iam:PassRole"] == role
    names = {r["RoleName"] for r in iam.list_roles()["Roles"]}
    assert names == {"ours", "sparseae-sparseae-head"}


def permitted(statements: list[dict], action: str, resource: str, context: dict) -> bool:
    """Whether a policy of Allow and StringEquals alone lets an action through."""
    for statement in statements:
        assert set(statement) <= {"Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        conditions = statement.get("Condition", {"StringEquals": {}})
        assert set(conditions) == {"StringEquals"}
        if (
            any(fnmatch.fnmatchcase(action, a) for a in _listed(statement["Action"]))
            and any(fnmatch.fnmatchcase(resource, r) for r in _listed(statement["Resource"]))
            and all(context.get(k) in _listed(v) for k, v in conditions["StringEquals"].items())
        ):
            return True
    return False


def test_the_head_may_do_what_its_autoscaler_does_and_touch_no_other_machine(
    account, monkeypatch, calls
):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    made = aws.Provider.bootstrap_config(filled_in(account / "gpu.yaml"))
    head = made["available_node_types"]["head"]["node_config"]
    name = head["IamInstanceProfile"]["Arn"].rsplit("/", 1)[-1]
    document = boto3.client("iam").get_role_policy(RoleName=name, PolicyName="sparseae")
    statements = document["PolicyDocument"]["Statement"]
    worker = made["available_node_types"]["gpu"]["node_config"]
    role = rights_of(worker)[2]
    calls.clear()
    provider = aws.Provider(made["provider"], "sparseae")
    provider.create_node(worker, {"ray-node-type": "worker"}, 1)
    (node,) = provider.non_terminated_nodes({})
    provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    provider.terminate_nodes([node])
    ours = {"aws:ResourceTag/ray-cluster-name": "sparseae"}
    arn = "arn:aws:ec2:us-west-2:123456789012:instance/i-1"
    seen = set()
    for service, operation, parameters in list(calls):
        action, context = f"{service}:{operation}", dict(ours)
        seen.add(action)
        if operation == "RunInstances":
            context = {"ec2:InstanceType": parameters["InstanceType"]}
            for specification in parameters["TagSpecifications"]:
                if specification["ResourceType"] == "instance":
                    for tag in specification["Tags"]:
                        context[f"aws:RequestTag/{tag['Key']}"] = tag["Value"]
                kind = arn.replace("instance", specification["ResourceType"])
                marks = {"ec2:CreateAction": "RunInstances"}
                assert permitted(statements, "ec2:CreateTags", kind, marks)
            passing = {"iam:PassedToService": "ec2.amazonaws.com"}
            assert permitted(statements, "iam:PassRole", role, passing)
            assert not permitted(statements, "iam:PassRole", role.replace("worker", "x"), passing)
        assert permitted(statements, action, arn, context), action
    assert {"ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"} <= seen

    # Of another cluster, or of none, nothing may be ended, marked or started; nor a larger kind.
    for tags in ({}, {"aws:ResourceTag/ray-cluster-name": "another"}):
        for action in ("ec2:TerminateInstances", "ec2:CreateTags", "ec2:StopInstances"):
            assert not permitted(statements, action, arn, tags)
    kind = {"ec2:InstanceType": "g5.xlarge"}
    mark = {"aws:RequestTag/ray-cluster-name": "sparseae"}
    assert permitted(statements, "ec2:RunInstances", arn, kind | mark)
    assert not permitted(statements, "ec2:RunInstances", arn, kind)
    assert not permitted(statements, "ec2:RunInstances", arn, mark | {"ec2:InstanceType": "p5"})
    for action in (
        "ec2:DeleteVolume",
        "ec2:CreateSnapshot",
        "iam:CreateUser",
        "s3:ListAllMyBuckets",
    ):
        assert not permitted(statements, action, arn, ours | kind | mark)


def test_a_right_that_an_earlier_version_gave_is_taken_away(account, monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    config = filled_in(account / "gpu.yaml")
    aws.Provider.bootstrap_config(config)
    iam = boto3.client("iam")
    document = {"Statement": {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}}
    everything = iam.create_policy(
        PolicyName="AmazonEC2FullAccess",
        PolicyDocument=json.dumps({"Version": "2012-10-17"} | document),
    )["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="sparseae-sparseae-head", PolicyArn=everything)
    made = aws.Provider.bootstrap_config(config)
    assert rights_of(made["available_node_types"]["head"]["node_config"])[0] == []


def test_rules_are_added_before_others_go_and_the_right_ones_stay(account, monkeypatch, calls):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    config = filled_in(account / "gpu.yaml")
    aws.Provider.bootstrap_config(config)
    calls.clear()
    aws.Provider.bootstrap_config(config)
    changes = [o for _, o, _ in calls if "SecurityGroupIngress" in o]
    assert changes == []
    config["provider"]["ssh_from"] = "198.51.100.8/32"
    aws.Provider.bootstrap_config(config)
    changes = [(o, p["IpPermissions"]) for _, o, p in calls if "SecurityGroupIngress" in o]
    assert [o for o, _ in changes] == [
        "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"
    ]  # fmt: skip
    # The rule between the machines is not touched: they are never cut off from each other.
    assert "GroupId" not in json.dumps([rules for _, rules in changes])


def test_unfinished_uploads_are_dropped_by_the_bucket_which_keeps_its_own_rules(
    account, monkeypatch
):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)
    config = filled_in(account / "gpu.yaml")
    aws.Provider.bootstrap_config(config)  # no such bucket yet: no reason to stop
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="my-bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    old = {
        "ID": "old",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 9},
    }
    s3.put_bucket_lifecycle_configuration(
        Bucket="my-bucket", LifecycleConfiguration={"Rules": [old]}
    )
    for _ in range(2):
        aws.Provider.bootstrap_config(config)
        first, ours = s3.get_bucket_lifecycle_configuration(Bucket="my-bucket")["Rules"]
        assert (first["ID"], first["Expiration"]) == ("old", {"Days": 9})
        assert ours["Filter"] == {"Prefix": "sparseae/"}
        assert ours["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


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
