"""Where the Tune trials of a sweep go: on CPUs, or on GPUs, also on GPUs yet to come.

Pure: what a cluster has is told by `sparseae.cluster.tune`, and a test may tell anything.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparseae.errors import RequestError
from sparseae.sweep.cards import CARDS
from sparseae.sweep.config import Resources

#: Host memory of a Tune trial's process beside the stack: Python, torch, Ray; and with CUDA.
_PROCESS_BYTES, _CUDA_PROCESS_BYTES = 600 << 20, 1536 << 20

#: How much faster a card is taken to be than a CPU worker, where both can have a piece.
#: Assumed, not measured: it decides only which pieces CPUs take beside GPUs.
_GPU_SPEED = 32.0


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, up or to come."""

    cpus: float
    gpus: float = 0.0
    card: str | None = None  # Ray's accelerator_type
    #: Bytes that Ray lets its workers have; 0: it was not told. Every machine has its own.
    memory: float = field(default=0.0, compare=False)

    def trials(self, cpu: float, gpu: float) -> int:
        """How many Tune trials with these resources fit at once."""
        by_cpu = int(self.cpus / cpu)
        return min(by_cpu, int(self.gpus / gpu)) if gpu else by_cpu


@dataclass(frozen=True)
class Cluster:
    """A cluster as it is, and what its autoscaler may add; both may be empty.

    Attributes:
        local: Ray was started by this run, on this machine alone: nothing will ever be added.
    """

    up: tuple[Node, ...]
    to_come: tuple[Node, ...] = ()
    local: bool = False

    @property
    def every(self) -> tuple[Node, ...]:
        return self.up + self.to_come

    @property
    def gpus_up(self) -> float:
        return sum(node.gpus for node in self.up)


@dataclass(frozen=True)
class Placement:
    """What a Tune trial asks for, and how many run at once.

    Attributes:
        cpu: CPUs of a Tune trial.
        gpu: GPUs, or the share of one, of a Tune trial on a GPU; 0 where none is used.
        gpu_workers: Tune trials on GPUs at once, with those to come.
        cpu_workers: Tune trials without a GPU at once.
        card: Ray's name of the slowest kind of card; None where it is not known.
        waiting: GPUs are asked for and none is up.
        node_bytes: host memory of the largest node; 0 where it is not asked for, because some
            machine that could take a Tune trial does not tell how much it has.
    """

    cpu: float
    gpu: float
    gpu_workers: int
    cpu_workers: int
    card: str | None = None
    waiting: bool = False
    node_bytes: float = 0.0

    @property
    def workers(self) -> int:
        """For how many at once the work is cut: a CPU beside GPUs takes what is left."""
        return max(1, self.gpu_workers or self.cpu_workers)

    def request(self, on_gpu: bool, memory: int = 0) -> dict[str, float]:
        """What a Tune trial asks Ray for.

        Args:
            on_gpu: whether it goes on a GPU.
            memory: bytes of the host that its stack needs.
        """
        request = {"CPU": self.cpu}
        if on_gpu:
            request["GPU"] = self.gpu
        if self.node_bytes and memory:
            whole = memory + (_CUDA_PROCESS_BYTES if on_gpu else _PROCESS_BYTES)
            request["memory"] = min(_rounded(whole), math.floor(self.node_bytes))
        return request

    @property
    def wants(self) -> str:
        """What each asks for, for people."""
        gpu = f" and {self.gpu:.2g} GPU" if self.gpu_workers else ""
        return f"{self.cpu:g} CPU{gpu}"


def _rounded(size: int) -> int:
    """Up to the next power of the square root of 2: Tune reuses a worker for equal requests."""
    return math.ceil(2 ** (math.ceil(2 * math.log2(size)) / 2))


def place(wanted: Resources, cluster: Cluster) -> Placement:
    """Decide where Tune trials go.

    ``gpu: auto`` uses GPUs where the cluster has some or its autoscaler may add some, and beside
    them the CPUs of machines that are up and have no GPU. A number uses GPUs alone, and waits for
    them on a cluster that has none yet. 0 uses none.

    Raises:
        RequestError: where no machine, up or to come, can ever take a Tune trial.
    """
    cpu = wanted.cpu
    largest = max((node.cpus for node in cluster.every), default=0.0)
    place_word = "this machine" if cluster.local else "the largest machine"
    with_gpu = [node for node in cluster.every if node.gpus]
    # Machines that nobody but the user told of, as KubeRay's, may have as many CPUs as they like.
    asked = wanted.gpu not in ("auto", 0) and not with_gpu
    untold = (asked or wanted.workers != "auto") and not cluster.local
    if cpu > largest and not untold:
        hint = "" if largest else "; where machines are yet to come, give resources.gpu a number"
        hint += "" if largest else " and resources.workers"
        raise RequestError(f"resources.cpu: {cpu:g} asked for, {place_word} has {largest:g}{hint}")
    if wanted.gpu == 0 or (wanted.gpu == "auto" and not with_gpu):
        workers = sum(node.trials(cpu, 0) for node in cluster.up)
        later = sum(node.trials(cpu, 0) for node in cluster.to_come)
        foretold = _foretold(wanted, workers or later)
        return Placement(cpu, 0.0, 0, foretold, node_bytes=_told_memory(cluster))
    # Processes that share a card take turns: four took 18 minutes for what one did in 14.
    gpu = 1.0 if wanted.gpu == "auto" else float(wanted.gpu)
    if gpu > 1 and gpu != int(gpu):
        raise RequestError(f"resources.gpu: {gpu:g}: above 1 it must be a whole number")
    if with_gpu and gpu > max(node.gpus for node in with_gpu):
        most = max(node.gpus for node in with_gpu)
        raise RequestError(f"resources.gpu: {gpu:g} asked for, {place_word} has {most:g}")
    if not with_gpu and cluster.local:
        raise RequestError(f"resources.gpu: {gpu:g} asked for, this machine has none")
    return Placement(
        cpu=cpu,
        gpu=gpu,
        gpu_workers=_foretold(wanted, sum(node.trials(cpu, gpu) for node in with_gpu)),
        cpu_workers=0
        if wanted.gpu != "auto"
        else sum(node.trials(cpu, 0) for node in cluster.up if not node.gpus),
        card=_slowest(with_gpu),
        waiting=not cluster.gpus_up,
        node_bytes=_told_memory(cluster) if with_gpu else 0.0,
    )


def _slowest(nodes: Sequence[Node]) -> str | None:
    kinds = {node.card for node in nodes}
    known = [card for card in kinds if card in CARDS]
    return min(known, key=lambda c: CARDS[c].teraflops) if len(known) == len(kinds) > 0 else None


def _foretold(wanted: Resources, told: int) -> int:
    """How many Tune trials run at once: as the user says, or as the cluster tells."""
    return max(1, told) if wanted.workers == "auto" else int(wanted.workers)


def _told_memory(cluster: Cluster) -> float:
    """Host memory of the largest node; 0 where one that has CPUs does not tell its own."""
    told = [node.memory for node in cluster.every if node.cpus]
    return max(told) if told and all(told) else 0.0


class Dispatch:
    """Hands out pieces: GPUs take the longest that are left, CPUs beside them the shortest.

    A CPU takes a piece only if it will be done with it before the GPUs are with all the others, so
    that the sweep never waits for a CPU.

    Args:
        costs: work of each piece, the longest first, in any unit.
        placement: what runs at once.
    """

    def __init__(self, costs: Sequence[float], placement: Placement) -> None:
        self._costs = costs
        self._placement = placement
        self._front, self._back = 0, len(costs)
        self._running: dict[int, bool] = {}  # piece to whether it is on a GPU
        self._waiting_cost = float(sum(costs))
        self._again: deque[int] = deque()

    @property
    def finished(self) -> bool:
        """Whether every piece was handed out."""
        return self._front == self._back and not self._again

    @property
    def left(self) -> int:
        """How many pieces have not ended."""
        return self._back - self._front + len(self._again) + len(self._running)

    def again(self, piece: int) -> None:
        """A piece that has ended is to be handed out once more, before all others."""
        self._again.append(piece)

    def next(self) -> tuple[int, bool] | None:
        """A piece and whether it goes on a GPU; None: ask again when one is done."""
        p = self._placement
        if self.finished:
            return None
        if self._again:
            piece = self._again.popleft()
            self._running[piece] = p.gpu_workers > 0
            return piece, self._running[piece]
        if not p.gpu_workers:
            return self._take(self._front, on_gpu=False)
        if not p.cpu_workers:
            return self._take(self._front, on_gpu=True)
        on_gpu = sum(self._running.values())
        if on_gpu < p.gpu_workers:
            return self._take(self._front, on_gpu=True)
        shortest = self._costs[self._back - 1]
        rest = (self._waiting_cost - shortest) / (p.gpu_workers * _GPU_SPEED)
        if len(self._running) - on_gpu < p.cpu_workers and shortest <= rest:
            return self._take(self._back - 1, on_gpu=False)
        return None

    def done(self, piece: int) -> None:
        """A piece has ended, well or not."""
        self._running.pop(piece, None)

    def _take(self, piece: int, on_gpu: bool) -> tuple[int, bool]:
        if piece == self._front:
            self._front += 1
        else:
            self._back -= 1
        self._running[piece] = on_gpu
        self._waiting_cost -= self._costs[piece]
        return piece, on_gpu


def describe(placement: Placement, cluster: Cluster) -> str:
    """Where Tune trials go, for people."""
    p = placement
    if not p.gpu_workers:
        return f"{p.cpu_workers:,} at once on CPUs, {p.cpu:g} each"
    gpus = sum(node.gpus for node in cluster.every)
    up = f"{cluster.gpus_up:g} of {gpus:g} GPUs up" if cluster.to_come else f"{gpus:g} GPUs"
    each = "one each" if p.gpu == 1 else f"{p.gpu:.2g} each"
    text = f"{p.gpu_workers:,} at once on {up}, {each}"
    if not gpus:
        text = f"none yet: {p.gpu_workers:,} wait for a GPU, {each}"
    return text + (f"; beside them {p.cpu_workers:,} on CPUs" if p.cpu_workers else "")


def nodes_of(groups: Sequence[tuple[Mapping[str, float], int]]) -> tuple[Node, ...]:
    """Machines by their Ray resources, each kind so many times."""
    kind = "accelerator_type:"
    return tuple(
        Node(
            resources.get("CPU", 0.0),
            resources.get("GPU", 0.0),
            next((key.removeprefix(kind) for key in resources if key.startswith(kind)), None),
            resources.get("memory", 0.0),
        )
        for resources, count in groups
        for _ in range(count)
    )
