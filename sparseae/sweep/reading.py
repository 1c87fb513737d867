"""What users give, as plain data: files, changes of the command line, values of programs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sparseae import paths
from sparseae.errors import RequestError, named, shown
from sparseae.sweep import embedded
from sparseae.yamltext import MOST_BYTES, parse

#: And a list of so many values: listing as many trials took 14 s and half a gigabyte.
_MOST_VALUES = 1_000_000


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
