"""Text to plain data: YAML read as users mean it, or refused in one line."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml

from sparseae import paths
from sparseae.errors import RequestError, named, shown
from sparseae.sweep import embedded

#: A configuration is a page of text, and 256 KiB are seconds of parsing: more is a mistake.
MOST_BYTES = 256 << 10
#: And a list of so many values: listing as many trials took 14 s and half a gigabyte.
_MOST_VALUES = 1_000_000


#: Numbers as every reader of YAML and JSON has them: decimal, without a leading zero.
_DECIMAL = r"[-+]?(?:0|[1-9][0-9]*)"
_FLOAT = (
    rf"{_DECIMAL}(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
#: What YAML 1.1 or 1.2 takes for a number too, but not both, or not for the same one.
_DOUBTFUL = re.compile(
    r"[-+]?0b_*[01][01_]*|[-+]?0x_*[0-9a-fA-F][0-9a-fA-F_]*|[-+]?0o_*[0-7][0-7_]*"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
)
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Safe loading of what means the same to every reader.

    Scalars are YAML 1.2's core schema: of words only true, false and null are not text (what 1.1
    takes for a truth, yes or off, a flag takes too), and numbers are decimal. What one reader takes
    for another number than the next (010, 0x1F, 1_000, 1:30) is refused. So is a key named twice,
    of which YAML would drop one in silence, and aliases that, written out, would fill the memory or
    never end.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (as PyYAML has it)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        plain = self.peek_event().implicit[0]  # type: ignore[union-attr]
        node = super().compose_scalar_node(anchor)
        number = node.tag in (f"{_TAG}int", f"{_TAG}float")
        decimal = NUMBER.fullmatch(node.value)
        if (plain or number) and not decimal and _DOUBTFUL.fullmatch(node.value):
            problem = f"{shown(node.value)} is not the same number everywhere: {_meant(node.value)}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key {shown(key.value)} stands here twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MOST_BYTES:
            raise yaml.YAMLError("its aliases stand for more than a configuration can hold")
        return node


#: A number that means the same to every reader.
NUMBER = re.compile(_FLOAT)

for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", _DECIMAL, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"(?:{_pattern})$"), list(_first))


def _meant(text: str) -> str:
    """What to write for a number that is doubtful, and for text that looks like it."""
    sign, digits = ("-" if text[0] == "-" else ""), text.lstrip("+-").replace("_", "")
    bases = {"0b": 2, "0o": 8, "0x": 16}
    if digits[:2] in bases:
        likely = [int(digits[2:], bases[digits[:2]])]
    elif ":" in digits:
        *whole, last = digits.split(":")
        minutes = functools.reduce(lambda sum, part: 60 * sum + int(part), whole, 0)
        likely = [60 * minutes + (float(last) if "." in last else int(last))]
    elif re.fullmatch("0+[0-7]+", digits):
        likely = [int(digits), int(digits, 8)]
    else:
        likely = [float(digits) if re.search("[.eE]", digits) else int(digits)]
    numbers = " or ".join(dict.fromkeys(f"{sign}{number}" for number in likely))
    if len(numbers) > 60:
        return "write it in decimal digits, or quote it where it is text"
    return f"write {numbers}, or quote it where it is text"


def _written_out(node: yaml.Node, counts: dict[yaml.Node, float]) -> float:
    """Nodes of a tree whose aliases are written out; infinite where one stands for itself."""
    if node not in counts:
        counts[node] = math.inf
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = itertools.chain(*inner) if isinstance(node, yaml.MappingNode) else inner
        counts[node] = 1 + sum(_written_out(part, counts) for part in parts)
    return counts[node]


def plain(value: Any, where: str = "the configuration") -> Any:
    """A value as Python programs have it, as plain data.

    Arrays, series, ranges, sets and whatever else can be gone through once are lists, scalars of
    numpy are numbers, paths are text. What is none of it stays, for a check to refuse.

    Raises:
        RequestError: if it has no end, or is nested without one.
    """
    try:
        return _plain(value)
    except _TooLargeError:
        raise RequestError(f"{where}: has more than {_MOST_VALUES:,} values") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None


class _TooLargeError(ValueError):
    pass


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or type(value) in (bool, int, float) or isinstance(value, bytes | bytearray):
        return value
    if callable(getattr(value, "tolist", None)):  # numpy, pandas, torch, pyarrow
        listed = value.tolist()
        return _plain(listed) if type(listed) is not type(value) else listed
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real | Decimal):
        return float(value)
    if isinstance(value, Set):
        with suppress(TypeError):
            value = sorted(value)
    if isinstance(value, Iterable):
        listed = list(itertools.islice(value, _MOST_VALUES + 1))
        if len(listed) > _MOST_VALUES:
            raise _TooLargeError
        return [_plain(inner) for inner in listed]
    return value


def read(place: str | os.PathLike[str]) -> Any:
    """A YAML file as plain data.

    Raises:
        RequestError: in one line, if it cannot be read.
    """
    path = paths.checked(place, "CONFIG")
    try:
        with open(path, "rb") as stream:
            text = stream.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        stem = Path(path).stem
        hint = f"; sparseae configs {stem} copies it" if stem in embedded.names() else ""
        raise RequestError(f"{named(path)}: cannot be read: {reason}{hint}") from None
    except ValueError as error:
        raise RequestError(f"{named(path)}: cannot be read: {error}") from None
    return parse(text, path)


def parse(text: str | bytes, origin: str) -> Any:
    """YAML text to plain data.

    Raises:
        RequestError: in one line, with ``origin`` and the place.
    """
    if len(text) > MOST_BYTES:
        raise RequestError(f"{named(origin)}: is over {MOST_BYTES >> 10} KiB: no configuration")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = f"{line}{error.problem or error.context}"
    except RecursionError:
        reason = "is nested too deeply"
    except Exception as error:
        # What a wrong value of an explicit tag (!!bool, !!timestamp) raises is anything.
        reason = f"is not YAML: {str(error) or type(error).__name__}"
    raise RequestError(f"{named(origin)}: {' '.join(reason.split())}")


def changed(raw: Mapping[Any, Any], text: str) -> dict[Any, Any]:
    """``raw`` with one ``KEY=VALUE`` applied.

    Where ``space`` has several blocks, ``space.seed`` is the axis of all, ``space.1.seed`` of one:
    a number is a place in a list.
    """
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RequestError(f"--set {shown(text)}: must be KEY=VALUE, as training.epochs=2")
    return _set(raw, path, parse(value, f"--set {key}"), f"--set {named(key)}")


def _set(below: Any, path: Sequence[str], value: Any, where: str, above: str = "") -> Any:
    """``below`` with a value at a path in it, in a copy."""
    if not path:
        return value
    part, *rest = path
    if isinstance(below, list | tuple):
        if part.isdecimal() and len(part) < 10:
            if int(part) >= len(below):
                raise RequestError(f"{where}: {above} has {len(below)} entries, from 0")
            changed = [*below]
            changed[int(part)] = _set(below[int(part)], rest, value, where, f"{above}.{part}")
            return changed
        if above == "space":
            return [_set(block, path, value, where, "a block of space") for block in below]
    below = {} if below is None else below
    if not isinstance(below, Mapping):
        raise RequestError(f"{where}: {named(above)} is not a mapping")
    return {**below, part: _set(below.get(part), rest, value, where, part)}
