"""Ray's AWS provider with narrower rules, for ``cluster/gpu.yaml``. `ray up` and the head load it.

Ray's own provider opens SSH to the whole internet, lets the head use every bucket, gives the
workers no right to any, and takes no image by name. A group, a role or an image that it finds set
it leaves alone; so they are made here first.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import time
from typing import Any
from urllib.parse import urlsplit

import boto3
import click
from botocore.exceptions import BotoCoreError, ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

#: What the head needs to start and stop machines.
_EC2 = "arn:aws:iam::aws:policy/AmazonEC2FullAccess"

_OBJECT_ACTIONS = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")

_IMAGE_PREFIX = "resolve:ssm:"

_TAGS = [{"Key": "project", "Value": "sparseae"}]

#: What cluster/gpu.yaml has for ssh_from until it is filled in.
_EXAMPLE_RANGE = "203.0.113.0/32"

#: New roles and profiles are not at once known everywhere.
_PROPAGATION_SECONDS = 15


class Provider(AWSNodeProvider):
    """The node provider; see `bootstrap_config` for what it does differently.

    Keys of ``provider`` in the YAML beside those of Ray's own AWS provider:

        ssh_from: the range of addresses, as 203.0.113.7/32, that may reach port 22.
        results: ``s3://bucket/prefix``, where sweeps write; the machines may use this bucket only.
    """

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Make the security group and the roles, name the images, then do what Ray does.

        Raises:
            click.ClickException: in one line, where ``ssh_from`` or ``results`` is not filled in,
                or AWS refuses.
        """
        config = copy.deepcopy(cluster_config)
        provider = config["provider"]
        ssh_from, bucket = _range(provider.get("ssh_from")), _bucket(provider.get("results"))
        try:
            _make(config, ssh_from, bucket)
        except (BotoCoreError, ClientError) as error:
            raise click.ClickException(f"AWS: {error}") from None
        export = f"echo 'export SPARSEAE_RESULTS={provider['results']}' > ~/sparseae/results.env"
        config["head_setup_commands"] = [*config.get("head_setup_commands", []), export]
        return AWSNodeProvider.bootstrap_config(config)


def _make(config: dict[str, Any], ssh_from: str, bucket: str) -> None:
    """What the machines need, in the account and in their configurations."""
    name = config["cluster_name"]
    session = boto3.Session(region_name=config["provider"]["region"])
    group = _security_group(session, name, ssh_from)
    head, worker = _instance_profiles(session, name, bucket)
    running = _image_of_head(session, name)
    for key, kind in config["available_node_types"].items():
        node = kind["node_config"]
        node.setdefault("SecurityGroupIds", [group])
        profile = head if key == config["head_node_type"] else worker
        node.setdefault("IamInstanceProfile", {"Arn": profile})
        image = node.get("ImageId", "")
        # A newer image would have Ray replace the head that runs, and whatever it drives.
        newest = image.startswith(_IMAGE_PREFIX)
        node["ImageId"] = running if newest and running else _image(session, image)


def _range(value: object) -> str:
    try:
        network = ipaddress.ip_network(str(value))
    except ValueError as error:
        raise click.ClickException(
            f"provider.ssh_from: {value!r} is no range of addresses: {error}"
        ) from None
    if network.prefixlen == 0:
        raise click.ClickException(
            f"provider.ssh_from: {value} is the whole internet; name your own address"
        )
    if str(network) == _EXAMPLE_RANGE:
        raise click.ClickException(
            f"provider.ssh_from: {value} is the file's example; name your own address, as "
            "curl https://checkip.amazonaws.com prints it, with /32 behind it"
        )
    return str(network)


def _bucket(value: object) -> str:
    parts = urlsplit(str(value))
    if parts.scheme != "s3" or not parts.netloc or "CHANGE" in parts.netloc:
        raise click.ClickException(f"provider.results: must be s3://BUCKET/PREFIX, not {value!r}")
    return parts.netloc


def _security_group(session: Any, name: str, ssh_from: str) -> str:
    """The id of the cluster's group: SSH from one range, everything between its members."""
    ec2 = session.client("ec2")
    group_name = f"sparseae-{name}"
    vpcs = ec2.describe_vpcs(Filters=_filters({"is-default": "true"}))["Vpcs"]
    if not vpcs:
        raise click.ClickException(
            "the region has no default VPC: give SubnetIds and SecurityGroupIds"
        )
    vpc = vpcs[0]["VpcId"]
    found = ec2.describe_security_groups(
        Filters=_filters({"group-name": group_name, "vpc-id": vpc})
    )["SecurityGroups"]
    if found:
        group = found[0]["GroupId"]
        if rules := found[0]["IpPermissions"]:  # ssh_from may have changed since
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    else:
        group = ec2.create_security_group(
            GroupName=group_name,
            Description="sparseae: SSH from one range, everything between the machines",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": _TAGS}],
        )["GroupId"]
    ranges = {"IpRanges": [{"CidrIp": ssh_from}]}
    if ":" in ssh_from:
        ranges = {"Ipv6Ranges": [{"CidrIpv6": ssh_from}]}
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges},
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
        ],
    )
    return group


def _instance_profiles(session: Any, name: str, bucket: str) -> tuple[str, str]:
    """The ARNs of the head's and the workers' profiles.

    The workers may use one bucket and nothing else; the head may also start and end machines, and
    pass the workers' role on to them.
    """
    iam = session.client("iam")
    store = [
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
    worker = _role(iam, f"sparseae-{name}-worker", store)
    passing = {"Effect": "Allow", "Action": "iam:PassRole", "Resource": worker}
    head = f"sparseae-{name}-head"
    _role(iam, head, [*store, passing])
    iam.attach_role_policy(RoleName=head, PolicyArn=_EC2)
    made = [_profile(iam, role) for role in (head, f"sparseae-{name}-worker")]
    if any(new for _, new in made):
        time.sleep(_PROPAGATION_SECONDS)
    return made[0][0], made[1][0]


def _role(iam: Any, role: str, statements: list[dict[str, Any]]) -> str:
    """The ARN of a role of EC2 machines that may do this."""
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
    return arn


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


def _filters(wanted: dict[str, str]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": [value]} for name, value in wanted.items()]


def _image_of_head(session: Any, name: str) -> str:
    """The image of the cluster's head that runs; empty where none does."""
    head = {"tag:ray-cluster-name": name, "tag:ray-node-type": "head"}
    running = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    found = session.client("ec2").describe_instances(Filters=[*_filters(head), running])[
        "Reservations"
    ]
    return found[0]["Instances"][0]["ImageId"] if found else ""


def _image(session: Any, image: str) -> str:
    """An image's id; ``resolve:ssm:NAME`` is what AWS publishes under that name now.

    Resolved here and not on the head, whose role may not read parameters.
    """
    if not image.startswith(_IMAGE_PREFIX):
        return image
    name = image.removeprefix(_IMAGE_PREFIX)
    return session.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
