"""What the command line says in one line, and the search for the name that was meant."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

#: Bounded in depth and length: YAML's aliases can make a page of text a tree of any size.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


class RequestError(ValueError):
    """What the user asked for cannot be done; the message is one line that says why.

    The command line prints it without a traceback and exits with `status`.
    """

    status = 2


class StorageError(RequestError):
    """The storage failed while a sweep ran: what is written is sound, the same command goes on."""

    status = 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class where it has none."""
    return next(iter(_lines(error)), type(error).__name__)


def last_line(text: object, default: str = "no message") -> str:
    """The last line that is not empty, where programs say what went wrong."""
    return next(reversed(_lines(text)), default)


def _lines(text: object) -> list[str]:
    return [line.strip() for line in str(text).splitlines() if line.strip()]


def nearest(name: object, choices: Iterable[str], others: Iterable[str] = ()) -> str:
    """Return ``"did you mean 'x'?"`` for a close name, otherwise the list of valid ones.

    ``others`` are valid too, but too many to list.
    """
    valid = sorted(choices)
    close = get_close_matches(str(name), [*valid, *others], n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "valid: " + ", ".join(valid)


def shown(value: object) -> str:
    """A value in a message: short, and one line."""
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:
        return "an integer of thousands of digits"  # Python refuses to print those
    return text if len(text) <= 60 else text[:57] + "..."


def named(key: object) -> str:
    """A key or a path in a message: as it stands, quoted where it would not fit a line."""
    plain = isinstance(key, str) and key.isprintable() and len(key) <= 200
    return str(key) if plain else shown(key)
