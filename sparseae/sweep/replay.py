"""Training recorded trials again, to see whether the rows are what this code makes. No Ray.

A trial is trained alone, by the routine that its sweep recorded. On the kind of processor that made
its rows, with the same torch, routine and threads, every number must come out to the bit. Elsewhere
rounding differs, and training makes more of it: there epoch 0, which only measures, must agree to
`INITIAL`, and the activation fraction of every epoch to `TOLERANCE`.
"""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from sparseae import yamltext
from sparseae.engine.products import TORCH
from sparseae.errors import RequestError, nearest
from sparseae.model import MODELS
from sparseae.model.trial import Trial
from sparseae.results.location import Location
from sparseae.results.parquet import read_table
from sparseae.results.reader import sweeps_in
from sparseae.sweep.config import Sweep
from sparseae.sweep.piece import Piece, as_tensor
from sparseae.sweep.preparation import Preparation, described
from sparseae.sweep.provenance import git_commit, processor, versions
from sparseae.sweep.routines import FILE, routine_of, shape_of

#: Relative difference of a number of epoch 0, where sums of single precision alone can differ.
#: Measured between an AMD EPYC and an H200: 8e-7.
INITIAL = 1e-5

#: Difference of activation fractions at any epoch. Between that CPU and the H200 (171 trials of
#: 1,000 units on MNIST and CIFAR-10, 12 epochs) it was at most 0.0077, in the median of an epoch
#: at most 0.0003: trials that differ by less than 0.01 are equal to the analysis too.
TOLERANCE = 0.01

#: Columns that say where and how fast a row was made, or how far its trial was to go.
_NOT_COMPARED = {"sweep", "trial_id", "epoch", "epochs", "epoch_seconds", "device"}


@dataclass(frozen=True)
class Difference:
    """The first number that is another now.

    Attributes:
        where: the epoch or, behind the last one, the unit.
        column: the first of the columns that differ there.
        recorded, here: its values.
    """

    where: str
    column: str
    recorded: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.where}, {self.column}: {self.recorded!r} recorded, {self.here!r} here"


@dataclass(frozen=True)
class Replayed:
    """One trial, trained again.

    Attributes:
        trial: the trial.
        sweep: its sweep's folder.
        rows: epochs that were compared.
        units: units that were compared.
        first: what differs first; None where all is equal to the bit.
        largest: difference of the activation fractions, over the epochs.
        exact: whether equality to the bit is asked, because all that rounding depends on is equal.
        within: whether the rows agree as far as is asked.
        changes: what is not as it was when the rows were made.
    """

    trial: Trial
    sweep: str
    rows: int
    units: int
    first: Difference | None
    largest: float
    exact: bool
    within: bool
    changes: tuple[str, ...]


@dataclass(frozen=True)
class _Recorded:
    """A trial as its sweep has it: the rows by epoch, the units, where they come from."""

    trial: Trial
    sweep: Sweep
    location: Location
    rows: dict[int, dict[str, Any]]
    units: list[dict[str, Any]]
    origins: list[dict[str, Any]]


def sampled(
    place: str, *, trials: int, seed: int = 0, trial_ids: Sequence[str] = ()
) -> list[tuple[Location, Trial]]:
    """Some trials of a sweep, or of a folder of sweeps, of as many kinds as can be.

    Args:
        place: the folder or URL.
        trials: how many; all where there are fewer.
        seed: of the choice.
        trial_ids: these instead.

    Raises:
        RequestError: where there are none, or a trial_id is not among them.
    """
    known: dict[str, tuple[Location, Trial]] = {}
    for location in sweeps_in(Location.of(place)):
        written = _written(location)
        known |= {
            trial.trial_id: (location, trial)
            for trial in _configuration(location).trials()
            if trial.trial_id in written
        }
    for trial_id in trial_ids:
        if trial_id not in known:
            raise RequestError(f"{place}: no trial {trial_id!r}; {_near(trial_id, known)}")
    if trial_ids:
        return [known[trial_id] for trial_id in dict.fromkeys(trial_ids)]
    if not known:
        raise RequestError(f"{place}: no row is of a trial of its sweep.yaml")
    kinds: dict[tuple, list[str]] = defaultdict(list)
    for trial_id in sorted(known):
        t = known[trial_id][1]
        kinds[t.dataset, t.model, t.activation, t.constraint, t.training].append(trial_id)
    stream = random.Random(seed)
    queues = list(kinds.values())
    stream.shuffle(queues)
    for queue in queues:
        stream.shuffle(queue)
    chosen: list[str] = []
    while queues and len(chosen) < trials:
        chosen += [queue.pop() for queue in queues[: trials - len(chosen)]]
        queues = [queue for queue in queues if queue]
    return [known[trial_id] for trial_id in chosen]


def _near(trial_id: str, known: Mapping[str, Any]) -> str:
    return nearest(trial_id, sorted(known)[:3], known)


def replay(
    chosen: Sequence[tuple[Location, Trial]], *, epochs: int | None = None
) -> Iterator[Replayed]:
    """Train trials again and compare every row, one after the other.

    Args:
        chosen: of `sampled`.
        epochs: compare the first ones only.

    Raises:
        RequestError: if the results cannot be read, or the data are not those of the rows.
    """
    for location in dict.fromkeys(location for location, _ in chosen):
        own = [trial for where, trial in chosen if where is location]
        recorded = _read(location, own)
        by_data: dict[Preparation, list[_Recorded]] = defaultdict(list)
        for trial in own:
            by_data[Preparation.of(trial)].append(recorded[trial.trial_id])
        for preparation, members in by_data.items():
            x = _data(preparation, members[0])
            for one in members:
                yield _replayed(one, x, epochs)


def _configuration(location: Location) -> Sweep:
    file = location / "sweep.yaml"
    try:
        return Sweep.load(yamltext.recorded(file.read_bytes(), f"{file}: cannot be read"))
    except FileNotFoundError:
        raise RequestError(f"{location}: has no sweep.yaml; is it the folder of a sweep?") from None
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {error}") from None


def _written(location: Location) -> set[str]:
    """The trials that have a row."""
    written: set[str] = set()
    for table, _ in _parts(location, "epochs"):
        written.update(table["trial_id"].unique().to_pylist())
    return written


def _parts(location: Location, kind: str) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
    """Each part file of a sweep, with the origin that its metadata has."""
    files = (location / kind).files(".parquet")
    if not files and kind == "epochs":
        raise RequestError(f"{location}: has no epochs/*.parquet; is it the folder of a sweep?")
    for file in files:
        try:
            table = read_table(file)
            metadata = pq.read_schema(file.path, filesystem=file.filesystem).metadata or {}
        except (ValueError, OSError, pa.ArrowException) as error:
            raise RequestError(f"{file}: cannot be read: {error}") from None
        yield table, {k.decode().removeprefix("sparseae."): v.decode() for k, v in metadata.items()}


def _read(location: Location, trials: Sequence[Trial]) -> dict[str, _Recorded]:
    """What a sweep has of some trials."""
    sweep = _configuration(location)
    found = {t.trial_id: _Recorded(t, sweep, location, {}, [], []) for t in trials}
    wanted = pc.field("trial_id").isin(pa.array(list(found), pa.string()))
    for table, origin in _parts(location, "epochs"):
        for row in table.filter(wanted).to_pylist():
            one = found[row["trial_id"]]
            one.rows[row["epoch"]] = row
            if origin not in one.origins:
                one.origins.append(origin)
    for table, _ in _parts(location, "units"):
        for row in table.filter(wanted).to_pylist():
            found[row["trial_id"]].units.append(row)
    return found


def _data(preparation: Preparation, one: _Recorded) -> torch.Tensor:
    """The data, if they are those that the rows were made from."""
    dataset = preparation.prepare()
    ((label, now),) = described({preparation: dataset}).items()
    for origin in one.origins:
        before = json.loads(origin.get("datasets", "{}")).get(label, now)
        if before["fingerprint"] != now["fingerprint"]:
            raise RequestError(
                f"{one.location}: {label} is not what its rows were made from: fingerprint "
                f"{now['fingerprint']}, recorded {before['fingerprint']}"
            )
    return as_tensor(dataset.x)


def _replayed(one: _Recorded, x: torch.Tensor, epochs: int | None) -> Replayed:
    last = max(one.rows)
    end = last if epochs is None else min(last, epochs)
    routine, asked = _routine(one, x.shape[1])
    threads = _threads(one)
    with _threads_set(threads):
        device = _device(one)
        piece = Piece(
            [one.trial], x, device, one.sweep.name, routine,
            theory=one.sweep.theory, tf32=one.sweep.tf32,
        )  # fmt: skip
        piece.epochs = end
        while not piece.finished:
            piece.advance()
        # The units that are recorded are of the trial's last epoch.
        units = piece.units().to_pylist() if end == last and one.units else []
    rows = {row["epoch"]: row for row in piece.rows}
    shared = sorted(rows.keys() & one.rows.keys())
    exact, changes = _origin(one, routine, asked, piece.stack.device_name)
    first = next(_differing(one, rows, shared, units), None)
    gaps = [
        abs(a - b)
        for epoch in shared
        if (a := rows[epoch].get("activation_fraction")) is not None
        and (b := one.rows[epoch]["activation_fraction"]) is not None
    ]
    largest = max(gaps, default=0.0)
    return Replayed(
        trial=one.trial, sweep=str(one.location), rows=len(shared), units=len(units), first=first,
        largest=largest, exact=exact, changes=tuple(changes),
        within=first is None
        or (not exact and largest <= TOLERANCE and _begins_alike(one, rows, shared)),
    )  # fmt: skip


def _differing(
    one: _Recorded,
    rows: Mapping[int, Mapping[str, Any]],
    shared: Sequence[int],
    units: Sequence[Mapping[str, Any]],
) -> Iterator[Difference]:
    for epoch in shared:
        recorded = one.rows[epoch]
        for column in recorded:
            here = rows[epoch].get(column)
            if column not in _NOT_COMPARED and not _same(recorded[column], here):
                yield Difference(f"epoch {epoch}", column, recorded[column], here)
    recorded_units = {row["unit"]: row for row in one.units}
    for row in units:
        before = recorded_units.get(row["unit"], {})
        for column, value in before.items():
            if not _same(value, row.get(column)):
                yield Difference(f"unit {row['unit']}", column, value, row.get(column))


def _same(recorded: Any, here: Any) -> bool:
    both_nan = recorded != recorded and here != here
    return recorded == here or both_nan


def _begins_alike(
    one: _Recorded, rows: Mapping[int, Mapping[str, Any]], shared: Sequence[int]
) -> bool:
    """Whether each number of epoch 0 agrees to `INITIAL`, and every epoch has its status."""
    if any(one.rows[epoch]["status"] != rows[epoch]["status"] for epoch in shared):
        return False
    recorded, here = one.rows.get(0, {}), rows.get(0, {})
    # Sums that nearly cancel, as the mean pre-activation, are measured against the data's scale.
    least = 1e-3 * (recorded.get("reconstruction_error") or 1.0)
    return all(
        abs(value - here[column]) <= INITIAL * max(abs(value), least)
        for column, value in recorded.items()
        if column not in _NOT_COMPARED
        and isinstance(value, float)
        and isinstance(here.get(column), float)
        and value == value
    )


def _routine(one: _Recorded, inputs: int) -> tuple[str, str]:
    """The routine that this machine takes, and the recorded one."""
    shape = str(shape_of(one.trial, inputs))
    file = one.location / FILE
    try:
        choices = {str(k): str(v) for k, v in json.loads(file.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        choices = json.loads(one.origins[-1].get("gemm", "{}")) if one.origins else {}
    # What was trained before there was a record was trained by torch.mm.
    choices = {shape: TORCH} | choices
    logger = logging.getLogger(routine_of.__module__)
    disabled, logger.disabled = logger.disabled, True  # what is substituted is said below
    try:
        return routine_of(choices, one.trial, inputs), choices[shape]
    finally:
        logger.disabled = disabled


def _device(one: _Recorded) -> torch.device:
    """A GPU where one is here and one made the rows."""
    made_on = {row.get("device") for row in one.rows.values()}
    return torch.device("cuda" if torch.cuda.is_available() and made_on != {"cpu"} else "cpu")


def _threads(one: _Recorded) -> int:
    recorded = one.origins[-1].get("threads") if one.origins else None
    return int(recorded) if recorded else max(1, int(one.sweep.resources.cpu))


@contextmanager
def _threads_set(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _origin(one: _Recorded, routine: str, asked: str, device: str) -> tuple[bool, list[str]]:
    """Whether all that rounding depends on is as it was, and what is not."""
    before: dict[str, set[str]] = defaultdict(set)
    now = versions() | {"processor": processor(), "device": device, "routine": routine}
    for origin in one.origins:
        for package, number in json.loads(origin.get("versions", "{}")).items():
            before[package].add(number)
        before["processor"].add(origin.get("processor", "not recorded"))
        before["git_commit"].add(_short(origin.get("git_commit", "")) or "not recorded")
    before["device"] = {row.get("device") or "not recorded" for row in one.rows.values()}
    before["routine"] = {asked}
    now["git_commit"] = _short(git_commit()) or "not known"
    binding = ("processor", "torch", "device", "routine")
    exact = device == "cpu" and all(before[key] == {now[key]} for key in binding)
    changes = [
        f"{key}: {', '.join(sorted(before[key]))} -> {now[key]}"
        for key in [*binding, "numpy", "python", "git_commit"]
        if key in now and before[key] and before[key] != {now[key]}
    ]
    made_on_cpu = {name == "cpu" for name in before["device"]}
    t = one.trial
    if MODELS[t.model](t.training).encoder_input.draws and made_on_cpu != {device == "cpu"}:
        changes.append("noise: a GPU and a CPU draw other numbers, as other seeds would")
    return exact, changes


def _short(commit: str) -> str:
    return commit[:12] + "+" * commit.endswith("+")
