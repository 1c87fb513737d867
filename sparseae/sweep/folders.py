"""The sweeps that lie in a folder: what each is and takes, and what of it can go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sparseae.errors import RequestError, first_line
from sparseae.results.location import Location
from sparseae.results.lock import only_run
from sparseae.sweep.checkpoints import CHECKPOINTS
from sparseae.sweep.config import Sweep


@dataclass(frozen=True)
class Found:
    """A sweep in a folder.

    Attributes:
        place: its folder.
        state: ``finished``, ``unfinished``, ``running``, or what is wrong with it.
        trials: how many it has; 0 where its configuration cannot be read.
        finished: how many of these have all their epochs.
        verdicts: how many of each, as last analysed; empty before.
        size: bytes of all its files.
        checkpoints: bytes of its checkpoints among them.
        when: the last change of a file.
        note: the configuration's.
        tags: likewise.
    """

    place: Path
    state: str
    trials: int
    finished: int
    verdicts: dict[str, int]
    size: int
    checkpoints: int
    when: datetime
    note: str
    tags: tuple[str, ...]


def sweeps(folder: Path) -> list[Found]:
    """The sweeps in a folder, and in folders of it.

    Raises:
        RequestError: if there is no such folder.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder}: there is no such folder")
    places = sorted(file.parent for file in folder.rglob("sweep.yaml"))
    return [_look(place) for place in places if CHECKPOINTS not in place.parts]


def _look(place: Path) -> Found:
    files = [(file, file.stat()) for file in place.rglob("*") if file.is_file()]
    finished = _finished(place)
    try:
        sweep = Sweep.recorded((place / "sweep.yaml").read_bytes(), str(place / "sweep.yaml"))
    except (RequestError, OSError) as error:
        state, trials, note, tags = first_line(error), 0, "", ()
        done = len(finished)
    else:
        wanted = {t.trial_id: t.training.epochs for t in sweep.trials()}
        done = sum(finished.get(trial_id, -1) >= epochs for trial_id, epochs in wanted.items())
        trials, note, tags = len(wanted), sweep.note, sweep.tags
        state = "finished" if done == trials else "unfinished"
        state = "running" if _runs(place) else state
    return Found(
        place=place,
        state=state,
        trials=trials,
        finished=done,
        verdicts=_verdicts(place / "verdicts.parquet"),
        size=sum(about.st_size for _, about in files),
        checkpoints=sum(a.st_size for f, a in files if CHECKPOINTS in f.relative_to(place).parts),
        when=datetime.fromtimestamp(max(about.st_mtime for _, about in files)),
        note=note,
        tags=tags,
    )


def _finished(place: Path) -> dict[str, int]:
    """The last epoch of each trial that has rows."""
    parts = [f for f in (place / "epochs").glob("*.parquet") if not f.name.startswith(("_", "."))]
    if not parts:
        return {}
    table = ds.dataset(parts).to_table(columns=["trial_id", "epoch"])
    last = table.group_by("trial_id").aggregate([("epoch", "max")])
    return dict(zip(last["trial_id"].to_pylist(), last["epoch_max"].to_pylist(), strict=True))


def _verdicts(file: Path) -> dict[str, int]:
    if not file.is_file():
        return {}
    table = pq.read_table(file, columns=["dataset", "verdict"]).to_pylist()
    counts: dict[str, int] = {}
    for row in table:
        if row["dataset"] == "all" and row["verdict"] != "not tested":
            counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    return counts


def _runs(place: Path) -> bool:
    """Whether a process of this machine, or one that shares its locks, trains it now."""
    try:
        with only_run(Location.of(place), lambda message: None):
            return False
    except RequestError:
        return True


def removable(place: Path) -> Iterator[tuple[Path, int, str]]:
    """What of a sweep its results do not need: (file or folder, bytes, what it is).

    Raises:
        RequestError: if the folder is of no sweep.
    """
    if not (place / "sweep.yaml").is_file():
        raise RequestError(f"{place}: is not the folder of a sweep; sparseae list {place.parent}")
    if (place / CHECKPOINTS).is_dir():
        what = "checkpoints: without them more epochs begin anew"
        if not list((place / "weights").glob("*.safetensors")):
            what += ", and load_model has no weights"
        yield place / CHECKPOINTS, _size(place / CHECKPOINTS), what
    for kind in ("epochs", "units", "weights"):
        for file in (place / kind).glob("*"):
            if file.name.startswith("_unreadable-"):
                yield file, _size(file), "could not be read and was put aside"
            elif file.name.startswith("."):
                yield file, _size(file), "was not written to its end"


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())
