"""What a command prints, on whatever it prints to: a terminal, a pipe, a full disk, nothing.

Text that is not ours (names of files, data sets and clusters, errors of libraries) is printed as it
stands: no markup is ever parsed out of it. This is the one place that prints.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Columns below which a table or a live view is no longer read; plain lines are.
NARROWEST = 60
#: What a column of text that folds takes at least.
_FOLDED = 12
#: A line is no longer than this, whatever COLUMNS says.
_WIDEST = 500
#: What a terminal is taken for that does not say, or that says nonsense.
_USUAL = (80, 25)

#: Variables of which rich, typer and click take an integer, and raise at what is none.
_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")


def prepare() -> None:
    """Make this process print what can be printed and go on where nothing can; at its start."""
    # A file that is opened next must not become what prints go to.
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(free)
    for name in _SIZES:
        if name in os.environ and not re.fullmatch("[1-9][0-9]{0,4}", os.environ[name]):
            del os.environ[name]
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]  # else ~ is the root of the file system
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _stream(stream, 1 if name == "stdout" else 2))


def keep_home_absent() -> None:
    """Where there is no home, give matplotlib another place: it would make one."""
    if os.path.isdir(os.path.expanduser("~")) or "MPLCONFIGDIR" in os.environ:
        return
    import atexit
    import shutil
    import tempfile

    with suppress(OSError):
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="sparseae-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)


def _stream(stream: io.TextIOWrapper | None, descriptor: int) -> io.TextIOWrapper:
    raw = _Raw(descriptor)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")
    try:
        if stream.fileno() != descriptor:
            return stream  # somebody looks at it from within this process
    except (OSError, ValueError):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace",
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip


#: Is called once, when what is printed no longer arrives anywhere.
on_lost: list[Callable[[], object]] = []


class _Raw(io.RawIOBase):
    """A descriptor; once it takes nothing any more, what is written is dropped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lost = False
        self.mode = "wb"

    @property
    def name(self) -> int:
        return self._descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self._lost:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                return 0
            except OSError:
                self._lost = True
                while on_lost and self._descriptor == 1:
                    on_lost.pop()()
        return len(data)


def complain(message: object) -> None:
    """Print one line on stderr."""
    print(f"sparseae: {one_line(message)}", file=sys.stderr)


def one_line(message: object) -> str:
    """A message without what would break its line or drive the terminal."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in str(message)
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
    return f"{seconds / 3600:.1f} h"


def say(text: str | Text = "", style: str | None = None, indent: int = 0) -> None:
    """Print a line, however long."""
    from rich.text import Text

    line = text if isinstance(text, Text) else Text(text, style or "")
    console().print(Text(" " * indent) + line, soft_wrap=True)


def paragraph(text: str | Text, style: str | None = None, indent: int = 0) -> None:
    """Print text that wraps at the width of what it is printed to."""
    from rich.text import Text

    out = console()
    whole = text if isinstance(text, Text) else Text(text, style or "")
    lines = [whole] if out.width < NARROWEST else whole.wrap(out, out.width - indent)
    for line in lines:
        line.rstrip()
        say(line, indent=indent)


def write(text: str) -> None:
    """Print text as it is: what another program printed, or is to read."""
    sys.stdout.write(text)
    sys.stdout.flush()


def console(*, stderr: bool = False) -> Console:
    """Where tables and live views are printed."""
    from rich.console import Console

    width, height = _size(sys.stderr if stderr else sys.stdout)
    return Console(
        stderr=stderr, width=width, height=height, markup=False, emoji=False, highlight=False,
    )  # fmt: skip


def _size(stream: Any) -> tuple[int, int]:
    """Columns and lines: of the environment, of the terminal, or the usual."""
    try:
        found: tuple[int, int] = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):
        found = _USUAL
    named = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    wanted = [int(n) if re.fullmatch("[1-9][0-9]{0,4}", n) else 0 for n in named]
    width, height = (w or f or u for w, f, u in zip(wanted, found, _USUAL, strict=True))
    return min(width, _WIDEST), height


def table(
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str | Text]],
    *,
    title: str = "",
    head: bool = True,
    boxed: bool = False,
) -> None:
    """Print a table; where it would lose words for want of width, a line for each row.

    Args:
        columns: their names, each with ``left``, ``right`` or ``fold``, for text that may wrap.
        rows: their cells.
        title: above it.
        head: whether the columns' names are printed.
        boxed: whether a line is drawn below them.
    """
    from rich import box
    from rich.table import Table

    made = Table(
        title=title or None, title_justify="left", title_style="bold", show_header=head,
        box=box.SIMPLE_HEAD if boxed else None, padding=(0, 1, 0, 0) if boxed else (0, 1),
        pad_edge=boxed,
    )  # fmt: skip
    for name, kind in columns:
        made.add_column(
            name, justify="right" if kind == "right" else "left", no_wrap=kind != "fold",
            overflow="fold",
        )  # fmt: skip
    for row in rows:
        made.add_row(*row)
    show(made)


def show(made: Table) -> None:
    """Print a table of text; where it would lose words for want of width, a line for each row."""
    from rich.cells import cell_len

    out = console()
    needed = 0
    for column in made.columns:
        longest = max(cell_len(str(text)) for text in (column.header, *column.cells))
        folds = column.overflow == "fold" and not column.no_wrap
        column.min_width = min(_FOLDED, longest) if folds else longest
        needed += column.min_width + made.padding[1] + made.padding[3]
    if out.width >= max(NARROWEST, needed):
        out.print(made)
        return
    if made.title:
        say(str(made.title), "bold")
    names = [str(column.header) for column in made.columns]
    for first, *others in zip(*(column.cells for column in made.columns), strict=True):
        cells = [(name, str(cell).strip()) for name, cell in zip(names[1:], others, strict=True)]
        parts = [f"{name}={cell}" if name and made.show_header else cell for name, cell in cells
                 if cell]  # fmt: skip
        head = f"{first}: " if str(first).strip() else "  "
        say(f"{head}{', '.join(parts)}".replace("\n", ", "))
