"""YAML as the tool reads and writes it: what means one thing to every reader.

A configuration is read by `parse`, strictly. What the tool itself writes, `written` writes so that
`parse`, YAML 1.1 and YAML 1.2 read the same of it, and `recorded` reads it back, also what earlier
versions wrote.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import Any

import yaml

from sparseae.errors import RequestError, named, shown

#: A configuration is a page of text, and 256 KiB are seconds of parsing: more is a mistake.
MOST_BYTES = 256 << 10


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


class _Recorded(yaml.SafeLoader):
    """Safe loading of a record, as YAML 1.1 wrote it, by which every ``sweep.yaml`` was written.

    A key named twice is refused, of which YAML would drop one in silence.
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


class _Loader(_Recorded):
    """Safe loading of what means the same to every reader.

    Scalars are YAML 1.2's core schema: of words only true, false and null are not text (what 1.1
    takes for a truth, yes or off, a flag takes too), and numbers are decimal. What one reader takes
    for another number than the next (010, 0x1F, 1_000, 1:30) is refused, and so are aliases that,
    written out, would fill the memory or never end.
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

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MOST_BYTES:
            raise yaml.YAMLError("its aliases stand for more than a configuration can hold")
        return node


class _Dumper(yaml.SafeDumper):
    """YAML that both loaders read as it was: text is quoted where either would not take it so."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unicode's own line breaks are written as they stand but for double quotes, and read as a
        # space.
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar(f"{_TAG}str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


#: A number that means the same to every reader.
NUMBER = re.compile(_FLOAT)

for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", _DECIMAL, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    for _one in (_Loader, _Dumper):
        _one.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"(?:{_pattern})$"), list(_first))
_Dumper.add_implicit_resolver(
    "!doubtful", re.compile(rf"(?:{_DOUBTFUL.pattern})$"), list("-+.0123456789")
)


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


def parse(text: str | bytes, origin: str) -> Any:
    """The text of a configuration to plain data.

    Raises:
        RequestError: in one line, with ``origin`` and the place.
    """
    if len(text) > MOST_BYTES:
        raise RequestError(f"{named(origin)}: is over {MOST_BYTES >> 10} KiB: no configuration")
    return _loaded(text, origin, _Loader)


def recorded(text: str | bytes, origin: str) -> Any:
    """What `written` wrote, now or before it was here: of any size, for it has every value.

    Raises:
        RequestError: in one line, with ``origin`` and the place.
    """
    return _loaded(text, origin, _Recorded)


def _loaded(text: str | bytes, origin: str, loader: type[_Recorded]) -> Any:
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = f"{line}{error.problem or error.context}"
    except RecursionError:
        reason = "is nested too deeply"
    except Exception as error:
        # What a wrong value of an explicit tag (!!bool, !!timestamp) raises is anything.
        reason = f"is not YAML: {str(error) or type(error).__name__}"
    raise RequestError(f"{named(origin)}: {' '.join(reason.split())}")


def written(value: Any, **how: Any) -> str:
    """Plain data as YAML that `parse` and `recorded` read as it was.

    Args:
        how: as ``yaml.dump`` has it.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **how)
