"""Where results live: a local folder or a pyarrow or fsspec URL, written whole files at a time."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from sparseae.errors import RequestError
from sparseae.results.patience import Patient


class Location:
    """A folder on a filesystem. A reader of it never sees half a file.

    Locally a file is written beside its place under a name that readers skip, then renamed; an
    object store shows an object only once it is complete.
    """

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self.filesystem = filesystem
        self.path = path.rstrip("/")

    @classmethod
    def of(cls, place: str | Path) -> Location:
        """The location of a path or a URL such as ``s3://bucket/prefix``.

        Raises:
            RequestError: if the URL is of no known filesystem.
        """
        if "://" not in str(place):
            return cls(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(place)))
        url = str(place)
        if url.startswith("s3://"):
            # A small file is then one request, not an upload in parts.
            url += "&" if "?" in url else "?"
            url += "allow_delayed_open=true"
        try:
            filesystem, path = fs.FileSystem.from_uri(url)
        except pa.ArrowInvalid:
            return cls._of_fsspec(str(place))
        return cls(filesystem, path)

    @classmethod
    def _of_fsspec(cls, url: str) -> Location:
        import fsspec  # Ray brings it; only URLs that pyarrow does not know need it

        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            words = str(error).replace(url, redacted(url))
            raise RequestError(f"results {redacted(url)!r}: {words}") from None
        return cls(fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path)

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
            relative = os.path.relpath(self.path)
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

    def files(self, suffix: str = "", *, recursive: bool = False) -> list[Location]:
        """The files below, by name, without those that readers skip ('.' or '_' first)."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = self.filesystem.get_file_info(selector)
        return [
            Location(self.filesystem, info.path)
            for info in sorted(found, key=lambda info: info.path)
            if info.type == fs.FileType.File
            and info.path.endswith(suffix)
            and not info.base_name.startswith((".", "_"))
        ]

    def folders(self) -> list[Location]:
        """The folders right below, by name."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        found = sorted(self.filesystem.get_file_info(selector), key=lambda info: info.path)
        return [Location(self.filesystem, i.path) for i in found if i.type == fs.FileType.Directory]

    def read_bytes(self) -> bytes:
        with self.filesystem.open_input_stream(self.path) as stream:
            return stream.readall()

    def write_bytes(self, data: bytes | pa.Buffer) -> None:
        """Write the whole file or nothing."""
        if not self.is_local:
            with self.filesystem.open_output_stream(self.path) as stream:
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


def _sync(folder: str) -> None:
    """Make a rename outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


#: KEY@ or KEY:SECRET@ in front of a URL's host; a secret may hold slashes, a path may hold an @.
_USER_INFO = re.compile(r"^(?:[^/@]*:(?!\d+/).*|[^/@]*)@")

#: Options of a URL whose values are nobody else's business.
_SECRET_OPTION = re.compile(
    r"(?i)((?:^|[?&;])[^=&;]*(?:key|secret|token|passw|signature|sig)[^=&;]*=)[^&;]+"
)


def redacted(place: str | Path) -> str:
    """A path or URL without the credential that it may hold, for people and logs."""
    scheme, mark, rest = str(place).partition("://")
    if not mark:
        return str(place)
    rest, question, options = rest.partition("?")
    rest = _USER_INFO.sub("***@", rest)
    options = _SECRET_OPTION.sub(r"\1***", question + options)
    return f"{scheme}://{rest}{options}"


def secret_in(place: str | Path) -> bool:
    """Whether a URL holds a credential."""
    return redacted(place) != str(place)


def below(place: str | Path, name: str) -> str:
    """The path or URL of what is called ``name`` in a folder; a URL's options stay at its end."""
    folder, mark, options = str(place).partition("?") if "://" in str(place) else (place, "", "")
    return f"{str(folder).rstrip('/')}/{name}{mark}{options}"
