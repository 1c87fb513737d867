"""The JSON schema of a configuration, for editors: what the checks ask, as far as a schema can."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from sparseae.data import SOURCES
from sparseae.model.activations import ACTIVATIONS
from sparseae.model.constraints import CONSTRAINTS
from sparseae.model.objective import MODELS
from sparseae.model.space import ZIP
from sparseae.model.trial import AXES, DEFAULTS, NAMED, STACKABLE, TRAINING_TYPES
from sparseae.sweep.checks import NAME, VALUES
from sparseae.sweep.config import Resources, Sweep

_NAMES = {
    "model": MODELS,
    "activation": ACTIVATIONS,
    "constraint": CONSTRAINTS,
    **NAMED,
}

#: Keys that are described here, not by pydantic.
_MADE = ("name", "space", ZIP, "stack", "training", "overrides", "exclude", "resources")

_PAIR = {"type": "array", "items": {"enum": list(VALUES)}, "minItems": 2}
_PAIRS = {"anyOf": [{"type": "array", "maxItems": 0}, _PAIR, {"type": "array", "items": _PAIR}]}

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def schema() -> dict[str, Any]:
    """The schema of what `Sweep.load` reads (JSON Schema, draft 2020-12)."""
    values = {key: {"$ref": f"#/$defs/{key}"} for key in VALUES}
    training = {key: values[key] | {"default": DEFAULTS[key]} for key in TRAINING_TYPES}
    wanted = {key: _one_or_several(values[key]) for key in VALUES}
    space = wanted | {"sigma2": {"anyOf": [{"const": "paper"}, *wanted["sigma2"]["anyOf"]]}}
    fields = Sweep.model_json_schema()["properties"]
    rest = {
        key: {k: v for k, v in field.items() if k not in ("title", "$ref")}
        for key, field in fields.items()
        if key not in _MADE
    }
    block = _mapping(
        {**space, ZIP: {"$ref": "#/$defs/zip"}},
        [a for a in AXES if a not in ("constraint", "seed")],
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A sweep of sparseae",
        **_mapping(
            {
                "name": {"type": "string", "pattern": f"^{NAME}$"},
                "space": _one_or_several({"$ref": "#/$defs/space"}),
                ZIP: {"$ref": "#/$defs/zip"},
                "stack": _list({"enum": list(STACKABLE)}),
                "training": _mapping(training),
                "overrides": _list(
                    _mapping(
                        {"when": _mapping(wanted), "training": _mapping(training)},
                        ["when", "training"],
                    )
                ),
                "exclude": _list(_mapping(wanted)),
                "resources": _without_titles(Resources.model_json_schema()),
                **_without_titles(rest),
            },
            ["name", "space"],
        ),
        "$defs": {key: _value(key) for key in VALUES} | {"space": block, ZIP: _PAIRS},
    }


def _value(key: str) -> dict[str, Any]:
    if key in _NAMES:
        return {"enum": sorted(_NAMES[key])}
    if key == "dataset":
        return {"anyOf": [{"enum": sorted(SOURCES)}, {"type": "string"}]}
    made = _without_titles(TypeAdapter(VALUES[key]).json_schema())
    for field in getattr(VALUES[key], "__metadata__", ()):
        # pydantic leaves bounds out that stand behind a validator.
        for bound in getattr(field, "metadata", ()):
            for name, word in _BOUNDS.items():
                if getattr(bound, name, None) is not None:
                    made[word] = getattr(bound, name)
    return made


def _mapping(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    made = {"type": "object", "properties": properties, "additionalProperties": False}
    return made | ({"required": required} if required else {})


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _one_or_several(value: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}


def _without_titles(part: Any) -> Any:
    """Without what pydantic adds for forms: a key's name in capitals, a docstring."""
    if isinstance(part, list):
        return [_without_titles(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    plain = {
        k: v for k, v in part.items() if not (k in ("title", "description") and isinstance(v, str))
    }
    return {key: _without_titles(value) for key, value in plain.items()}
