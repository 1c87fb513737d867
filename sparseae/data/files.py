"""Finding, downloading and reading the files of a data set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparseae import paths
from sparseae.errors import RequestError, named

#: The folder with data sets that a user has, each in a folder of its own.
DATA_DIR = "SPARSEAE_DATA_DIR"


def folders(name: str) -> Iterator[Path]:
    """Where the files of a data set may be: the user's folder, then the cache."""
    if own := os.environ.get(DATA_DIR):
        folder = Path(paths.checked(own, DATA_DIR))
        if not folder.is_dir():
            raise RequestError(f"{DATA_DIR}={named(own)}: there is no such folder")
        yield folder / name
    yield cache(name)


def cache(name: str) -> Path:
    """Where downloads go."""
    import pooch  # here, so that a machine with torch and numpy alone can train on what it has

    found = Path(pooch.os_cache("sparseae"))
    if not found.is_absolute():  # XDG_CACHE_HOME, of which a relative one is none
        found = Path.home() / ".cache" / "sparseae"
    return found / name


def find(name: str, *candidates: str) -> list[Path]:
    """The candidate files of the first folder that has any: files of two folders never mix."""
    for folder in folders(name):
        if found := [folder / c for c in candidates if (folder / c).is_file()]:
            return found
    return []


def download(name: str, url: str, checksum: str, *, unpack: str | None = None) -> Path:
    """Download a file into the cache, checked against its published checksum.

    ``unpack`` names the folder to take from a tar archive; it appears whole or not at all, since
    half of it would pass for a data set with fewer files. Returns the file, or that folder.

    Raises:
        RequestError: in one line, with how to supply the file by hand.
    """
    import pooch

    file = url.rsplit("/", 1)[-1]
    place = cache(name)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _Bar(file) as bar, tempfile.TemporaryDirectory(dir=place) as scratch:
            fresh = Path(scratch) / "unpacked"
            pooch.retrieve(
                url,
                known_hash=checksum,
                fname=file,
                path=place,
                processor=pooch.Untar(extract_dir=str(fresh)) if unpack else None,
                # pooch takes an object as the bar too, which its types do not say.
                downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16),  # type: ignore
            )
            if unpack:
                (fresh / unpack).replace(place / unpack)
                (place / file).unlink()
    except Exception as error:
        by_hand = f"{file}, unpacked," if unpack else file
        raise RequestError(
            f"{name}: downloading {url} failed ({one_line(error)}); by hand: put {by_hand} into "
            f"{place}, or into a folder {name}/ and set {DATA_DIR} to the folder around it"
        ) from None
    return place / (unpack or file)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make whatever goes wrong while a file is read a RequestError that names the file."""
    try:
        yield
    except RequestError:
        raise
    except MemoryError:
        raise RequestError(f"{path}: does not fit into memory") from None
    except Exception as error:
        # Damaged files make the readers of gzip, numpy and pyarrow raise almost anything.
        if isinstance(error, OSError) and error.errno:
            raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
        raise RequestError(f"{path}: is truncated or corrupt: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """What an exception says, short and without line breaks."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


class _Bar:
    """pooch's interface to a progress bar, drawn by rich where there is a terminal."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

        console = Console(stderr=True)
        self.total = 0
        self._progress = Progress(
            *Progress.get_default_columns(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, size: int) -> None:
        self._progress.start()
        self._progress.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        """pooch calls this at a good end only; ``__exit__`` stops the bar at any."""
