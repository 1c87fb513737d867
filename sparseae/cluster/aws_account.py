"""What `sparseae.cluster.aws` makes in an AWS account, looks up there, and deletes again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import click
from botocore.exceptions import BotoCoreError, ClientError

_logger = logging.getLogger(__name__)

_OBJECT_ACTIONS = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")

_TAGS = [{"Key": "project", "Value": "sparseae"}]

#: Ray's own, which it gives each machine.
_CLUSTER_TAG, _KIND_TAG = "ray-cluster-name", "ray-node-type"

#: What a machine is made of beside itself.
_PARTS = (
    "key-pair", "launch-template", "network-interface", "security-group", "spot-instances-request",
    "subnet", "volume",
)  # fmt: skip

_UNFINISHED_DAYS = 7


def vpc_of(session: Any, nodes: Sequence[Mapping[str, Any]]) -> str:
    """The VPC that the machines' subnets or groups are in; the default one where none is given."""
    ec2 = session.client("ec2")
    if subnets := sorted({s for node in nodes for s in node.get("SubnetIds", ())}):
        found = ec2.describe_subnets(SubnetIds=subnets)["Subnets"]
    elif groups := sorted({g for node in nodes for g in node.get("SecurityGroupIds", ())}):
        found = ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]
    else:
        found = ec2.describe_vpcs(Filters=_filters({"is-default": "true"}))["Vpcs"]
        if not found:
            raise click.ClickException(
                "the region has no default VPC: give SubnetIds in each node_config"
            )
    vpcs = sorted({part["VpcId"] for part in found})
    if len(vpcs) > 1:
        raise click.ClickException(f"SubnetIds: must be of one VPC, not of {', '.join(vpcs)}")
    return vpcs[0]


def security_group(session: Any, name: str, vpc: str, ssh_from: str) -> str:
    """The id of the cluster's group: SSH from one range, everything between its members."""
    ec2 = session.client("ec2")
    found = _groups(ec2, name, vpc)
    if found:
        group, rules = found[0]["GroupId"], found[0]["IpPermissions"]
    else:
        rules = []
        group = ec2.create_security_group(
            GroupName=f"sparseae-{name}",
            Description="sparseae: SSH from one range, everything between the machines",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": _TAGS}],
        )["GroupId"]
    ranges = {"IpRanges": [{"CidrIp": ssh_from}]}
    if ":" in ssh_from:
        ranges = {"Ipv6Ranges": [{"CidrIpv6": ssh_from}]}
    wanted = {
        "SSH": {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges},
        "each other": {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
    }
    there = [rule for rule in rules if any(_same(rule, one) for one in wanted.values())]
    missing = [one for one in wanted.values() if not any(_same(rule, one) for rule in there)]
    # In this order: at no moment are machines that run cut off from each other or from their owner.
    if missing:
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=missing)
    if stale := [rule for rule in rules if rule not in there]:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=stale)
    return group


def _same(rule: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a rule as AWS lists it admits what a wanted one does, and no more."""

    def sources(one: Mapping[str, Any]) -> list[str]:
        keys = {"IpRanges": "CidrIp", "Ipv6Ranges": "CidrIpv6", "UserIdGroupPairs": "GroupId"}
        listed = [source[key] for part, key in keys.items() for source in one.get(part, ())]
        return sorted([*listed, *(p["PrefixListId"] for p in one.get("PrefixListIds", ()))])

    ports = all(rule.get(key) == wanted.get(key) for key in ("IpProtocol", "FromPort", "ToPort"))
    return ports and sources(rule) == sources(wanted)


def _groups(ec2: Any, name: str, vpc: str | None = None) -> list[dict[str, Any]]:
    wanted = {"group-name": f"sparseae-{name}"} | ({"vpc-id": vpc} if vpc else {})
    return ec2.describe_security_groups(Filters=_filters(wanted))["SecurityGroups"]


def give_profiles(
    session: Any,
    name: str,
    bucket: str,
    head: dict[str, Any],
    workers: Sequence[dict[str, Any]],
) -> bool:
    """Give the machines that have no profile one of the cluster's; whether one is new.

    The workers may use one bucket and nothing else. The head may also start machines of its file's
    kinds for this cluster, end this cluster's machines, and pass the workers' role on to them.
    """
    lacking = [node for node in workers if "IamInstanceProfile" not in node]
    if not lacking and "IamInstanceProfile" in head:
        return False
    iam = session.client("iam")
    store = _may_use(bucket)
    given = [node["IamInstanceProfile"] for node in workers if "IamInstanceProfile" in node]
    passed = [] if "IamInstanceProfile" in head else _roles_of(iam, given)
    new = False
    if lacking:
        passed.append(_role(iam, f"sparseae-{name}-worker", store))
        arn, new = _profile(iam, f"sparseae-{name}-worker")
        for node in lacking:
            node["IamInstanceProfile"] = {"Arn": arn}
    if "IamInstanceProfile" not in head:
        role = f"sparseae-{name}-head"
        types = sorted({n["InstanceType"] for n in (head, *workers) if "InstanceType" in n})
        _role(iam, role, [*store, *_may_start_machines(name, types, passed)])
        arn, new_head = _profile(iam, role)
        head["IamInstanceProfile"] = {"Arn": arn}
        new = new or new_head
    return new


def _may_use(bucket: str) -> list[dict[str, Any]]:
    return [
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
            "Resource": f"arn:aws:s3:::{bucket}",
        },
        {
            "Effect": "Allow",
            "Action": [f"s3:{action}" for action in _OBJECT_ACTIONS],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        },
    ]


def _may_start_machines(name: str, types: list[str], roles: list[str]) -> list[dict[str, Any]]:
    """What Ray's autoscaler does on the head, for one cluster.

    Whoever may submit a job may do this too; so no machine of anything else in the account can be
    ended or marked, and none started that does not bear the cluster's name.
    """
    instance, volume = (f"arn:aws:ec2:*:*:{kind}/*" for kind in ("instance", "volume"))
    started = {f"aws:RequestTag/{_CLUSTER_TAG}": name} | (
        {"ec2:InstanceType": types} if types else {}
    )
    spot = "arn:aws:iam::*:role/aws-service-role/spot.amazonaws.com/*"
    statements: list[dict[str, Any]] = [
        {"Action": "ec2:Describe*", "Resource": "*"},
        {
            "Action": "ec2:RunInstances",
            "Resource": instance,
            "Condition": {"StringEquals": started},
        },
        {
            "Action": "ec2:RunInstances",
            "Resource": ["arn:aws:ec2:*::image/*", *(f"arn:aws:ec2:*:*:{p}/*" for p in _PARTS)],
        },
        {
            "Action": "ec2:CreateTags",
            "Resource": [instance, volume],
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {
            "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
            "Resource": instance,
            "Condition": {"StringEquals": {f"aws:ResourceTag/{_CLUSTER_TAG}": name}},
        },
        {  # AWS's own role, without which an account's first spot machine cannot start
            "Action": "iam:CreateServiceLinkedRole",
            "Resource": spot,
            "Condition": {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
        },
    ]
    if roles:
        to_machines = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
        statements.append(
            {
                "Action": "iam:PassRole",
                "Resource": roles if len(roles) > 1 else roles[0],
                "Condition": to_machines,
            }
        )
    return [{"Effect": "Allow", **statement} for statement in statements]


def _roles_of(iam: Any, profiles: Sequence[Mapping[str, str]]) -> list[str]:
    """The ARNs of the roles behind profiles that somebody gave."""
    names = {p.get("Name") or p["Arn"].rsplit("/", 1)[-1] for p in profiles}
    return [
        role["Arn"]
        for name in sorted(names)
        for role in iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
    ]


def _role(iam: Any, role: str, statements: list[dict[str, Any]]) -> str:
    """The ARN of a role of EC2 machines that may do this and nothing else."""
    try:
        arn = iam.get_role(RoleName=role)["Role"]["Arn"]
    except iam.exceptions.NoSuchEntityException:
        trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}
        arn = iam.create_role(
            RoleName=role,
            AssumeRolePolicyDocument=_policy(trust | {"Action": "sts:AssumeRole"}),
            Tags=_TAGS,
        )["Role"]["Arn"]
    iam.put_role_policy(RoleName=role, PolicyName="sparseae", PolicyDocument=_policy(*statements))
    _detach(iam, role)  # what an earlier version gave
    return arn


def _detach(iam: Any, role: str) -> None:
    for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=role, PolicyArn=policy["PolicyArn"])


def _profile(iam: Any, role: str) -> tuple[str, bool]:
    """The ARN of the profile that hands a role to machines, and whether it is new."""
    try:
        profile = iam.get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        profile = iam.create_instance_profile(InstanceProfileName=role)["InstanceProfile"]
    if profile["Roles"]:
        return profile["Arn"], False
    iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
    return profile["Arn"], True


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _filters(wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": [value]} for name, value in wanted.items()]


def _machines(session: Any, name: str, states: list[str], tags: Mapping[str, str]) -> list[dict]:
    wanted = {f"tag:{key}": value for key, value in {_CLUSTER_TAG: name, **tags}.items()}
    state = {"Name": "instance-state-name", "Values": states}
    pages = session.client("ec2").get_paginator("describe_instances")
    return [
        machine
        for page in pages.paginate(Filters=[*_filters(wanted), state])
        for reservation in page["Reservations"]
        for machine in reservation["Instances"]
    ]


def stopped_machines(session: Any, name: str, tags: Mapping[str, str]) -> list[str]:
    """The ids of a cluster's machines that somebody or something has stopped."""
    return [m["InstanceId"] for m in _machines(session, name, ["stopping", "stopped"], tags)]


def image_of_head(session: Any, name: str) -> str:
    """The image of the cluster's head that runs; empty where none does."""
    running = _machines(session, name, ["pending", "running"], {_KIND_TAG: "head"})
    return running[0]["ImageId"] if running else ""


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Of ``s3://bucket/prefix``."""
    parts = urlsplit(url)
    return parts.netloc, parts.path.strip("/")


def abort_unfinished_uploads(session: Any, results: str) -> None:
    """Have the bucket drop uploads that a lost machine did not finish: unseen, they cost for ever.

    A rule for the results' prefix is added to those that the bucket has, unless one of them does
    so; where that is not allowed, it is said and the rest goes on.
    """
    bucket, prefix = bucket_and_prefix(results)
    s3 = session.client("s3")
    try:
        try:
            rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                raise
            rules = []
        if any("AbortIncompleteMultipartUpload" in rule for rule in rules):
            return
        ours = {
            "ID": "sparseae-unfinished-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{prefix}/" if prefix else ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _UNFINISHED_DAYS},
        }
        s3.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": [*rules, ours]}
        )
    except (BotoCoreError, ClientError) as error:
        _logger.warning(f"{bucket}: no rule against unfinished uploads could be added: {error}")


def clean_up(session: Any, name: str) -> None:
    """Delete the group, the roles and the profiles that were made for a cluster."""
    ec2, iam = session.client("ec2"), session.client("iam")
    if ending := _machines(session, name, ["shutting-down"], {}):
        ids = [machine["InstanceId"] for machine in ending]
        ec2.get_waiter("instance_terminated").wait(InstanceIds=ids)  # they hold the group
    for group in _groups(ec2, name):
        ec2.delete_security_group(GroupId=group["GroupId"])
    for role in (f"sparseae-{name}-head", f"sparseae-{name}-worker"):
        try:
            iam.remove_role_from_instance_profile(InstanceProfileName=role, RoleName=role)
            iam.delete_instance_profile(InstanceProfileName=role)
            _detach(iam, role)
            iam.delete_role_policy(RoleName=role, PolicyName="sparseae")
            iam.delete_role(RoleName=role)
        except iam.exceptions.NoSuchEntityException:
            continue
