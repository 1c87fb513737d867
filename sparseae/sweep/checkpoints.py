"""Which checkpoint each trial goes on from, and which serve nobody any more.

A run that has ended leaves beside the checkpoints an index of what is in them, so that the next one
opens none but those it goes on from. What the index does not know is opened: what a killed run
left, or a file whose size or time is another than when it was indexed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyarrow import fs

from sparseae.results.location import Location
from sparseae.sweep.config import Sweep
from sparseae.sweep.piece import STATE_FILE, Checkpoint, DamagedCheckpointError

#: The folder of checkpoints under ``DIR/NAME``; Tune's own storage too.
CHECKPOINTS = "checkpoints"

#: Beside the folders of checkpoints; readers skip the name.
INDEX_FILE = "_index.json"

#: Checkpoints opened at once: each is a request or two to an object store.
_AT_ONCE = 16


class Checkpoints:
    """The checkpoints of a sweep.

    Args:
        location: the sweep's folder.
        sweep: it may go on to no epoch beyond its own.
        note: is told of those that are damaged.
        look: False where nothing is left to train, and so nothing to go on from.
    """

    def __init__(
        self,
        location: Location,
        sweep: Sweep,
        note: Callable[[str], None],
        *,
        look: bool = True,
    ) -> None:
        self._folder = location / CHECKPOINTS
        self._epochs = {trial.trial_id: trial.training.epochs for trial in sweep.trials()}
        self._keep = sweep.keep_checkpoints
        self._note = note
        self._known: dict[str, Checkpoint] = {}
        self._damaged: set[str] = set()
        if look:
            indexed = self._read_index()
            told = {path: checkpoint for path, (checkpoint, _) in indexed.items()}
            self._look(told, {path: key for path, (_, key) in indexed.items()})
            self._drop()

    def saved(self, checkpoint: Checkpoint) -> None:
        """This run has written one more."""
        self._known[checkpoint.location.path] = checkpoint

    def best(self) -> dict[str, Checkpoint]:
        """The furthest usable checkpoint of each trial."""
        best: dict[str, Checkpoint] = {}
        for _, checkpoint in sorted(self._known.items()):
            for trial_id in checkpoint.trial_ids:
                if checkpoint.epoch <= self._epochs.get(trial_id, -1) and (
                    trial_id not in best or best[trial_id].epoch < checkpoint.epoch
                ):
                    best[trial_id] = checkpoint
        return best

    def refresh(self) -> None:
        """Take in what this run has left, and delete what was gone on from."""
        self._look(dict(self._known), None)
        self._drop()

    def close(self) -> None:
        """`refresh`, and leave the index."""
        self.refresh()
        sizes = self._files()
        entries = [
            {
                "path": c.location.path.removeprefix(self._folder.path + "/"),
                "key": sizes[path],
                "epoch": c.epoch,
                "trial_ids": c.trial_ids,
            }
            for path, c in sorted(self._known.items())
            if path in sizes
        ]
        if entries or (self._folder / INDEX_FILE).exists():
            (self._folder / INDEX_FILE).write_bytes(json.dumps(entries).encode())

    def _read_index(self) -> dict[str, tuple[Checkpoint, list[Any]]]:
        try:
            entries = json.loads((self._folder / INDEX_FILE).read_bytes())
            places = [self._folder / entry["path"] for entry in entries]
            return {
                place.path: (
                    Checkpoint(place, int(entry["epoch"]), tuple(entry["trial_ids"])),
                    entry["key"],
                )
                for place, entry in zip(places, entries, strict=True)
            }
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {}

    def _files(self) -> dict[str, list[Any]]:
        """Every checkpoint's folder, with what changes when it is written anew."""
        return {
            info.path.rsplit("/", 1)[0]: [info.size, info.mtime_ns]
            for info in self._folder.infos(recursive=True)
            if info.type == fs.FileType.File and info.base_name == STATE_FILE
        }

    def _look(self, told: Mapping[str, Checkpoint], keys: Mapping[str, list[Any]] | None) -> None:
        """What is there: as ``told`` where ``keys`` says that it is the same; else opened."""
        there = self._files()
        self._known = {
            path: told[path]
            for path, key in there.items()
            if path in told and (keys is None or keys.get(path) == key)
        }
        unknown = [p for p in there if p not in self._known and p not in self._damaged]
        self._open(unknown)

    def _open(self, paths: Iterable[str]) -> None:
        def read(path: str) -> Checkpoint | DamagedCheckpointError | None:
            try:
                return Checkpoint.read(Location(self._folder.filesystem, path))
            except DamagedCheckpointError as error:
                return error
            except FileNotFoundError:
                return None

        paths = list(paths)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for path, found in zip(paths, pool.map(read, paths), strict=True):
                if isinstance(found, Checkpoint):
                    self._known[path] = found
                elif found is not None:
                    self._damaged.add(path)
                    self._note(f"{found}; its trials go back to an earlier one")

    def _drop(self) -> None:
        """Delete those that no trial would go on from, where only the latest are kept."""
        if self._keep != 1:
            return
        best = self.best()
        for path, checkpoint in list(self._known.items()):
            if all(best.get(i, checkpoint) is not checkpoint for i in checkpoint.trial_ids):
                checkpoint.location.delete_folder()
                del self._known[path]
