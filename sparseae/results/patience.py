"""A filesystem over a network: tried again, with growing pauses, while it does not answer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from sparseae.errors import first_line

T = TypeVar("T")


@contextmanager
def as_os_error() -> Iterator[None]:
    """Whatever a filesystem's own package raises (gcsfs, adlfs) as an OSError, as others raise.

    Those are tried again, and said in one line.
    """
    try:
        yield
    except (OSError, NotImplementedError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error


#: Answers, not the lack of one.
_ANSWERS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class Patient(fs.FileSystemHandler):
    """Hands every call on to another filesystem, again and again for so many seconds.

    What is written leaves when the stream closes, as a whole, so that it can be sent again. Once
    the patience has run out, calls fail at once until one succeeds.

    Args:
        filesystem: the one that does the work.
        seconds: how long a call is tried.
    """

    def __init__(self, filesystem: fs.FileSystem, seconds: float) -> None:
        self._inner = filesystem
        self._seconds = seconds
        self._given_up = False

    def _try(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        stop = time.monotonic() + (0.0 if self._given_up else self._seconds)
        pause = _FIRST_PAUSE
        while True:
            try:
                result = call(*arguments, **options)
            except _ANSWERS:
                raise
            except OSError as error:
                if time.monotonic() + pause > stop:
                    self._given_up = True
                    raise
                if pause == _FIRST_PAUSE:
                    logging.getLogger(__name__).warning(
                        "the storage does not answer (%s); tried again for %.0f s",
                        first_line(error), self._seconds,
                    )  # fmt: skip
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._given_up = False
                return result

    def _download(self, path: str) -> pa.Buffer:
        with as_os_error(), self._inner.open_input_stream(path) as stream:
            return stream.read_buffer()

    def _upload(self, path: str, content: bytearray, metadata: Any) -> None:
        with as_os_error(), self._inner.open_output_stream(path, metadata=metadata) as stream:
            stream.write(content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patient) and self._inner == other._inner

    def __ne__(self, other: object) -> bool:
        return not self == other

    def get_type_name(self) -> str:
        return self._inner.type_name

    def normalize_path(self, path: str) -> str:
        return self._inner.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> Any:
        return self._try(self._inner.get_file_info, paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        return self._try(self._inner.get_file_info, selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._try(self._inner.create_dir, path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._try(self._inner.delete_dir, path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._try(self._inner.delete_dir_contents, path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("a sweep never empties a whole filesystem")

    def delete_file(self, path: str) -> None:
        self._try(self._inner.delete_file, path)

    def move(self, src: str, dest: str) -> None:
        self._try(self._inner.move, src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._try(self._inner.copy_file, src, dest)

    def open_input_stream(self, path: str) -> Any:
        # Whole, so that a connection that breaks in the middle is tried again too.
        return pa.BufferReader(self._try(self._download, path))

    def open_input_file(self, path: str) -> Any:
        return self._try(self._inner.open_input_file, path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        def send(content: bytearray) -> None:
            self._try(self._upload, path, content, metadata)

        return pa.PythonFile(_Draft(send), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError("results are whole files")


class _Draft:
    """Collects what is written and sends it when it is closed, never because it is forgotten."""

    def __init__(self, send: Callable[[bytearray], None]) -> None:
        self._send = send
        self._content = bytearray()
        self.closed = False

    def write(self, data: Any) -> int:
        self._content += data
        return len(data)

    def flush(self) -> None:
        pass

    def tell(self) -> int:
        return len(self._content)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._send(self._content)
