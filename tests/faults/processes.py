"""Processes of this machine and clusters made of them, to be killed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

#: A dead node is noticed at once, not after half a minute; a slow one is given time.
QUICK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def processes() -> dict[int, tuple[int, str]]:
    """Every process: its parent and its command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if stat[0] != "Z":
            found[int(folder.name)] = (int(stat[1]), words)
    return found


def descendants(ancestor: int) -> dict[int, str]:
    """The living processes below one, with their command lines."""
    every = processes()
    below = {ancestor}
    while more := {pid for pid, (parent, _) in every.items() if parent in below} - below:
        below |= more
    return {pid: every[pid][1] for pid in below - {ancestor} if pid in every}


def kill(*pids: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def workers(raylets: list[int]) -> list[int]:
    """The processes that train under these raylets."""
    return [
        pid
        for raylet in raylets
        for pid, words in descendants(raylet).items()
        if words.startswith("ray::") and "Trainable" in words
    ]


class Nodes:
    """A head without CPUs, and nodes of one CPU that can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "_system_config": QUICK,
            },
        )
        self.grow(2)

    def grow(self, size: int) -> None:
        while len(self.cluster.worker_nodes) < size:
            self.cluster.add_node(num_cpus=1)

    def training(self) -> list[int]:
        """The processes that train."""
        return workers(self.raylets())

    def raylets(self) -> list[int]:
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes]
        return [node.all_processes["raylet"][0].process.pid for node in nodes]

    def lose(self, chance) -> None:
        """Kill all processes of a node that trains."""
        wait_for(self.training, "a worker")
        nodes = sorted(self.cluster.worker_nodes, key=lambda n: n.unique_id)
        busy = [n for n in nodes if workers([n.all_processes["raylet"][0].process.pid])]
        self.cluster.remove_node(chance.choice(busy or nodes), allow_graceful=False)

    def kill_worker(self, chance) -> None:
        if found := sorted(self.training()):
            kill(chance.choice(found))
