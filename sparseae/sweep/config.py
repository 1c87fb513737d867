"""The configuration of a sweep: YAML or a mapping, checked whole before anything starts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparseae.errors import RequestError, named, shown
from sparseae.model.space import ZIP, Block, blocks, every_value, points, size
from sparseae.model.trial import AXES, TRAINING_TYPES, Training, Trial, with_own_keys
from sparseae.sweep.checks import (
    Flag,
    Number,
    Whole,
    Word,
    given,
    list_of,
    mapping,
    matcher_of,
    name_of,
    overrides_of,
    refusing,
    require_known,
    stack_of,
)
from sparseae.sweep.notify import is_reference
from sparseae.sweep.reading import changed, plain, read
from sparseae.sweep.space import require_data, values_of
from sparseae.yamltext import recorded, written

#: Listing this many trials took 14 s and half a gigabyte.
_MOST_TRIALS = 1_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(_Strict):
    """What one Tune trial asks Ray for."""

    #: CPUs of one Tune trial, and the threads that compute its steps.
    cpu: Annotated[Number, Field(gt=0)] = 1
    #: GPUs of one Tune trial; ``auto``: one where there is one. Those that share one take turns.
    gpu: Literal["auto"] | Annotated[Number, Field(ge=0)] = "auto"
    #: How many Tune trials run at once when all machines are there, for which the work is cut;
    #: ``auto``: as many as the cluster and its autoscaler's file hold. KubeRay tells nobody.
    workers: Literal["auto"] | Annotated[Whole, Field(ge=1, le=100_000)] = "auto"


class Override(_Strict):
    """Training keys that trials with certain values get."""

    #: Axis or key of training to the value, or a list of the values, of the trials meant.
    when: dict[str, Any]
    #: Keys of training and the values that these trials get.
    training: dict[str, Any]


class Sweep(_Strict):
    """A sweep, resolved: every default filled in, every value checked.

    Make one with `load`.
    """

    #: The sweep's name, of the folder of its results.
    name: Word
    #: Axis to values: model, activation, sigma2, constraint, dataset, seed and any key of training.
    #: A list of such blocks is their union.
    space: tuple[dict[str, tuple[Any, ...]], ...]
    #: Axes of space that go through their values in pairs, not in a product, as
    #: [hidden_units, learning_rate]; or a list of such groups.
    zip: tuple[tuple[str, ...], ...] = ()
    #: Axes whose trials train together as one Tune trial; what may differ in a stack is a number.
    stack: tuple[str, ...] = ("sigma2", "seed")
    #: How each trial trains.
    training: dict[str, Any]
    #: Entries with when: (axis or key to value or values) and training: (keys to values) for the
    #: trials that match; later entries win.
    overrides: tuple[Override, ...] = ()
    #: Entries of axis or key to value or values; what matches one is not trained.
    exclude: tuple[dict[str, Any], ...] = ()
    #: What one Tune trial asks Ray for.
    resources: Resources = Resources()
    #: Keep the final weights as weights/TRIAL_ID.safetensors.
    keep_weights: Flag = False
    #: Train with products in TF32 on GPUs that have it: faster, with 10 bits of mantissa. Not part
    #: of a trial's identity, so that a sweep has one value throughout.
    tf32: Flag = False
    #: Measure the terms of the theory every epoch (docs/theory.md).
    theory: Flag = False
    #: Epochs between checkpoints; ``auto``: about a minute's work.
    checkpoint_every: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    #: How many checkpoints of a Tune trial stay, the latest ones; or ``all``.
    keep_checkpoints: Literal["all"] | Annotated[Whole, Field(ge=1)] = 1
    #: Seconds that results on a network are tried to be written before the run stops.
    storage_patience: Annotated[Number, Field(ge=0)] = 300
    #: How often a Tune trial that failed is tried again, progress between two failures starting
    #: the count anew.
    max_failures: Annotated[Whole, Field(ge=0)] = 3
    #: Hours after which a run stops as after Ctrl-C; the same command goes on. Without: never.
    max_hours: Annotated[Number, Field(gt=0, lt=1e6)] | None = None
    #: Seconds after which a Tune trial that says nothing is ended and tried again; ten of its own
    #: epochs where that is longer.
    silent_after: Annotated[Number, Field(ge=1)] = 600
    #: A URL that gets a JSON POST, or a command, at the end, at the first failure, at a stall;
    #: ``$NAME`` takes it from the environment. Written nowhere (`sparseae.sweep.notify`).
    notify: Word | None = None
    #: Trackers that get a run for every trial: tensorboard, mlflow, wandb.
    watch: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    #: What a person wants to remember of the sweep; shown by sparseae list, kept in the metadata.
    note: Word = ""
    #: Words to find it by, likewise.
    tags: tuple[Word, ...] = ()

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
            raw: Any = source.resolved() | {"notify": source.notify}
        elif isinstance(source, str | os.PathLike):
            raw = read(source)
        else:
            raw = plain(source)
        if not isinstance(raw, Mapping):
            origin = f"{named(str(source))}: " if isinstance(source, str | os.PathLike) else ""
            raise RequestError(f"{origin}a configuration is a mapping, not {shown(raw)}")
        # What the file's exclude and overrides name may be gone from a space that was narrowed.
        before: dict[str, set[Any]] = {}
        if set_values:
            with suppress(RequestError):
                *_, before = values_of(raw)
                overrides_of(given(raw, "overrides", []), before, {})
        for text in [set_values] if isinstance(set_values, str) else set_values:
            raw = changed(raw, text)
        sweep = cls._checked(dict(raw), before)
        require_data(sweep.space)
        sweep._require_possible()
        return sweep

    @classmethod
    def recorded(cls, text: str | bytes, origin: str) -> Sweep:
        """The sweep of a ``sweep.yaml``, wherever its data may be now.

        Raises:
            RequestError: in one line, if it is not what a sweep wrote.
        """
        raw = recorded(text, origin)
        if not isinstance(raw, dict):
            raise RequestError(f"{named(origin)}: a configuration is a mapping, not {shown(raw)}")
        return cls._checked(raw, {})

    @classmethod
    def _checked(cls, raw: dict[Any, Any], before: Mapping[str, set[Any]]) -> Sweep:
        require_known(raw, cls.model_fields, "")
        name = name_of(raw.get("name"))
        space, pairs, training, known = values_of(raw)
        plain = {key: raw[key] for key in _PLAIN if raw.get(key) is not None}
        require_known(
            mapping(plain.get("resources", {}), "resources"), Resources.model_fields, "resources."
        )
        overrides = overrides_of(given(raw, "overrides", []), known, before)
        exclude = [
            matcher_of(entry, f"exclude[{i}]", known, before)
            for i, entry in enumerate(list_of(given(raw, "exclude", []), "exclude"))
        ]
        try:
            sweep = cls.model_validate(
                {
                    "name": name,
                    "space": space,
                    "zip": pairs,
                    "stack": stack_of(raw.get("stack", ["sigma2", "seed"])),
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
        return sweep

    def _require_possible(self) -> None:
        """Ask the model, the activation and the data set of each trial whether it can train."""
        from sparseae import data
        from sparseae.model import ACTIVATIONS, CONSTRAINTS, MODELS
        from sparseae.model.contract import UnsoundError, require_sound

        kinds = {(t.model, t.activation, t.constraint, t.training) for t in self.trials()}
        for model, activation, constraint, training in kinds:
            try:
                require_sound(
                    MODELS[model](training), ACTIVATIONS[activation](), CONSTRAINTS[constraint]()
                )
            except UnsoundError as error:
                raise RequestError(str(error)) from None
        asked = {(t.model, t.activation, t.dataset, t.training) for t in self.trials()}
        for model, activation, training in {(m, a, t) for m, a, _, t in asked}:
            for part in (MODELS[model], ACTIVATIONS[activation]):
                if problem := part.check(training):
                    raise RequestError(problem)
        shapes = {(d, t.samples, t.gaussian_inputs, t.holdout) for _, _, d, t in asked}
        for name, samples, inputs, holdout in shapes:
            with refusing("space.dataset", name):
                data.shape(name, samples=samples, gaussian_inputs=inputs, holdout=holdout)

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
    def blocks(self) -> list[Block]:
        """The blocks of the space, each with the pairs that hold in it."""
        return blocks(dict(self))

    @cached_property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Every axis of any block, with all its values."""
        return every_value(self.space, self.training)

    @property
    def _size(self) -> int:
        return sum(map(size, self.blocks))

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
        for point in itertools.chain.from_iterable(map(points, self.blocks)):
            values = self.training | point
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
        """Plain data that `load` reads back as the same sweep, for files: without a secret."""
        data = self.model_dump(mode="json")
        if len(self.space) == 1:
            data["space"] = data["space"][0]
        if self.notify is None or not is_reference(self.notify):
            del data["notify"]
        return data

    def text(self) -> str:
        """`resolved` as YAML."""
        return written(self.resolved())


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
    "max_hours",
    "silent_after",
    "notify",
    "watch",
    "note",
    "tags",
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
    return f"{'.'.join(map(str, path))}: must be {' or '.join(words)}, not {shown(first['input'])}"


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
    gone = [i for i, block in enumerate(old.space) if block not in new.space]
    come = [i for i, block in enumerate(new.space) if block not in old.space]
    if len(gone) == len(come):
        for i, j in zip(gone, come, strict=True):
            where = "space" if len(new.space) == 1 else f"space[{j}]"
            keys = list(_changed_keys(where, old.space[i], new.space[j]))
            if old.blocks[i][ZIP] or new.blocks[j][ZIP]:  # no axis of a pair changes alone
                keys = [("; ".join(line for line, _ in keys), new.space[j])]
            for line, alone in keys:
                changes.append((line, {"space": (*old.space[:i], alone, *old.space[i + 1 :])}))
    else:
        line = f"space: {len(old.space)} blocks -> {len(new.space)}"
        changes.append((line, {"space": new.space}))
    for line, alone in _changed_keys("training", old.training, new.training):
        changes.append((line, {"training": alone}))
    if old.zip != new.zip:
        line = f"zip: {_plain(old.zip)} -> {_plain(new.zip)}"
        changes.append((line, {"space": new.space, "zip": new.zip}))
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


def _changed_keys(
    where: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key that differs, in words, and ``before`` with that key alone as it is after."""
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            alone = {k: v for k, v in {**before, key: after.get(key)}.items() if v is not None}
            yield f"{where}.{key}: {_plain(before.get(key))} -> {_plain(after.get(key))}", alone


def _keeps_trials(old: Sweep, new: Sweep) -> bool:
    """Whether each trial of ``old`` is one of ``new``, with as many epochs or more."""
    epochs = {trial.trial_id: trial.training.epochs for trial in new.trials()}
    return all(epochs.get(t.trial_id, -1) >= t.training.epochs for t in old.trials())


def _plain(value: object) -> str:
    if value is None:
        return "absent"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _conditions(matcher: Mapping[str, Any]) -> list[tuple[str, frozenset[Any]]]:
    """Each key of a matcher with the values that it lets through."""
    return [
        (key, frozenset(wanted if isinstance(wanted, list | tuple) else [wanted]))
        for key, wanted in matcher.items()
    ]


def _matches(conditions: Sequence[tuple[str, frozenset[Any]]], values: Mapping[str, Any]) -> bool:
    return all(values[key] in wanted for key, wanted in conditions)
