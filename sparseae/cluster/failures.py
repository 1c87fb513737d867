"""Whose fault a failure is: the Tune trial's or the machine's. Pure; `sparseae.cluster.tune` asks.

A piece that failed on one node is next tried on others. If it gets on there, the first node is to
blame; if it fails there too, it is the piece. A node on which several different pieces have failed,
and nothing has got on since, gets no more work, and what failed there is charged to nobody.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection

#: How many different pieces must have failed on a node before it is set aside.
_SEVERAL = 2

#: How many nodes a piece may lose without progress: more, and it is the piece that ends them.
_MOST_LOST = 10


class Failures:
    """The failures of a sweep's pieces by node.

    Nodes are Ray's ids, pieces the indices of tasks.

    Args:
        allowed: failures of a piece, without progress between them, before it is given up.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        #: Where each piece has failed since it last got on.
        self._failed: dict[int, list[str]] = defaultdict(list)
        #: Pieces that failed on a node and got on elsewhere.
        self._blamed: dict[str, set[int]] = defaultdict(set)
        self._unusable: set[str] = set()
        self._lost: Counter[int] = Counter()

    def got_on(self, piece: int, node: str) -> None:
        """A piece trained an epoch further than ever before."""
        self._blamed.pop(node, None)
        self._lost.pop(piece, None)
        for other in set(self._failed.pop(piece, ())) - {node}:
            self._blamed[other].add(piece)

    def failed(self, piece: int, node: str) -> None:
        """A piece raised, was silent, or its worker died; not because its node was lost."""
        self._failed[piece].append(node)

    def lost(self, piece: int) -> None:
        """A piece went with its node, which is not its fault."""
        self._lost[piece] += 1

    def unusable(self, node: str) -> None:
        """A node says by itself that it can train nothing, or that it is about to leave."""
        self._unusable.add(node)

    def set_aside(self, up: Collection[str]) -> set[str]:
        """Nodes that get no more work; never all that are up.

        Args:
            up: nodes that could take a piece.
        """
        known = {*self._blamed, *(node for nodes in self._failed.values() for node in nodes)}
        bad = {node for node in known if len(self._evidence(node)) >= _SEVERAL} | self._unusable
        return bad & set(up) if set(up) - bad else set()

    def _evidence(self, node: str) -> set[int]:
        only_here = {piece for piece, nodes in self._failed.items() if set(nodes) == {node}}
        return only_here | self._blamed.get(node, set())

    def avoid(self, piece: int, up: Collection[str]) -> set[str]:
        """Nodes on which a piece is not to be tried next; never all that are up."""
        aside = self.set_aside(up)
        wary = aside | (set(self._failed.get(piece, ())) & set(up))
        return wary if set(up) - wary else aside

    def charged(self, piece: int, up: Collection[str]) -> int:
        """How many failures count against a piece: none on a node that is lost or set aside."""
        sound = set(up) - self.set_aside(up)
        return sum(node in sound for node in self._failed.get(piece, ()))

    def exhausted(self, piece: int, up: Collection[str]) -> bool:
        """Whether a piece is given up."""
        return self.charged(piece, up) > self.allowed or self._lost[piece] > _MOST_LOST
