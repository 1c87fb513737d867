"""Ray's Google Cloud provider with narrower rules, for ``cluster/gcp-gpu.yaml``.

Ray's own gives the head a service account that may administer every machine, bucket and account of
the project, leaves the end of a machine to the head alone, and does not see machines that are
stopped, whose disks go on costing.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click
from google.auth.exceptions import GoogleAuthError
from googleapiclient.errors import HttpError
from ray.autoscaler._private.gcp import config as ray_gcp
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

from sparseae import paths
from sparseae.cluster.guard import boot_script

#: A machine that only shuts down here is stopped, not gone: it deletes itself first.
_END = r"""
of() { curl -sf -H Metadata-Flavor:Google "http://metadata.google.internal/computeMetadata/v1/instance/$1"; }
token=$(of service-accounts/default/token | sed 's/.*"access_token" *: *"\([^"]*\)".*/\1/')
curl -sf -X DELETE -H "Authorization: Bearer $token" \
    "https://compute.googleapis.com/compute/v1/$(of zone)/instances/$(of name)"
shutdown -h now
"""  # noqa: E501


class Provider(GCPNodeProvider):
    """The node provider; see `bootstrap_config` for what it does differently.

    Keys of ``provider`` in the YAML beside those of Ray's own provider, and of
    `sparseae.cluster.guard`:

        results: ``gs://bucket/prefix``, where sweeps write.
    """

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Check the file, add the guard, then do what Ray does, its service account apart.

        Raises:
            click.ClickException: in one line, where something is not filled in, or Google refuses.
        """
        config = copy.deepcopy(cluster_config)
        provider = config["provider"]
        if problem := next(_problems(config), None):
            raise click.ClickException(problem)
        for key, kind in config["available_node_types"].items():
            role = "head" if key == config["head_node_type"] else "worker"
            items = kind["node_config"].setdefault("metadata", {}).setdefault("items", [])
            if not any(item["key"] == "startup-script" for item in items):
                script = boot_script(config, role, shlex.quote(_END))
                items.append({"key": "startup-script", "value": script})
        export = f"export SPARSEAE_RESULTS={shlex.quote(provider['results'])}"
        write = f"printf '%s\\n' {shlex.quote(export)} > ~/sparseae/results.env"
        config["head_setup_commands"] = [*config.get("head_setup_commands", []), write]
        config["head_node"] = {}
        try:
            crm, _, compute, _ = ray_gcp.construct_clients_from_provider_config(provider)
            config = ray_gcp._configure_project(config, crm)
            config = ray_gcp._configure_key_pair(config, compute)
            return ray_gcp._configure_subnet(config, compute)
        except (GoogleAuthError, HttpError) as error:
            raise click.ClickException(f"Google Cloud: {' '.join(str(error).split())}") from None

    def nodes_for_teardown(self, tag_filters: dict[str, str]) -> list[str]:
        """What `ray down` ends: also machines that are stopped, whose disks go on costing."""
        stopped = [
            instance["name"]
            for resource in self.resources.values()
            for instance in resource.list_instances(tag_filters, True)
        ]
        return [*self.non_terminated_nodes(tag_filters), *stopped]


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is not filled in, or does not agree."""
    provider = config["provider"]
    if "CHANGE" in str(provider.get("project_id", "CHANGE")):
        yield f"provider.project_id: must be your project's, not {provider.get('project_id')!r}"
    results = str(provider.get("results"))
    if paths.has_secret(results):
        yield f"provider.results: {paths.public(results)} holds a key; the account needs none"
    bucket = results.removeprefix("gs://").split("/")[0]
    if not results.startswith("gs://") or not bucket or "CHANGE" in bucket:
        yield f"provider.results: must be gs://BUCKET/PREFIX, not {provider.get('results')!r}"
    zone = f"zones/{provider['availability_zone']}/"
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        accounts = [account.get("email", "") for account in node.get("serviceAccounts", ())]
        if not accounts or any("CHANGE" in email for email in accounts):
            yield f"{name}: serviceAccounts: must name an account of yours (the file's Needs)"
        for disk in node.get("disks", ()):
            kind_of_disk = disk.get("initializeParams", {}).get("diskType", zone)
            if zone not in f"{kind_of_disk}":
                yield f"{name}: diskType: {kind_of_disk} is not in {provider['availability_zone']}"
