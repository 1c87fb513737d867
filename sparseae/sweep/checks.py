"""Values of a configuration: each axis, key and entry checked, or refused in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from sparseae.errors import RequestError, named, nearest, shown
from sparseae.model.trial import AXES, NAMED, STACKABLE, TRAINING_TYPES
from sparseae.yamltext import NUMBER


def _number(value: object) -> object:
    """YAML 1.1 writes ``1e-3`` as text; -0.0 becomes 0.0, or its trial_id would differ."""
    if isinstance(value, float) or (isinstance(value, str) and NUMBER.fullmatch(value)):
        with suppress(ValueError):  # .inf, as YAML writes it
            return float(value) + 0.0
    return value


def _whole(value: object) -> object:
    value = _number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: What YAML 1.1 reads as a truth, and configurations may have.
_TRUTHS = {"yes": True, "on": True, "no": False, "off": False}


def _flag(value: object) -> object:
    return _TRUTHS.get(value.lower(), value) if isinstance(value, str) else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_number)]
Whole = Annotated[int, Field(strict=True, lt=2**62), BeforeValidator(_whole)]
Flag = Annotated[bool, Field(strict=True), BeforeValidator(_flag)]
Word = Annotated[str, Field(strict=True)]

_KINDS: dict[type, Any] = {float: Number, int: Whole, bool: Flag, str: Word}

#: The valid range of each key of ``training``; a key that is not here takes any value of its type.
RANGES: dict[str, Any] = {
    "epochs": Field(ge=0),
    "batch_size": Field(ge=1),
    "hidden_units": Field(ge=1),
    "learning_rate": Field(gt=0),
    "momentum": Field(ge=0, lt=1),
    "samples": Field(ge=2),
    "corruptions": Field(ge=1),
    "rho": Field(ge=0, lt=1),
    "max_norm": Field(gt=0),
    "weight_decay": Field(ge=0),
    "data_seed": Field(ge=0),
    "gaussian_inputs": Field(ge=1),
    "holdout": Field(ge=0, lt=1),
    "gamma": Field(ge=0),
    "gamma_sigma": Field(ge=0),
    "q": Field(ge=1),
    "p": Field(ge=0),
}


def _value_types() -> dict[str, Any]:
    """The type of one value of each axis and training key."""
    types: dict[str, Any] = dict.fromkeys(AXES, Word)
    types["sigma2"] = Annotated[Number, Field(ge=0)]
    types["seed"] = Annotated[Whole, Field(ge=0)]
    for key, kind in TRAINING_TYPES.items():
        base = _KINDS[kind]
        types[key] = Annotated[base, RANGES[key]] if key in RANGES else base
    return types


#: The types, and what checks a value of them.
VALUES = _value_types()
_VALUES = {key: TypeAdapter(kind) for key, kind in VALUES.items()}

#: A sweep's name, which is a folder's.
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"

#: What an entry of ``overrides`` has.
OVERRIDE = ("when", "training")


def value_of(key: str, value: object, where: str) -> Any:
    """One value of an axis or training key, converted to its type."""
    try:
        checked = _VALUES[key].validate_python(value)
    except ValidationError as error:
        raise RequestError(f"{where}: {_problem(error.errors()[0], value)}") from None
    if key in ("model", "activation", "constraint", *NAMED):
        names = _names(key)
        if checked not in names:
            raise RequestError(
                f"{where}: unknown {key} {shown(checked)}; {nearest(checked, names)}"
            )
    elif key == "dataset" and not checked.isprintable():
        raise RequestError(f"{where}: must be a name or a path, not {shown(checked)}")
    return checked


@contextmanager
def refusing(where: str, name: str) -> Iterator[None]:
    """Around a question to a data set: what is wrong with it stands behind ``where``."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    except (OSError, ValueError) as error:  # a path that the system does not take
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{where}: {shown(name)}: {reason}") from None


def _names(axis: str) -> Sequence[str]:
    if axis in NAMED:
        return NAMED[axis]
    # The registries live with the numerics, which take a second to import.
    from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS

    return tuple({"model": MODELS, "activation": ACTIVATIONS, "constraint": CONSTRAINTS}[axis])


def _problem(error: Any, value: object) -> str:
    """pydantic's words with the value, in one line."""
    words = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{words}, not {shown(value)}"


def require_known(raw: Mapping[Any, Any], known: Any, where: str) -> None:
    """Refuse a key that is not known, with the nearest one that is."""
    for key in raw:
        if key not in known:
            name = named(key)
            raise RequestError(f"{where}{name}: unknown key; {nearest(name, known)}")


def given(raw: Mapping[Any, Any], key: str, default: Any) -> Any:
    """What stands under ``key``; the default where nothing does."""
    value = raw.get(key)
    return default if value is None else value


def name_of(value: object) -> str:
    """A sweep's name: a folder's, and a word of commands."""
    if value is None:
        raise RequestError("name: is missing")
    if not isinstance(value, str):
        raise RequestError(f"name: must be text (quote it), not {shown(value)}")
    if not re.fullmatch(NAME, value):
        raise RequestError(
            f"name: must be letters, digits, '.', '_' and '-' (it names a folder), "
            f"not {shown(value)}"
        )
    return value


def mapping(value: object, where: str) -> dict[Any, Any]:
    """A mapping, or a refusal."""
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: must be a mapping, not {shown(value)}")
    return dict(value)


def list_of(value: object, where: str) -> list[Any]:
    """A list, or a refusal."""
    if not isinstance(value, list | tuple):
        raise RequestError(f"{where}: must be a list, not {shown(value)}")
    return list(value)


def training_of(value: object, where: str) -> dict[str, Any]:
    """Keys of training, each checked."""
    raw = mapping(value, where)
    require_known(raw, TRAINING_TYPES, f"{where}.")
    return {key: value_of(key, raw[key], f"{where}.{key}") for key in raw}


def stack_of(value: object) -> tuple[str, ...]:
    """The axes that become a tensor dimension."""
    axes = list_of(value, "stack")
    for i, axis in enumerate(axes):
        if axis not in STACKABLE:
            raise RequestError(
                f"stack[{i}]: {shown(axis)} cannot be stacked; {nearest(axis, STACKABLE)}"
            )
    if len(set(axes)) < len(axes):
        raise RequestError(f"stack: an axis stands here twice: {axes}")
    return tuple(axes)


def overrides_of(
    value: object, known: dict[str, set[Any]], before: Mapping[str, set[Any]]
) -> list[dict[str, Any]]:
    """Overrides that concern some trial, checked; ``known`` learns the values that they give."""
    overrides = []
    for i, entry in enumerate(list_of(value, "overrides")):
        where = f"overrides[{i}]"
        raw = mapping(entry, where)
        require_known(raw, OVERRIDE, f"{where}.")
        for part in OVERRIDE:
            if part not in raw:
                raise RequestError(f"{where}.{part}: is missing")
        when = matcher_of(raw["when"], f"{where}.when", known, before)
        training = training_of(raw["training"], f"{where}.training")
        if not when:
            continue
        for key, changed in training.items():
            known[key].add(changed)
        overrides.append({"when": when, "training": training})
    return overrides


def matcher_of(
    value: object, where: str, known: Mapping[str, set[Any]], before: Mapping[str, set[Any]]
) -> dict[str, Any]:
    """A mapping of axis or training key to a value or a list of them, each of which occurs.

    What occurred ``before`` the space was narrowed goes; the mapping is empty where nothing that a
    key asks for is left, so that it matches no trial.
    """
    raw = mapping(value, where)
    require_known(raw, _VALUES, f"{where}.")
    if not raw:
        raise RequestError(f"{where}: is empty")
    matcher, vain = {}, False
    for key, wanted in raw.items():
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if not values:
            raise RequestError(f"{where}.{key}: is empty")
        checked = [value_of(key, v, f"{where}.{key}") for v in values]
        there = [v for v in checked if v in known[key]]
        for v in checked:
            if v not in known[key] | before.get(key, set()):
                have = sorted(known[key])
                few = ", ".join(map(str, have[:12])) + (", ..." if len(have) > 12 else "")
                raise RequestError(f"{where}.{key}: no trial has {shown(v)}; they have {few}")
        vain = vain or not there
        matcher[key] = there if isinstance(wanted, list | tuple) else checked[0]
    return {} if vain else matcher
