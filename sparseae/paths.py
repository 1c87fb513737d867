"""A path or a URL that somebody names: checked in one place, before anything is made of it."""

from __future__ import annotations

import os
import re

from sparseae.errors import RequestError, named, shown

#: A URL of which a slash was lost would be a folder of that name.
_SLIP = re.compile(r"(s3a?|gs|gcs|abfss?|az|hdfs|https?|file|local|memory):/(?!/)(.*)", re.DOTALL)

#: KEY@ or KEY:SECRET@ before a URL's host. A secret may hold slashes, and a path an @.
_USER_INFO = re.compile(r"^(?:[^/@]*:(?!\d+/).*|[^/@]*)@")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")

_SECRET_OPTION = re.compile(r"(?i)((?:^|&)[^=&]*(?:key|secret|token|passw|sig)[^=&]*=)[^&]+")


def is_url(place: object) -> bool:
    """Whether a place is named by a URL."""
    return "://" in str(place)


def public(place: object) -> str:
    """A place for people and logs: a URL without the key in it."""
    return named(_without_secret(str(place)))


def has_secret(place: object) -> bool:
    """Whether a URL holds a key, which then stands wherever the URL is written."""
    return _without_secret(str(place)) != str(place)


def in_public(text: str) -> str:
    """A text for people and logs: each URL in it without its key."""
    return _URL.sub(lambda found: _without_secret(found[0]), text)


def _without_secret(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    rest, question, options = rest.partition("?")
    rest = _USER_INFO.sub("...@", rest)
    options = _SECRET_OPTION.sub(r"\1...", options)
    return f"{scheme}://{rest}{question}{options}"


def checked(place: object, what: str) -> str:
    """The text of a path or URL, with ``~`` written out.

    Args:
        place: as the user gave it, text or a path.
        what: it is, for a refusal: ``--results``, ``SPARSEAE_DATA_DIR``.

    Raises:
        RequestError: if it is empty, no path at all, or of a user that there is not.
    """
    try:
        text = os.fspath(place)  # type: ignore[arg-type]
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise RequestError(f"{what}: must be a path or a URL, not {shown(place)}")
    if not text.strip():
        raise RequestError(f"{what}: is empty: name a folder or a file (. is this one)")
    if "\0" in text:
        raise RequestError(f"{what}: {shown(text)} has a NUL, which no path can have")
    if slip := _SLIP.fullmatch(text):
        raise RequestError(
            f"{what}: {named(text)} lacks a slash; did you mean {slip[1]}://{named(slip[2])}?"
        )
    return _home(text, what) if text.startswith("~") and not is_url(text) else text


def _home(text: str, what: str) -> str:
    user, _, rest = text[1:].partition("/")
    home = os.path.expanduser(f"~{user}")
    empty = not user and os.environ.get("HOME") == ""  # it would be the root of the file system
    if os.path.isabs(home) and not empty:
        return os.path.join(home, rest) if rest else home
    if user:
        raise RequestError(
            f"{what}: {named(text)}: there is no user {named(user)}; a folder of that name is "
            f"./{named(text)}"
        )
    raise RequestError(f"{what}: {named(text)}: no home folder is known: set HOME to it")


def absolute(place: object, what: str) -> str:
    """The absolute path of a local place.

    Raises:
        RequestError: as `checked`; or where it is relative to a folder that is gone.
    """
    path = checked(place, what)
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise RequestError(
            f"{what}: {named(path)}: the working directory cannot be used ({error.strerror}): "
            "change to another one, or name an absolute path"
        ) from None
