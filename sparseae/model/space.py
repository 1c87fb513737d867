"""The points of a search space: one or several blocks of axes, each a product, some axes paired.

Plain data as ``sweep.yaml`` has it, so that reading results needs no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: In a block, beside its axes: groups of axes that go through their values together.
ZIP = "zip"

#: Axis to values, and perhaps `ZIP`.
Block = Mapping[str, Any]


def blocks(configuration: Mapping[str, Any]) -> list[Block]:
    """The blocks of a checked configuration, each with the pairs that hold in it."""
    space = configuration.get("space", {})
    several = [space] if isinstance(space, Mapping) else space
    return [{ZIP: _groups(configuration, block)} | dict(block) for block in several]


def _groups(configuration: Mapping[str, Any], block: Block) -> list[Sequence[str]]:
    """The groups of the whole configuration that concern a block."""
    return [group for group in configuration.get(ZIP) or () if not {*group}.isdisjoint(block)]


def size(block: Block) -> int:
    """How many points a block has."""
    return math.prod(len(values) for _, values in dimensions(block))


def points(block: Block) -> Iterator[dict[str, Any]]:
    """Every point of a block as axis to value, the last axis fastest."""
    listed = list(dimensions(block))
    axes = [axis for group, _ in listed for axis in group]
    for point in itertools.product(*(values for _, values in listed)):
        yield dict(zip(axes, itertools.chain.from_iterable(point), strict=True))


def dimensions(block: Block) -> Iterator[tuple[Sequence[str], list[tuple]]]:
    """The axes that go together, mostly one alone, with their values together."""
    group_of = {axis: tuple(group) for group in block.get(ZIP, ()) for axis in group}
    for axis in axes_of(block):
        group = group_of.get(axis, (axis,))
        if group[0] == axis:
            yield group, list(zip(*(block[a] for a in group), strict=True))


def axes_of(block: Block) -> list[str]:
    """The axes of a block, in order."""
    return [axis for axis in block if axis != ZIP]


def every_value(
    several: Sequence[Block], training: Mapping[str, Any]
) -> dict[str, tuple[Any, ...]]:
    """Every axis of any block with all its values, those of blocks that leave it to ``training``
    among them."""
    axes = dict.fromkeys(axis for block in several for axis in axes_of(block))
    return {
        axis: tuple(
            dict.fromkeys(v for block in several for v in block.get(axis, (training.get(axis),)))
        )
        for axis in axes
    }


def narrowing(
    configuration: Mapping[str, Any], wanted: Mapping[str, Any], free: Sequence[str] = ()
) -> dict[str, Any]:
    """What to set in a configuration, so that it has only the trials with certain values.

    Args:
        configuration: checked, as plain data.
        wanted: axis or key of training to a value, or a list of them.
        free: axes that may keep all their values, where the space is one product.
    """
    several = blocks(configuration)
    axes = every_value(several, {})
    product = len(several) == 1 and not several[0][ZIP]
    keep = free if product else ()
    chosen = {a: wanted[a] for a in axes if a not in keep and not (product and len(axes[a]) == 1)}
    changes = {} if product else {f"space.{ZIP}": []}
    return changes | {f"space.{a}": v if isinstance(v, list) else [v] for a, v in chosen.items()}
