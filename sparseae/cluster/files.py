"""What a cluster's file (``cluster/*.yaml``) will start, and what an hour of it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparseae.cluster.placement import Cluster, nodes_of
from sparseae.errors import RequestError, nearest

#: Under ``provider``: dollars an hour of one machine of each kind.
PRICES = "usd_per_hour"

#: AWS's families of machines with NVIDIA's cards, by Ray's ``accelerator_type``.
_FAMILIES = {
    "g4dn": "T4", "g5": "A10G", "g6": "L4", "g6e": "L40S", "p3": "V100", "p3dn": "V100",
    "p4d": "A100", "p4de": "A100-80G", "p5": "H100", "p5e": "H200", "p5en": "H200",
}  # fmt: skip
#: Cards by size; of p machines, which are not listed, eight.
_CARDS = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8, "metal": 8}
_OTHER_CARDS = {"p3.2xlarge": 1, "p3.8xlarge": 4, "p5.4xlarge": 1}


@dataclass(frozen=True)
class Prices:
    """Dollars an hour, where the file says them.

    Attributes:
        head: of the head.
        machine: of a machine with GPUs, the dearest kind.
        cards: that it has.
    """

    head: float
    machine: float
    cards: float


def read(path: str) -> tuple[Cluster, Prices | None]:
    """The machines that a cluster's file may start beside its head, and their prices.

    Raises:
        RequestError: in one line, where the file is none, names a machine whose GPUs are not known,
            or prices a kind of machine that it does not have.
    """
    config = _mapping(path)
    kinds, head = config["available_node_types"], config.get("head_node_type")
    most = config.get("max_workers", 2)
    groups, cards = [], {}
    for name, kind in kinds.items():
        if name == head:
            continue
        resources = _resources(path, name, kind)
        groups.append((resources, max(0, min(kind.get("max_workers", most), most))))
        cards[name] = resources.get("GPU", 0.0)
    return Cluster((), nodes_of(groups)), _prices(path, config, cards, head)


def _mapping(path: str) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"--cluster {path}: cannot be read: {error}") from None
    if not isinstance(config, Mapping) or not isinstance(
        config.get("available_node_types"), Mapping
    ):
        raise RequestError(
            f"--cluster {path}: has no available_node_types; name a file for `ray up`, as "
            "cluster/gpu.yaml (of a cluster that is up: --address)"
        )
    return config


def _resources(path: str, name: str, kind: Mapping[str, Any]) -> dict[str, float]:
    """What Ray will count on a machine: as the file says it, or by AWS's name of the machine."""
    said = {key: float(value) for key, value in (kind.get("resources") or {}).items()}
    machine = (kind.get("node_config") or {}).get("InstanceType", "")
    family, _, size = machine.partition(".")
    found = re.fullmatch(r"(\d*)xlarge|metal", size)
    if "CPU" in said:
        return said
    if not found:
        raise RequestError(
            f"--cluster {path}: {name}: {machine or 'no InstanceType'} is no machine that is "
            "known here; say its resources, as {CPU: 4, GPU: 1, 'accelerator_type:A10G': 1}"
        )
    resources = {"CPU": 4.0 * int(found[1] or 1) if found[1] is not None else 96.0}
    if family in _FAMILIES:
        usual = 8 if family.startswith("p") else _CARDS.get(size, 1)
        resources["GPU"] = float(_OTHER_CARDS.get(machine, usual))
        resources[f"accelerator_type:{_FAMILIES[family]}"] = 1.0
    return resources | said


def _prices(
    path: str, config: Mapping[str, Any], cards: Mapping[str, float], head: str | None
) -> Prices | None:
    said = (config.get("provider") or {}).get(PRICES)
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise RequestError(f"--cluster {path}: provider.{PRICES}: must be as {{gpu: 0.5}}")
    for name, price in said.items():
        if name != head and name not in cards:
            raise RequestError(
                f"--cluster {path}: provider.{PRICES}.{name}: no such kind of machine; "
                + nearest(name, [*cards, *([head] if head else [])])
            )
        if isinstance(price, bool) or not isinstance(price, int | float) or not price >= 0:
            raise RequestError(
                f"--cluster {path}: provider.{PRICES}.{name}: {price!r} is no price, as 0.5"
            )
    with_gpu = [(said[name], count) for name, count in cards.items() if count and name in said]
    if not with_gpu:
        return None
    machine, count = max(with_gpu)
    return Prices(float(said.get(head, 0.0)), float(machine), count)
