"""Where results live: a local folder or a pyarrow or fsspec URL, written whole files at a time."""

from __future__ import annotations

import functools
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from sparseae import paths
from sparseae.errors import RequestError, first_line
from sparseae.results.patience import Patient, as_os_error


class Location:
    """A folder on a filesystem. A reader of it never sees half a file.

    Locally a file is written beside its place under a name that readers skip, then renamed; an
    object store shows an object only once it is complete.
    """

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self.filesystem = filesystem
        self.path = path.rstrip("/")

    @classmethod
    def of(cls, place: str | Path, what: str = "DIR") -> Location:
        """The location of a path or a URL such as ``s3://bucket/prefix``.

        Args:
            place: the path or URL.
            what: it is, for a refusal.

        Raises:
            RequestError: if it is none (`sparseae.paths`), or the URL is of no known filesystem.
        """
        given = url = paths.checked(place, what)
        if not paths.is_url(given):
            return cls(fs.LocalFileSystem(), paths.absolute(given, what))
        if url.startswith("s3://"):
            # A small file is then one request, not an upload in parts.
            url += "&" if "?" in url else "?"
            url += "allow_delayed_open=true"
        try:
            filesystem, path = fs.FileSystem.from_uri(url)
        except pa.ArrowInvalid:
            return cls._of_fsspec(given, what)
        except (OSError, ValueError, NotImplementedError) as error:
            raise RequestError(f"{what}: {paths.public(given)}: {_reason(error, given)}") from None
        return cls(filesystem, path)

    @classmethod
    def _of_fsspec(cls, url: str, what: str) -> Location:
        import fsspec  # Ray brings it; only URLs that pyarrow does not know need it

        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except Exception as error:  # what a filesystem's own package raises is anything
            raise RequestError(f"{what}: {paths.public(url)}: {_reason(error, url)}") from None
        return cls(fs.PyFileSystem(_Fsspec(filesystem)), path)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def patient(self, seconds: float) -> Location:
        """The same folder; over a network, calls that fail are tried again for so long."""
        if self.is_local:
            return self
        return Location(fs.PyFileSystem(Patient(self.filesystem, seconds)), self.path)

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        if self.is_local:
            try:
                relative = os.path.relpath(self.path)
            except OSError:  # the working directory is gone
                return self.path
            return self.path if relative.startswith("..") else relative
        kind = self.filesystem.type_name.removeprefix("py::").removeprefix("fsspec+")
        return f"{kind}://{self.path}"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    def exists(self) -> bool:
        return self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound

    def is_file(self) -> bool:
        return self.filesystem.get_file_info(self.path).type == fs.FileType.File

    def infos(self, *, recursive: bool = False) -> list[fs.FileInfo]:
        """Everything below, by path: files, also those that readers skip, and folders."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        return sorted(self.filesystem.get_file_info(selector), key=lambda info: info.path)

    def files(self, suffix: str = "", *, recursive: bool = False) -> list[Location]:
        """The files below, by name, without those that readers skip ('.' or '_' first)."""
        return [
            Location(self.filesystem, info.path)
            for info in self.infos(recursive=recursive)
            if info.type == fs.FileType.File
            and info.path.endswith(suffix)
            and not info.base_name.startswith((".", "_"))
        ]

    def folders(self) -> list[Location]:
        """The folders right below, by name."""
        found = [info for info in self.infos() if info.type == fs.FileType.Directory]
        return [Location(self.filesystem, info.path) for info in found]

    def read_bytes(self) -> bytes:
        with as_os_error(), self.filesystem.open_input_stream(self.path) as stream:
            return stream.readall()

    def write_bytes(self, data: bytes | pa.Buffer) -> None:
        """Write the whole file or nothing."""
        if not self.is_local:
            with as_os_error(), self.filesystem.open_output_stream(self.path) as stream:
                stream.write(data)
            return
        folder = os.path.dirname(self.path)
        os.makedirs(folder, exist_ok=True)
        draft = os.path.join(folder, f".{self.name}.{uuid.uuid4().hex[:8]}")
        try:
            with open(draft, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, self.path)
            _sync(folder)
        except BaseException:
            if os.path.exists(draft):
                os.remove(draft)
            raise

    def delete(self) -> None:
        """Remove the file."""
        self.filesystem.delete_file(self.path)

    def delete_folder(self) -> None:
        """Remove the folder and all in it."""
        self.filesystem.delete_dir(self.path)

    def rename(self, name: str) -> None:
        """Give the file another name in the same folder."""
        self.filesystem.move(self.path, f"{self.path.rsplit('/', 1)[0]}/{name}")


def _reason(error: Exception, url: str) -> str:
    """What a filesystem says of a URL, which may repeat it with the key in it."""
    return first_line(error).replace(url, paths.public(url))


class _Fsspec(fs.FSSpecHandler):
    """An fsspec filesystem whose every failure is an OSError."""


def _as_os_error(name: str) -> Any:
    inner = getattr(fs.FSSpecHandler, name)

    @functools.wraps(inner)
    def call(self: _Fsspec, *arguments: Any, **options: Any) -> Any:
        with as_os_error():
            return inner(self, *arguments, **options)

    return call


for _name in (
    "get_file_info", "get_file_info_selector", "create_dir", "delete_dir", "delete_dir_contents",
    "delete_file", "move", "copy_file", "open_input_stream", "open_input_file",
    "open_output_stream",
):  # fmt: skip
    setattr(_Fsspec, _name, _as_os_error(_name))


def _sync(folder: str) -> None:
    """Make a rename outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def below(place: str | Path, name: str) -> str:
    """The path or URL of what is called ``name`` in a folder; a URL's options stay at its end.

    Raises:
        RequestError: if the folder is none (`sparseae.paths`).
    """
    text = paths.checked(place, "results")
    folder, mark, options = text.partition("?") if paths.is_url(text) else (text, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{options}"
