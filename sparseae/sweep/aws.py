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
from botocore.exceptions import ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

#: What the head needs to start and stop machines.
_EC2 = "arn:aws:iam::aws:policy/AmazonEC2FullAccess"

_OBJECT_ACTIONS = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")

_IMAGE_PREFIX = "resolve:ssm:"

_TAGS = [{"Key": "project", "Value": "sparseae"}]

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
        """Make the security group and the role, name the images, then do what Ray does.

        Raises:
            ValueError: in one line, where ``ssh_from`` or ``results`` does not name one.
        """
        config = copy.deepcopy(cluster_config)
        provider, name = config["provider"], config["cluster_name"]
        ssh_from, bucket = _range(provider.get("ssh_from")), _bucket(provider.get("results"))
        session = boto3.Session(region_name=provider["region"])
        group = _security_group(session, name, ssh_from)
        profile = _instance_profile(session, name, bucket)
        for kind in config["available_node_types"].values():
            node = kind["node_config"]
            node.setdefault("SecurityGroupIds", [group])
            node.setdefault("IamInstanceProfile", {"Arn": profile})
            node["ImageId"] = _image(session, node.get("ImageId", ""))
        export = f"echo 'export SPARSEAE_RESULTS={provider['results']}' > ~/sparseae/results.env"
        config["head_setup_commands"] = [*config.get("head_setup_commands", []), export]
        return AWSNodeProvider.bootstrap_config(config)


def _range(value: object) -> str:
    try:
        network = ipaddress.ip_network(str(value))
    except ValueError as error:
        raise ValueError(
            f"provider.ssh_from: {value!r} is no range of addresses: {error}"
        ) from None
    if network.prefixlen == 0:
        raise ValueError(f"provider.ssh_from: {value} is the whole internet; name your own address")
    return str(network)


def _bucket(value: object) -> str:
    parts = urlsplit(str(value))
    if parts.scheme != "s3" or not parts.netloc or "CHANGE" in parts.netloc:
        raise ValueError(f"provider.results: must be s3://BUCKET/PREFIX, not {value!r}")
    return parts.netloc


def _security_group(session: Any, name: str, ssh_from: str) -> str:
    """The id of the cluster's group: SSH from one range, everything between its members."""
    ec2 = session.client("ec2")
    group_name = f"sparseae-{name}"
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise ValueError("the region has no default VPC: give SubnetIds and SecurityGroupIds")
    vpc = vpcs[0]["VpcId"]
    found = ec2.describe_security_groups(
        Filters=[
            {"Name": "group-name", "Values": [group_name]},
            {"Name": "vpc-id", "Values": [vpc]},
        ]
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


def _instance_profile(session: Any, name: str, bucket: str) -> str:
    """The ARN of the machines' profile: they start machines, and use one bucket."""
    iam = session.client("iam")
    role = f"sparseae-{name}"
    made = False
    try:
        arn = iam.get_role(RoleName=role)["Role"]["Arn"]
    except ClientError:
        trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}
        arn = iam.create_role(
            RoleName=role,
            AssumeRolePolicyDocument=_policy(trust | {"Action": "sts:AssumeRole"}),
            Tags=_TAGS,
        )["Role"]["Arn"]
        iam.attach_role_policy(RoleName=role, PolicyArn=_EC2)
        made = True
    # A worker's profile is passed on by the head, which therefore has to be allowed to.
    iam.put_role_policy(
        RoleName=role,
        PolicyName="sparseae",
        PolicyDocument=_policy(
            {"Effect": "Allow", "Action": "iam:PassRole", "Resource": arn},
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
        ),
    )
    try:
        profile = iam.get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
    except ClientError:
        profile = iam.create_instance_profile(InstanceProfileName=role)["InstanceProfile"]
        made = True
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        made = True
    if made:
        time.sleep(_PROPAGATION_SECONDS)
    return profile["Arn"]


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _image(session: Any, image: str) -> str:
    """An image's id; ``resolve:ssm:NAME`` is what AWS publishes under that name now.

    Resolved here and not on the head, whose role may not read parameters.
    """
    if not image.startswith(_IMAGE_PREFIX):
        return image
    name = image.removeprefix(_IMAGE_PREFIX)
    return session.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
