"""Finding the files of a data set, and downloading them from their official places."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pooch

from sparseae.errors import RequestError

#: The folder with data sets that a user has, each in a folder of its own.
DATA_DIR = "SPARSEAE_DATA_DIR"


def folders(name: str) -> list[Path]:
    """Where the files of a data set may be: the user's folder, then the cache."""
    places = [cache(name)]
    if own := os.environ.get(DATA_DIR):
        places.insert(0, Path(own) / name)
    return places


def cache(name: str) -> Path:
    """Where downloads go."""
    return Path(pooch.os_cache("sparseae")) / name


def find(name: str, *candidates: str) -> Path | None:
    """The first of the candidate files that is there."""
    for folder in folders(name):
        for candidate in candidates:
            if (folder / candidate).is_file():
                return folder / candidate
    return None


def download(name: str, url: str, checksum: str, processor: Callable | None = None) -> Path:
    """Download a file into the cache, checked against its published checksum.

    Raises:
        RequestError: in one line, with how to supply the file by hand.
    """
    file = url.rsplit("/", 1)[-1]
    try:
        pooch.retrieve(
            url,
            known_hash=checksum,
            fname=file,
            path=cache(name),
            processor=processor,
            # pooch takes an object as the bar too, which its types do not say.
            downloader=pooch.HTTPDownloader(progressbar=_Bar(file), timeout=30),  # type: ignore
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(
            f"{name}: {url} could not be downloaded ({reason[:160]}); put {file} into "
            f"{cache(name)} by hand, or into a folder {name}/ and set {DATA_DIR} to its parent"
        ) from None
    return cache(name) / file


class _Bar:
    """pooch's interface to a progress bar, drawn by rich."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

        self._total = value
        self._progress = Progress(
            *Progress.get_default_columns(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(self._label, total=value)
        self._progress.start()

    def update(self, size: int) -> None:
        self._progress.update(self._task, advance=size)

    def reset(self) -> None:
        self._progress.reset(self._task, total=self._total)

    def close(self) -> None:
        # pooch resets and fills the bar at the end, so it is full here.
        self._progress.update(self._task, completed=self._total)
        self._progress.stop()
