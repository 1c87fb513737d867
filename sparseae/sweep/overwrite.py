"""``--overwrite``: delete what a sweep left in its folder, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pyarrow import fs

from sparseae.errors import RequestError
from sparseae.results.location import Location
from sparseae.results.lock import LOCK_FILE
from sparseae.sweep.checkpoints import CHECKPOINTS
from sparseae.yamltext import recorded

_CONFIGURATION = "sweep.yaml"

#: Every name that sparseae, or Tune for it, gives a file, from the sweep's folder.
_OWN = re.compile(
    r"(sweep(\.source)?|asked)\.yaml | (gemm|looks|next|watch-[a-z]+)\.json"
    r"| (trends|verdicts)\.parquet"
    r"| (epochs|units)/(_unreadable-)?part-[^/]*\.parquet"
    r"| weights/[0-9a-f]{16}\.safetensors"
    r"| report/(report\.html"
    r"| (figure\d|explanations|(epochs|theory|units|filters|sigma2)-)[^/]*\.(png|svg))"
    r"| tensorboard/([^/]+/)*events\.out\.tfevents\.[^/]*"
    rf"| {CHECKPOINTS}/[^/]+/checkpoint_\d{{6}}/[^/]+"
    rf"| {CHECKPOINTS}/[^/]+/(error\.(txt|pkl) | params\.(json|pkl) | result\.json | progress\.csv"
    r"| events\.out\.tfevents\.[^/]*)"
    rf"| {CHECKPOINTS}/(_index\.json | [^/]*\.pkl | (experiment_state|search)[^/]*\.json"
    r"| \.validate_storage_marker)"
    r"| (([^/]+/)*)\.[^/]+\.[0-9a-f]{8}",  # what `Location.write_bytes` had not finished
    re.VERBOSE,
)

#: Files deleted at once: each is a request to an object store.
_AT_ONCE = 16


def require_ours(location: Location) -> None:
    """Refuse to delete anything in a folder that is not the folder of a sweep of that name.

    Raises:
        RequestError: if something is there, but no ``sweep.yaml`` that a sweep of its name wrote.
    """
    there = [info for info in location.infos() if info.base_name != LOCK_FILE]
    if not there:
        return
    file = location / _CONFIGURATION
    try:
        known = recorded(file.read_bytes(), str(file))
        ours = isinstance(known, Mapping) and known.get("name") == location.name
        ours = ours and isinstance(known.get("space"), Mapping | list) and "training" in known
    except (FileNotFoundError, RequestError):
        ours = False
    if not ours:
        raise RequestError(
            f"{location}: has no {_CONFIGURATION} of a sweep {location.name!r}, so --overwrite "
            "deletes nothing there; give the sweep another name or --results"
        )


def clear(location: Location) -> None:
    """Delete what a sweep left, the lock apart; a stranger's files and their folders stay.

    Raises:
        RequestError: see `require_ours`.
    """
    require_ours(location)
    infos = location.infos(recursive=True)
    names = {info.path: info.path.removeprefix(location.path + "/") for info in infos}
    own = [
        path
        for info in infos
        if info.type == fs.FileType.File and _OWN.fullmatch(names[path := info.path])
    ]
    # The configuration last: without it, what a kill left would be a stranger's.
    own.sort(key=lambda path: names[path] == _CONFIGURATION)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(location.filesystem.delete_file, own[:-1]))
    for path in own[-1:]:
        location.filesystem.delete_file(path)
    folders = [i.path for i in infos if i.type == fs.FileType.Directory]
    for folder in sorted(folders, key=len, reverse=True):
        below = Location(location.filesystem, folder)
        if below.exists() and not below.infos():
            below.delete_folder()
