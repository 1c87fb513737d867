"""Text to plain data: YAML read as users mean it, or refused in one line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sparseae.errors import RequestError, named, shown
from sparseae.sweep import embedded

#: A configuration is a page of text, and 256 KiB are seconds of parsing: more is a mistake.
_MOST_BYTES = 256 << 10


class _Loader(yaml.SafeLoader):
    """Safe loading that refuses a key named twice, of which YAML would drop one in silence.

    And aliases that, written out, would fill the memory or never end.
    """

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
        if node is not None and _written_out(node, {}) > _MOST_BYTES:
            raise yaml.YAMLError("its aliases stand for more than a configuration can hold")
        return node


def _written_out(node: yaml.Node, counts: dict[yaml.Node, float]) -> float:
    """Nodes of a tree whose aliases are written out; infinite where one stands for itself."""
    if node not in counts:
        counts[node] = math.inf
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = itertools.chain(*inner) if isinstance(node, yaml.MappingNode) else inner
        counts[node] = 1 + sum(_written_out(part, counts) for part in parts)
    return counts[node]


def read(path: Path) -> Any:
    """A YAML file as plain data; RequestError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        hint = f"; sparseae configs {path.stem} copies it" if path.stem in embedded.names() else ""
        raise RequestError(f"{named(str(path))}: cannot be read: {reason}{hint}") from None
    except ValueError as error:
        raise RequestError(f"{named(str(path))}: cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str | bytes, origin: str) -> Any:
    """YAML text to plain data.

    Raises:
        RequestError: in one line, with ``origin`` and the place.
    """
    if len(text) > _MOST_BYTES:
        raise RequestError(f"{named(origin)}: is over {_MOST_BYTES >> 10} KiB: no configuration")
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
    """``raw`` with one ``KEY=VALUE`` applied."""
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RequestError(f"--set {shown(text)}: must be KEY=VALUE, as training.epochs=2")
    whole = inner = dict(raw)
    for part in path[:-1]:
        below = inner.get(part)
        if below is not None and not isinstance(below, Mapping):
            raise RequestError(f"--set {named(key)}: {named(part)} is not a mapping")
        inner[part] = dict(below or {})
        inner = inner[part]
    inner[path[-1]] = parse(value, f"--set {key}")
    return whole
