"""Ray's AWS provider with narrower rules, for ``cluster/gpu.yaml``. `ray up` and the head load it.

Ray's own provider opens SSH to the whole internet, lets the head use the whole account, gives the
workers no right to any bucket, takes no image by name, and leaves the end of a machine to the head
alone. A group, a role or an image that it finds set it leaves alone; so they are made here first.
"""

from __future__ import annotations

import copy
import ipaddress
import shlex
import time
from typing import Any

import boto3
import click
from botocore.exceptions import BotoCoreError, ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

from sparseae import paths
from sparseae.cluster import aws_account as account
from sparseae.cluster.guard import boot_script

_IMAGE_PREFIX = "resolve:ssm:"

#: What cluster/gpu.yaml has for ssh_from until it is filled in.
_EXAMPLE_RANGE = "203.0.113.0/32"

#: New roles and profiles are not at once known everywhere.
_PROPAGATION_SECONDS = 15


class Provider(AWSNodeProvider):
    """The node provider; see `bootstrap_config` for what it does differently.

    Keys of ``provider`` in the YAML beside those of Ray's own AWS provider, and of
    `sparseae.cluster.guard`:

        ssh_from: the range of addresses, as 203.0.113.7/32, that may reach port 22.
        results: ``s3://bucket/prefix``, where sweeps write; the machines may use this bucket only.
    """

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Make what the machines lack, name the images, add the guard, then do what Ray does.

        What a node's configuration gives (SubnetIds, SecurityGroupIds, IamInstanceProfile, an
        image's id) is neither made nor looked for.

        Raises:
            click.ClickException: in one line, where ``ssh_from``, ``results`` or a time is not
                filled in, or AWS refuses.
        """
        config = copy.deepcopy(cluster_config)
        provider = config["provider"]
        ssh_from, bucket = _range(provider.get("ssh_from")), _bucket(provider.get("results"))
        for key, kind in config["available_node_types"].items():
            script = boot_script(config, "head" if key == config["head_node_type"] else "worker")
            kind["node_config"].setdefault("UserData", script)
            # What the guard's shutdown means; a stopped machine's disk would go on costing.
            kind["node_config"].setdefault("InstanceInitiatedShutdownBehavior", "terminate")
        try:
            _make(config, ssh_from, bucket)
        except (BotoCoreError, ClientError) as error:
            hint = ""
            if "AccessDenied" in str(error) or "UnauthorizedOperation" in str(error):
                hint = (
                    "; what somebody else has made can be given in node_config: SubnetIds, "
                    "SecurityGroupIds, IamInstanceProfile, an ImageId"
                )
            raise click.ClickException(f"AWS: {error}{hint}") from None
        export = f"export SPARSEAE_RESULTS={shlex.quote(provider['results'])}"
        write = f"printf '%s\\n' {shlex.quote(export)} > ~/sparseae/results.env"
        config["head_setup_commands"] = [*config.get("head_setup_commands", []), write]
        return AWSNodeProvider.bootstrap_config(config)

    def nodes_for_teardown(self, tag_filters: dict[str, str]) -> list[str]:
        """What `ray down` ends: also machines that are stopped, whose disks go on costing."""
        stopped = account.stopped_machines(self._session(), self.cluster_name, tag_filters)
        return [*self.non_terminated_nodes(tag_filters), *stopped]

    def cleanup_cluster_resources(self) -> None:
        """Delete the group and the roles that `bootstrap_config` made; called by `ray down`."""
        account.clean_up(self._session(), self.cluster_name)

    def _session(self) -> Any:
        return boto3.Session(region_name=self.provider_config["region"])


def _make(config: dict[str, Any], ssh_from: str, bucket: str) -> None:
    """What the machines lack, in the account and in their configurations."""
    name, head = config["cluster_name"], config["head_node_type"]
    session = boto3.Session(region_name=config["provider"]["region"])
    nodes = {key: kind["node_config"] for key, kind in config["available_node_types"].items()}
    groupless = [n for n in nodes.values() if not {"SecurityGroupIds", "NetworkInterfaces"} & {*n}]
    if groupless:
        vpc = account.vpc_of(session, list(nodes.values()))
        group = account.security_group(session, name, vpc, ssh_from)
        for node in groupless:
            node["SecurityGroupIds"] = [group]
    workers = [node for key, node in nodes.items() if key != head]
    if account.give_profiles(session, name, bucket, nodes[head], workers):
        time.sleep(_PROPAGATION_SECONDS)
    account.abort_unfinished_uploads(session, config["provider"]["results"])
    if any(node.get("ImageId", "").startswith(_IMAGE_PREFIX) for node in nodes.values()):
        # A newer image would have Ray replace the head that runs, and whatever it drives.
        running = account.image_of_head(session, name)
        for node in nodes.values():
            if (image := node.get("ImageId", "")).startswith(_IMAGE_PREFIX):
                node["ImageId"] = running or _image(session, image)


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
    """The bucket of a URL of results, which the head's files and every job's log will have."""
    url = str(value)
    if paths.has_secret(url):
        raise click.ClickException(
            f"provider.results: {paths.public(url)} holds a key; the role needs none"
        )
    bucket, _ = account.bucket_and_prefix(url)
    if not url.startswith("s3://") or not bucket or "CHANGE" in bucket:
        raise click.ClickException(f"provider.results: must be s3://BUCKET/PREFIX, not {value!r}")
    return bucket


def _image(session: Any, image: str) -> str:
    """An image's id; ``resolve:ssm:NAME`` is what AWS publishes under that name now.

    Resolved here and not on the head, whose role may not read parameters.
    """
    if not image.startswith(_IMAGE_PREFIX):
        return image
    name = image.removeprefix(_IMAGE_PREFIX)
    return session.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
