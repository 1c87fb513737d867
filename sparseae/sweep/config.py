"""The configuration of a sweep: YAML or a mapping, checked whole before anything starts."""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from sparseae.errors import RequestError, nearest
from sparseae.model.trial import (
    AXES,
    FUNCTIONS,
    STACKABLE,
    TRAINING_TYPES,
    Training,
    Trial,
    with_own_keys,
)

#: The paper's values of sigma2 (section 3).
PAPER_SIGMA2 = (0.0, 0.001, 0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 0.64, 0.81, 1.0)

#: A configuration is a page of text, and 256 KiB are seconds of parsing: more is a mistake.
_MOST_BYTES = 256 << 10
#: Listing this many trials took 14 s and half a gigabyte.
_MOST_TRIALS = 1_000_000

#: Bounded in depth and length: YAML's aliases can make a page of text a tree of any size.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def _number(value: object) -> object:
    """YAML 1.1 reads ``1e-3`` as text; -0.0 becomes 0.0, or its trial_id would differ."""
    if isinstance(value, str | float):
        try:
            return float(value) + 0.0
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
    "gamma": Field(ge=0),
    "gamma_sigma": Field(ge=0),
    "q": Field(ge=1),
    "p": Field(ge=0),
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
    if key in ("model", "activation", "constraint", "f"):
        names = _names(key)
        if checked not in names:
            raise RequestError(
                f"{where}: unknown {key} {_shown(checked)}; {nearest(checked, names)}"
            )
    elif key == "dataset":
        from sparseae import data

        if not checked.isprintable():
            raise RequestError(f"{where}: must be a name or a path, not {_shown(checked)}")
        with _refusing(where, checked):
            data.check(checked)
    return checked


@contextmanager
def _refusing(where: str, name: str) -> Iterator[None]:
    """Around a question to a data set: what is wrong with it stands behind ``where``."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    except (OSError, ValueError) as error:  # a path that the system does not take
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{where}: {_shown(name)}: {reason}") from None


def _names(axis: str) -> Sequence[str]:
    if axis == "f":
        return FUNCTIONS
    # The registries live with the numerics, which take a second to import.
    from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS

    return tuple({"model": MODELS, "activation": ACTIVATIONS, "constraint": CONSTRAINTS}[axis])


def _problem(error: Any, value: object) -> str:
    """pydantic's words with the value, in one line."""
    words = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{words}, not {_shown(value)}"


def _shown(value: object) -> str:
    """A value in a message: short, and one line."""
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:
        return "an integer of thousands of digits"  # Python refuses to print those
    return text if len(text) <= 60 else text[:57] + "..."


def _named(key: object) -> str:
    """A key or a path in a message: as it stands, quoted where it would not fit a line."""
    plain = isinstance(key, str) and key.isprintable() and len(key) <= 200
    return str(key) if plain else _shown(key)


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
    #: Train with products in TF32 on GPUs that have it: faster, with 10 bits of mantissa. Not part
    #: of a trial's identity, so that a sweep has one value throughout.
    tf32: Flag = False
    #: Measure the terms of the theory every epoch (`sparseae.theory.terms`).
    theory: Flag = False
    #: Epochs between checkpoints; ``auto``: about a minute's work.
    checkpoint_every: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    #: How many checkpoints of a Tune trial stay, the latest ones; or ``all``.
    keep_checkpoints: Literal["all"] | Annotated[Whole, Field(ge=1)] = 1
    #: Seconds that results on a network are tried to be written before the run stops.
    storage_patience: Annotated[Number, Field(ge=0)] = 300
    #: How often a Tune trial that crashed is tried again.
    max_failures: Annotated[Whole, Field(ge=0)] = 3
    #: Trackers that hear of every epoch (`sparseae.cluster.watching`).
    watch: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()

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
        raw: Any = source
        if isinstance(source, Sweep):
            raw = source.resolved()
        elif isinstance(source, str | Path):
            raw = _read(Path(source))
        if not isinstance(raw, Mapping):
            origin = f"{_named(str(source))}: " if isinstance(source, str | Path) else ""
            raise RequestError(f"{origin}a configuration is a mapping, not {_shown(raw)}")
        # What the file's exclude and overrides name may be gone from a space that was narrowed.
        before: dict[str, set[Any]] = {}
        if set_values:
            with suppress(RequestError):
                _, _, before = _values(raw)
                _overrides(_given(raw, "overrides", []), before, {})
        for text in set_values:
            raw = _with(raw, text)
        return cls._checked(dict(raw), before)

    @classmethod
    def _checked(cls, raw: dict[Any, Any], before: Mapping[str, set[Any]]) -> Sweep:
        _require_known(raw, cls.model_fields, "")
        name = _name(raw.get("name"))
        space, training, known = _values(raw)
        plain = {key: raw[key] for key in _PLAIN if raw.get(key) is not None}
        _require_known(
            _mapping(plain.get("resources", {}), "resources"), Resources.model_fields, "resources."
        )
        overrides = _overrides(_given(raw, "overrides", []), known, before)
        exclude = [
            _matcher(entry, f"exclude[{i}]", known, before)
            for i, entry in enumerate(_list(_given(raw, "exclude", []), "exclude"))
        ]
        try:
            sweep = cls.model_validate(
                {
                    "name": name,
                    "space": space,
                    "stack": _stack(raw.get("stack", ["sigma2", "seed"])),
                    "training": training,
                    "overrides": overrides,
                    "exclude": tuple(entry for entry in exclude if entry),
                    **plain,
                }
            )
        except ValidationError as error:
            raise RequestError(_refusal(error)) from None
        if sweep._size > _MOST_TRIALS:
            raise RequestError(f"space: {sweep._size:,} trials are more than {_MOST_TRIALS:,}")
        if not sweep.trials():
            raise RequestError("exclude: leaves no trial")
        sweep._require_possible()
        return sweep

    def _require_possible(self) -> None:
        """Ask the model, the activation and the data set of each trial whether it can train."""
        from sparseae import data
        from sparseae.model import ACTIVATIONS, MODELS

        asked = {(t.model, t.activation, t.dataset, t.training) for t in self.trials()}
        for model, activation, training in {(m, a, t) for m, a, _, t in asked}:
            for part in (MODELS[model], ACTIVATIONS[activation]):
                if problem := part.check(training):
                    raise RequestError(problem)
        for name, samples, inputs in {(d, t.samples, t.gaussian_inputs) for _, _, d, t in asked}:
            with _refusing("space.dataset", name):
                data.shape(name, samples=samples, gaussian_inputs=inputs)

    def trials(self) -> tuple[Trial, ...]:
        """The trials, each once, in the order of the axes."""
        return self._listed[0]

    @property
    def excluded(self) -> int:
        """Points of the space that ``exclude`` left out."""
        return self._listed[1]

    @property
    def merged(self) -> int:
        """Points of the space that are the same trial as another."""
        return self._size - self.excluded - len(self.trials())

    @property
    def _size(self) -> int:
        return math.prod(len(values) for values in self.space.values())

    @cached_property
    def _listed(self) -> tuple[tuple[Trial, ...], int]:
        """The trials, and how many points were excluded."""
        overrides = [(_conditions(o.when), o.training) for o in self.overrides]
        excludes = [_conditions(entry) for entry in self.exclude]
        axes_of, training_of = itemgetter(*AXES), itemgetter(*TRAINING_TYPES)
        lasting_of = itemgetter(*(key for key in TRAINING_TYPES if key != "epochs"))
        trainings: dict[tuple, Training] = {}
        trials: dict[tuple, Trial] = {}
        excluded = 0
        for point in itertools.product(*self.space.values()):
            values = self.training | dict(zip(self.space, point, strict=True))
            for when, changes in overrides:
                if _matches(when, values):
                    values |= changes
            if any(_matches(entry, values) for entry in excludes):
                excluded += 1
                continue
            values = with_own_keys(values)
            key = training_of(values)
            if key not in trainings:
                trainings[key] = Training(**dict(zip(TRAINING_TYPES, key, strict=True)))
            training, at = trainings[key], axes_of(values)
            # An override, an axis of epochs or one of another model's parameters may make two
            # points one trial: the longest stays, for its rows are the others' and more.
            same = (at, lasting_of(values))
            earlier = trials.get(same)
            if earlier is None or earlier.training.epochs < training.epochs:
                trials[same] = Trial(**dict(zip(AXES, at, strict=True)), training=training)
        return tuple(trials.values()), excluded

    def resolved(self) -> dict[str, Any]:
        """Plain data that `load` reads back as the same sweep."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """`resolved` as YAML."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True)


#: Keys that pydantic checks by itself.
_PLAIN = (
    "resources",
    "keep_weights",
    "theory",
    "tf32",
    "checkpoint_every",
    "keep_checkpoints",
    "storage_patience",
    "max_failures",
    "watch",
)

_KEYS = {*Sweep.model_fields, *Resources.model_fields}


def _refusal(error: ValidationError) -> str:
    """One line for what pydantic found: the key, what it must be, and the value."""
    errors = error.errors()
    first = errors[0]
    # The branches of a union ("auto" or a number) each have an error at the same key.
    path = [part for part in first["loc"] if part in _KEYS]
    same = [e for e in errors if [part for part in e["loc"] if part in _KEYS] == path]
    words = [e["msg"].replace("Input should be", "").strip() for e in same]
    return f"{'.'.join(map(str, path))}: must be {' or '.join(words)}, not {_shown(first['input'])}"


def difference(old: Sweep, new: Sweep) -> list[str]:
    """What forbids ``new`` to go on with the results of ``old``; empty where nothing does.

    Every trial of the old sweep must be one of the new one's, with as many epochs or more. The
    lines name what by itself takes a trial away, not values that were merely added beside it.
    ``tf32`` is no trial's but every row's.
    """
    everywhere = [] if old.tf32 == new.tf32 else [f"tf32: {_plain(old.tf32)} -> {_plain(new.tf32)}"]
    if _keeps_trials(old, new):
        return everywhere
    changes = []  # what changed, and the old sweep with that change alone
    for part in ("space", "training"):
        before, after = getattr(old, part), getattr(new, part)
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                alone = {k: v for k, v in (before | {key: after.get(key)}).items() if v is not None}
                line = f"{part}.{key}: {_plain(before.get(key))} -> {_plain(after.get(key))}"
                changes.append((line, {part: alone}))
    for part in ("overrides", "exclude"):
        if getattr(old, part) != getattr(new, part):
            line = f"{part}: {_plain(old.resolved()[part])} -> {_plain(new.resolved()[part])}"
            changes.append((line, {part: getattr(new, part)}))
    guilty = [
        line
        for line, change in changes
        if not _keeps_trials(old, Sweep.model_construct(**dict(old) | change))
    ]
    return everywhere + (guilty or [line for line, _ in changes])


def _keeps_trials(old: Sweep, new: Sweep) -> bool:
    """Whether each trial of ``old`` is one of ``new``, with as many epochs or more."""
    epochs = {trial.trial_id: trial.training.epochs for trial in new.trials()}
    return all(epochs.get(t.trial_id, -1) >= t.training.epochs for t in old.trials())


def _plain(value: object) -> str:
    if value is None:
        return "absent"
    return str(list(value)) if isinstance(value, tuple) else str(value)


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
                    problem = f"the key {_shown(key.value)} stands here twice"
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


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise RequestError(f"{_named(str(path))}: cannot be read: {reason}") from None
    except ValueError as error:
        raise RequestError(f"{_named(str(path))}: cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str | bytes, origin: str) -> Any:
    """YAML text to plain data.

    Raises:
        RequestError: in one line, with ``origin`` and the place.
    """
    if len(text) > _MOST_BYTES:
        raise RequestError(f"{_named(origin)}: is over {_MOST_BYTES >> 10} KiB: no configuration")
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
    raise RequestError(f"{_named(origin)}: {' '.join(reason.split())}")


def _with(raw: Mapping[Any, Any], text: str) -> dict[Any, Any]:
    """``raw`` with one ``KEY=VALUE`` applied."""
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RequestError(f"--set {_shown(text)}: must be KEY=VALUE, as training.epochs=2")
    changed = inner = dict(raw)
    for part in path[:-1]:
        below = inner.get(part)
        if below is not None and not isinstance(below, Mapping):
            raise RequestError(f"--set {_named(key)}: {_named(part)} is not a mapping")
        inner[part] = dict(below or {})
        inner = inner[part]
    inner[path[-1]] = parse(value, f"--set {key}")
    return changed


def _require_known(raw: Mapping[Any, Any], known: Any, where: str) -> None:
    for key in raw:
        if key not in known:
            name = _named(key)
            raise RequestError(f"{where}{name}: unknown key; {nearest(name, known)}")


def _given(raw: Mapping[Any, Any], key: str, default: Any) -> Any:
    """What stands under ``key``; the default where nothing does."""
    value = raw.get(key)
    return default if value is None else value


def _name(value: object) -> str:
    if value is None:
        raise RequestError("name: is missing")
    if not isinstance(value, str):
        raise RequestError(f"name: must be text (quote it), not {_shown(value)}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", value):
        raise RequestError(
            f"name: must be letters, digits, '.', '_' and '-' (it names a folder), "
            f"not {_shown(value)}"
        )
    return value


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
        seen = set()
        for i, v in enumerate(checked):
            if v in seen:
                raise RequestError(f"{where}[{i}]: {_shown(v)} stands here twice")
            seen.add(v)
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


def _values(
    raw: Mapping[Any, Any],
) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any], dict[str, set[Any]]]:
    """The space, the whole training, and every value that either gives a key."""
    space = _space(raw.get("space"))
    training = {k: getattr(Training(), k) for k in TRAINING_TYPES}
    training |= _training(_given(raw, "training", {}), "training")
    every = {key: (value,) for key, value in training.items()} | space
    return space, training, {key: set(values) for key, values in every.items()}


def _overrides(
    value: object, known: dict[str, set[Any]], before: Mapping[str, set[Any]]
) -> list[dict[str, Any]]:
    """Overrides that concern some trial, checked; ``known`` learns the values that they give."""
    overrides = []
    for i, entry in enumerate(_list(value, "overrides")):
        where = f"overrides[{i}]"
        raw = _mapping(entry, where)
        _require_known(raw, Override.model_fields, f"{where}.")
        for part in Override.model_fields:
            if part not in raw:
                raise RequestError(f"{where}.{part}: is missing")
        when = _matcher(raw["when"], f"{where}.when", known, before)
        training = _training(raw["training"], f"{where}.training")
        if not when:
            continue
        for key, changed in training.items():
            known[key].add(changed)
        overrides.append({"when": when, "training": training})
    return overrides


def _matcher(
    value: object, where: str, known: Mapping[str, set[Any]], before: Mapping[str, set[Any]]
) -> dict[str, Any]:
    """A mapping of axis or training key to a value or a list of them, each of which occurs.

    What occurred ``before`` the space was narrowed goes; the mapping is empty where nothing that a
    key asks for is left, so that it matches no trial.
    """
    raw = _mapping(value, where)
    _require_known(raw, _VALUES, f"{where}.")
    if not raw:
        raise RequestError(f"{where}: is empty")
    matcher, vain = {}, False
    for key, wanted in raw.items():
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if not values:
            raise RequestError(f"{where}.{key}: is empty")
        checked = [_checked(key, v, f"{where}.{key}") for v in values]
        there = [v for v in checked if v in known[key]]
        for v in checked:
            if v not in known[key] | before.get(key, set()):
                have = sorted(known[key])
                few = ", ".join(map(str, have[:12])) + (", ..." if len(have) > 12 else "")
                raise RequestError(f"{where}.{key}: no trial has {_shown(v)}; they have {few}")
        vain = vain or not there
        matcher[key] = there if isinstance(wanted, list | tuple) else checked[0]
    return {} if vain else matcher


def _conditions(matcher: Mapping[str, Any]) -> list[tuple[str, frozenset[Any]]]:
    """Each key of a matcher with the values that it lets through."""
    return [
        (key, frozenset(wanted if isinstance(wanted, list | tuple) else [wanted]))
        for key, wanted in matcher.items()
    ]


def _matches(conditions: Sequence[tuple[str, frozenset[Any]]], values: Mapping[str, Any]) -> bool:
    return all(values[key] in wanted for key, wanted in conditions)
