"""The search space of a configuration: its blocks and pairs checked, or refused in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparseae.errors import RequestError, shown
from sparseae.model.space import ZIP, blocks, dimensions, every_value
from sparseae.model.trial import AXES, DEFAULTS, TRAINING_TYPES
from sparseae.sweep.checks import (
    VALUES,
    given,
    list_of,
    mapping,
    refusing,
    require_known,
    training_of,
    value_of,
)

#: The paper's values of sigma2 (section 3).
PAPER_SIGMA2 = (0.0, 0.001, 0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 0.64, 0.81, 1.0)

#: Axes to values, and perhaps pairs.
Block = dict[str, tuple[Any, ...]]

Pairs = tuple[tuple[str, ...], ...]


def values_of(
    raw: Mapping[Any, Any],
) -> tuple[tuple[Block, ...], Pairs, dict[str, Any], dict[str, set[Any]]]:
    """The blocks of the space, the pairs of all, the whole training, every value of every key."""
    training = DEFAULTS | training_of(given(raw, "training", {}), "training")
    pairs = pairs_of(given(raw, ZIP, []), ZIP)
    value = raw.get("space")
    if value is None:
        raise RequestError("space: is missing")
    if isinstance(value, list | tuple):
        if not value:
            raise RequestError("space: is empty")
        where = [f"space[{i}]" for i in range(len(value))]
    else:
        value, where = [value], ["space"]
    space = tuple(_block(block, at) for block, at in zip(value, where, strict=True))
    for block, own, at in zip(blocks({"space": space, ZIP: pairs}), space, where, strict=True):
        inherited = ZIP not in own
        for group in block[ZIP]:
            hint = f"; {ZIP}: [] in the block leaves it out" if inherited and len(where) > 1 else ""
            _require_pairs(block, group, at, hint)
        _require_once(block, at)
    for group in pairs:
        if all({*group}.isdisjoint(block) for block in space):
            raise RequestError(f"{ZIP}: space has no {group[0]}")
    every = {key: (value,) for key, value in training.items()} | every_value(space, training)
    return space, pairs, training, {key: set(values) for key, values in every.items()}


def _block(value: object, at: str) -> Block:
    raw = mapping(value, at)
    require_known(raw, {*VALUES, ZIP}, f"{at}.")
    raw = {"constraint": ["unit_norm"], "seed": [0]} | raw
    block: Block = {}
    if raw.get(ZIP) is not None:
        block[ZIP] = pairs_of(raw[ZIP], f"{at}.{ZIP}")
    for axis in [*AXES, *(key for key in TRAINING_TYPES if key in raw)]:
        where = f"{at}.{axis}"
        if axis not in raw:
            raise RequestError(f"{where}: is missing")
        values = raw[axis]
        if axis == "sigma2" and values == "paper":
            values = PAPER_SIGMA2
        values = list(values) if isinstance(values, list | tuple) else [values]
        if not values:
            raise RequestError(f"{where}: is empty")
        block[axis] = tuple(value_of(axis, v, f"{where}[{i}]") for i, v in enumerate(values))
    return block


def pairs_of(value: object, where: str) -> Pairs:
    """Groups of axes that go together: the axes of one, or a list of groups."""
    listed = list_of(value, where)
    several = any(isinstance(entry, list | tuple) for entry in listed)
    made = []
    for i, group in enumerate(listed if several else [listed] if listed else []):
        at = f"{where}[{i}]" if several else where
        axes = list_of(group, at)
        for axis in axes:
            if not isinstance(axis, str):
                raise RequestError(f"{at}: must be names of axes, not {shown(axis)}")
        require_known(dict.fromkeys(axes), VALUES, f"{at}: ")
        if len(axes) < 2:
            raise RequestError(f"{at}: must name two axes or more, not {shown(axes)}")
        made.append(tuple(axes))
    named = [axis for group in made for axis in group]
    for axis in named:
        if named.count(axis) > 1:
            raise RequestError(f"{where}: {axis} stands here twice")
    return tuple(made)


def _require_pairs(block: Mapping[str, Any], group: Sequence[str], at: str, hint: str) -> None:
    """Refuse to pair axes of which one is missing, or has another number of values."""
    missing = [axis for axis in group if axis not in block]
    if missing:
        there = [axis for axis in group if axis in block]
        with_what = f", which {ZIP} pairs with {there[0]}" if there else ""
        raise RequestError(f"{at}: has no {missing[0]}{with_what}{hint}")
    lengths = [len(block[axis]) for axis in group]
    if len({*lengths}) > 1:
        have = " and ".join(
            f"{axis} has {length} value{'s' * (length != 1)}"
            for axis, length in zip(group, lengths, strict=True)
        )
        raise RequestError(f"{at}: {ZIP} pairs values one by one, and {have}{hint}")


def _require_once(block: Mapping[str, Any], at: str) -> None:
    """Refuse a value, or values in a pair, that stand twice."""
    for group, listed in dimensions(block):
        seen = set()
        for i, values in enumerate(listed):
            if values in seen:
                if len(group) == 1:
                    raise RequestError(
                        f"{at}.{group[0]}[{i}]: {shown(values[0])} stands here twice"
                    )
                pair = ", ".join(f"{a} {v}" for a, v in zip(group, values, strict=True))
                raise RequestError(f"{at}: the pair {pair} stands here twice")
            seen.add(values)


def require_data(space: Sequence[Block]) -> None:
    """Refuse a data set that is none, or a file that cannot be used."""
    from sparseae import data

    for number, block in enumerate(space):
        at = "space" if len(space) == 1 else f"space[{number}]"
        for i, name in enumerate(block["dataset"]):
            with refusing(f"{at}.dataset[{i}]", name):
                data.check(name)
