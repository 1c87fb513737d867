"""The configuration of a sweep: YAML or a mapping, checked whole before anything starts."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from sparseae.errors import RequestError, nearest
from sparseae.trial import AXES, STACKABLE, TRAINING_TYPES, Training, Trial

#: The paper's values of sigma2 (section 3).
PAPER_SIGMA2 = (0.0, 0.001, 0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 0.64, 0.81, 1.0)

#: A configuration is a page of text; more is a mistake or an attack on the parser.
_MOST_BYTES = 1 << 20
_MOST_TRIALS = 10_000_000


def _number(value: object) -> object:
    """YAML 1.1 reads ``1e-3`` as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _whole(value: object) -> object:
    value = _number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_number)]
Whole = Annotated[int, Field(strict=True, lt=2**62), BeforeValidator(_whole)]
Flag = Annotated[bool, Field(strict=True)]
Word = Annotated[str, Field(strict=True)]

_KINDS: dict[type, Any] = {float: Number, int: Whole, bool: Flag, str: Word}

#: The valid range of each key of ``training``; a key that is not here takes any value of its type.
_RANGES: dict[str, Any] = {
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
}


def _value_types() -> dict[str, TypeAdapter]:
    """How one value of each axis and training key is checked."""
    types: dict[str, Any] = dict.fromkeys(AXES, Word)
    types["sigma2"] = Annotated[Number, Field(ge=0)]
    types["seed"] = Annotated[Whole, Field(ge=0)]
    for key, kind in TRAINING_TYPES.items():
        base = _KINDS[kind]
        types[key] = Annotated[base, _RANGES[key]] if key in _RANGES else base
    return {key: TypeAdapter(kind) for key, kind in types.items()}


_VALUES = _value_types()


def _checked(key: str, value: object, where: str) -> Any:
    """One value of an axis or training key, converted to its type."""
    try:
        checked = _VALUES[key].validate_python(value)
    except ValidationError as error:
        raise RequestError(f"{where}: {_problem(error.errors()[0], value)}") from None
    if key in ("model", "activation", "constraint"):
        names = _names(key)
        if checked not in names:
            raise RequestError(f"{where}: unknown {key} {checked!r}; {nearest(checked, names)}")
    elif key == "dataset":
        from sparseae import data

        try:
            data.check(checked)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from None
    return checked


def _names(axis: str) -> Sequence[str]:
    # The registries live with the numerics, which take a second to import.
    from sparseae.activations import ACTIVATIONS
    from sparseae.constraints import CONSTRAINTS
    from sparseae.objectives import OBJECTIVES

    return tuple({"model": OBJECTIVES, "activation": ACTIVATIONS, "constraint": CONSTRAINTS}[axis])


def _problem(error: Any, value: object) -> str:
    """pydantic's words with the value, in one line."""
    words = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{words}, not {_shown(value)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(_Strict):
    """What one Tune trial asks Ray for."""

    cpu: Annotated[Number, Field(gt=0)] = 1
    #: ``auto``: a share of a GPU where there is one.
    gpu: Literal["auto"] | Annotated[Number, Field(ge=0)] = "auto"


class Override(_Strict):
    """Training keys that trials with certain values get."""

    when: dict[str, Any]
    training: dict[str, Any]


class Sweep(_Strict):
    """A sweep, resolved: every default filled in, every value checked.

    Make one with `load`.
    """

    name: Word
    #: Axis to values; `AXES` and any keys of ``training``.
    space: dict[str, tuple[Any, ...]]
    stack: tuple[str, ...] = ("sigma2", "seed")
    training: dict[str, Any]
    overrides: tuple[Override, ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()
    resources: Resources = Resources()
    keep_weights: Flag = False
    #: Epochs between checkpoints; ``auto``: about a minute's work.
    checkpoint_every: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    #: How often a Tune trial that crashed is tried again.
    max_failures: Annotated[Whole, Field(ge=0)] = 3

    @classmethod
    def load(
        cls, source: str | Path | Mapping[str, Any] | Sweep, set_values: Sequence[str] = ()
    ) -> Sweep:
        """Read and check a configuration.

        Args:
            source: a YAML file, a mapping of the same shape, or a sweep.
            set_values: ``KEY=VALUE`` with a dotted key; the value is YAML.

        Raises:
            RequestError: in one line, with the key, the value and the nearest valid choice.
        """
        if isinstance(source, Sweep):
            raw: Any = source.resolved()
        elif isinstance(source, Mapping):
            raw = dict(source)
        else:
            raw = _read(Path(source))
        if not isinstance(raw, dict):
            raise RequestError(f"{source}: a configuration is a mapping, not {_shown(raw)}")
        for text in set_values:
            raw = _with(raw, text)
        return cls._checked(raw)

    @classmethod
    def _checked(cls, raw: dict[Any, Any]) -> Sweep:
        _require_known(raw, cls.model_fields, "")
        name = raw.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise RequestError(
                f"name: must be letters, digits, '.', '_' and '-' (it names a folder), "
                f"not {_shown(name)}"
            )
        space = _space(raw.get("space"))
        training = _training(raw.get("training") or {}, "training")
        defaults = {k: getattr(Training(), k) for k in TRAINING_TYPES}
        plain = {
            key: raw[key]
            for key in ("resources", "keep_weights", "checkpoint_every", "max_failures")
            if raw.get(key) is not None
        }
        known = space | {k: (v,) for k, v in (defaults | training).items() if k not in space}
        overrides = _overrides(raw.get("overrides") or [], known)
        for override in overrides:
            for key, value in override["training"].items():
                known[key] = (*known[key], value)
        try:
            sweep = cls.model_validate(
                {
                    "name": name,
                    "space": space,
                    "stack": _stack(raw.get("stack", ["sigma2", "seed"])),
                    "training": defaults | training,
                    "overrides": overrides,
                    "exclude": tuple(
                        _matcher(entry, f"exclude[{i}]", known)
                        for i, entry in enumerate(_list(raw.get("exclude") or [], "exclude"))
                    ),
                    **plain,
                }
            )
        except ValidationError as error:
            raise RequestError(_refusal(error)) from None
        size = math.prod(len(values) for values in sweep.space.values())
        if size > _MOST_TRIALS:
            raise RequestError(f"space: {size:,} trials are more than {_MOST_TRIALS:,}")
        if not sweep.trials():
            raise RequestError("exclude: leaves no trial")
        sweep._require_possible()
        return sweep

    def _require_possible(self) -> None:
        """Ask the model and the activation of each trial whether they can train it."""
        from sparseae.activations import ACTIVATIONS
        from sparseae.objectives import OBJECTIVES

        asked = {(t.model, t.activation, t.training) for t in self.trials()}
        for model, activation, training in asked:
            for part in (OBJECTIVES[model], ACTIVATIONS[activation]):
                if problem := part.check(training):
                    raise RequestError(problem)

    def trials(self) -> tuple[Trial, ...]:
        """The trials, each once, in the order of the axes."""
        return self._trials

    @cached_property
    def _trials(self) -> tuple[Trial, ...]:
        # A dictionary: an override may give two points of the space the same configuration.
        return tuple({trial.trial_id: trial for trial in self._points()}.values())

    @cached_property
    def excluded(self) -> int:
        """Points of the space that ``exclude`` left out."""
        return self._size - sum(1 for _ in self._kept())

    @cached_property
    def merged(self) -> int:
        """Points of the space that an override made equal to another."""
        return self._size - self.excluded - len(self.trials())

    @property
    def _size(self) -> int:
        return math.prod(len(values) for values in self.space.values())

    def _kept(self) -> Iterator[dict[str, Any]]:
        axes = list(self.space)
        for point in itertools.product(*self.space.values()):
            values = self.training | dict(zip(axes, point, strict=True))
            for override in self.overrides:
                if _matches(override.when, values):
                    values |= override.training
            if not any(_matches(entry, values) for entry in self.exclude):
                yield values

    def _points(self) -> Iterator[Trial]:
        trainings: dict[tuple, Training] = {}
        for values in self._kept():
            key = tuple(values[k] for k in TRAINING_TYPES)
            if key not in trainings:
                trainings[key] = Training(**{k: values[k] for k in TRAINING_TYPES})
            yield Trial(**{axis: values[axis] for axis in AXES}, training=trainings[key])

    def resolved(self) -> dict[str, Any]:
        """Plain data that `load` reads back as the same sweep."""
        return self.model_dump(mode="json")


_KEYS = {*Sweep.model_fields, *Resources.model_fields}


def _refusal(error: ValidationError) -> str:
    """One line for what pydantic found: the key, what it must be, and the value."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "extra_forbidden":
        key = ".".join(str(part) for part in first["loc"])
        return f"{key}: unknown key; {nearest(first['loc'][-1], Resources.model_fields)}"
    # The branches of a union ("auto" or a number) each have an error at the same key.
    path = [part for part in first["loc"] if part in _KEYS]
    same = [e for e in errors if [part for part in e["loc"] if part in _KEYS] == path]
    words = [e["msg"].replace("Input should be", "").strip() for e in same]
    return f"{'.'.join(map(str, path))}: must be {' or '.join(words)}, not {_shown(first['input'])}"


def difference(old: Sweep, new: Sweep) -> list[str]:
    """What forbids ``new`` to go on with the results of ``old``; empty where nothing does.

    Every trial of the old sweep must be one of the new one's, with as many epochs or more.
    """
    now = {trial.trial_id: trial for trial in new.trials()}
    if all(
        t.trial_id in now and now[t.trial_id].training.epochs >= t.training.epochs
        for t in old.trials()
    ):
        return []
    lines = []
    for key in ("space", "training"):
        before, after = getattr(old, key), getattr(new, key)
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                lines.append(
                    f"{key}.{name}: {_plain(before.get(name))} -> {_plain(after.get(name))}"
                )
    for key in ("overrides", "exclude"):
        if getattr(old, key) != getattr(new, key):
            lines.append(f"{key}: {_plain(old.resolved()[key])} -> {_plain(new.resolved()[key])}")
    return lines


def _plain(value: object) -> str:
    if value is None:
        return "absent"
    return str(list(value)) if isinstance(value, tuple) else str(value)


class _Loader(yaml.SafeLoader):
    """Safe loading that refuses a key named twice, of which YAML would drop one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands here twice", problem_mark=key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise RequestError(f"{str(path)!r}: cannot be read: {error}") from None
    if len(text) > _MOST_BYTES:
        raise RequestError(f"{path}: is over 1 MiB, which no configuration is")
    return parse(text, str(path))


def parse(text: str | bytes, origin: str) -> Any:
    """YAML text to plain data.

    Raises:
        RequestError: in one line, with ``origin`` and the place.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}:" if mark else ""
        raise RequestError(f"{origin}:{line} {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(f"{origin}: is not YAML: {reason}") from None


def _with(raw: dict[Any, Any], text: str) -> dict[Any, Any]:
    """``raw`` with one ``KEY=VALUE`` applied."""
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RequestError(f"--set {text!r}: must be KEY=VALUE, as training.epochs=2")
    changed = inner = dict(raw)
    for part in path[:-1]:
        below = inner.get(part)
        if below is not None and not isinstance(below, Mapping):
            raise RequestError(f"--set {key}: {part} is not a mapping")
        inner[part] = dict(below or {})
        inner = inner[part]
    inner[path[-1]] = parse(value, f"--set {key}")
    return changed


def _require_known(raw: Mapping[Any, Any], known: Any, where: str) -> None:
    for key in raw:
        if key not in known:
            raise RequestError(f"{where}{key}: unknown key; {nearest(key, known)}")


def _mapping(value: object, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: must be a mapping, not {_shown(value)}")
    return dict(value)


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"{where}: must be a list, not {_shown(value)}")
    return list(value)


def _space(value: object) -> dict[str, tuple[Any, ...]]:
    if value is None:
        raise RequestError("space: is missing")
    raw = _mapping(value, "space")
    _require_known(raw, _VALUES, "space.")
    raw = {"constraint": ["unit_norm"], "seed": [0]} | raw
    space = {}
    for axis in [*AXES, *(key for key in TRAINING_TYPES if key in raw)]:
        where = f"space.{axis}"
        if axis not in raw:
            raise RequestError(f"{where}: is missing")
        values = raw[axis]
        if axis == "sigma2" and values == "paper":
            values = PAPER_SIGMA2
        values = list(values) if isinstance(values, list | tuple) else [values]
        if not values:
            raise RequestError(f"{where}: is empty")
        checked = [_checked(axis, v, f"{where}[{i}]") for i, v in enumerate(values)]
        for i, v in enumerate(checked):
            if v in checked[:i]:
                raise RequestError(f"{where}[{i}]: {_shown(v)} stands here twice")
        space[axis] = tuple(checked)
    return space


def _training(value: object, where: str) -> dict[str, Any]:
    raw = _mapping(value, where)
    _require_known(raw, TRAINING_TYPES, f"{where}.")
    return {key: _checked(key, raw[key], f"{where}.{key}") for key in raw}


def _stack(value: object) -> tuple[str, ...]:
    axes = _list(value, "stack")
    for i, axis in enumerate(axes):
        if axis not in STACKABLE:
            raise RequestError(
                f"stack[{i}]: {_shown(axis)} cannot be stacked; {nearest(axis, STACKABLE)}"
            )
    if len(set(axes)) < len(axes):
        raise RequestError(f"stack: an axis stands here twice: {axes}")
    return tuple(axes)


def _overrides(value: object, known: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    overrides = []
    known = dict(known)
    for i, entry in enumerate(_list(value, "overrides")):
        where = f"overrides[{i}]"
        raw = _mapping(entry, where)
        _require_known(raw, Override.model_fields, f"{where}.")
        for part in Override.model_fields:
            if part not in raw:
                raise RequestError(f"{where}.{part}: is missing")
        when = _matcher(raw["when"], f"{where}.when", known)
        training = _training(raw["training"], f"{where}.training")
        for key, changed in training.items():
            known[key] = (*known[key], changed)
        overrides.append({"when": when, "training": training})
    return overrides


def _matcher(value: object, where: str, known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A mapping of axis or training key to a value or a list of them, each of which occurs."""
    raw = _mapping(value, where)
    _require_known(raw, _VALUES, f"{where}.")
    if not raw:
        raise RequestError(f"{where}: is empty")
    matcher = {}
    for key, wanted in raw.items():
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if not values:
            raise RequestError(f"{where}.{key}: is empty")
        checked = [_checked(key, v, f"{where}.{key}") for v in values]
        for v in checked:
            if v not in known[key]:
                have = ", ".join(str(k) for k in known[key])
                raise RequestError(f"{where}.{key}: no trial has {_shown(v)}; they have {have}")
        matcher[key] = checked if isinstance(wanted, list | tuple) else checked[0]
    return matcher


def _matches(matcher: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(
        values[key] in wanted if isinstance(wanted, list | tuple) else values[key] == wanted
        for key, wanted in matcher.items()
    )
