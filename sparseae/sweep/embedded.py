"""The configurations that come with the package: the quickstart, the paper's figures, the controls.

They lie in ``tune_configs/`` of a checkout, and in a wheel beside the code.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from sparseae.errors import RequestError, nearest

SCHEMA = "schema.json"

_INSTALLED = Path(__file__).parents[1] / "tune_configs"
_CHECKOUT = Path(__file__).parents[2] / "tune_configs"


def folder() -> Path:
    """Where they lie."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def names() -> list[str]:
    """Their names, as ``quickstart`` and ``reference/mnist``."""
    here = folder()
    return sorted(f.relative_to(here).with_suffix("").as_posix() for f in here.rglob("*.yaml"))


def path(name: str) -> Path:
    """The file of one.

    Raises:
        RequestError: if there is none of this name; the message says the nearest.
    """
    plain = name.removesuffix(".yaml").removeprefix("tune_configs/")
    if plain not in (known := names()):
        raise RequestError(f"configuration {name!r}: there is none; {nearest(plain, known)}")
    return folder() / f"{plain}.yaml"


def about(name: str) -> str:
    """What its comment says, to the end of the first sentence."""
    lines = path(name).read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    said = (line.lstrip("# ") for line in comment)
    text = " ".join(line for line in said if not line.startswith("yaml-language-server"))
    return re.split(r"(?<=[.?]) (?=[A-Z\d])", text)[0].rstrip(".")


def copy(name: str, to: Path) -> Path:
    """Copy one into a folder, with the schema that it names for editors; return the file.

    Raises:
        RequestError: if another file stands there, or the folder cannot be written.
    """
    content = path(name).read_bytes()
    target = to / path(name).relative_to(folder())
    try:
        if target.exists() and target.read_bytes() != content:
            raise RequestError(f"{target}: is there already and differs; name another --to")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        ours, theirs = (place / SCHEMA for place in (folder(), to))
        if not theirs.exists():
            theirs.write_bytes(ours.read_bytes())
    except OSError as error:
        raise RequestError(f"{target}: cannot be written: {error.strerror or error}") from None
    return target
