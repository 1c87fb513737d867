"""What is made in an AWS account, and what the machines' roles may do; against moto."""

from __future__ import annotations

import fnmatch
import json

import boto3
import click
import pytest

from sparseae.cluster import aws
from tests.cluster.aws import REGION, filled_in, listed, rights_of

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(aws, "_PROPAGATION_SECONDS", 0)


def test_what_is_given_is_neither_made_nor_looked_for(account, calls):
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


def test_a_group_is_made_in_the_vpc_of_the_subnets(account):
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


def test_a_worker_s_given_profile_is_what_the_head_may_pass_on(account):
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
            any(fnmatch.fnmatchcase(action, a) for a in listed(statement["Action"]))
            and any(fnmatch.fnmatchcase(resource, r) for r in listed(statement["Resource"]))
            and all(context.get(k) in listed(v) for k, v in conditions["StringEquals"].items())
        ):
            return True
    return False


def test_the_head_may_do_what_its_autoscaler_does_and_touch_no_other_machine(account, calls):
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


def test_a_right_that_an_earlier_version_gave_is_taken_away(account):
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


def test_rules_are_added_before_others_go_and_the_right_ones_stay(account, calls):
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


def test_unfinished_uploads_are_dropped_by_the_bucket_which_keeps_its_own_rules(account):
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
