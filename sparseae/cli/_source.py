"""The argument CONFIG of the commands that take a configuration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sparseae.sweep.config import Sweep

Config = Annotated[
    str,
    typer.Argument(help="YAML file of the sweep; - is standard input."),
]
SetValues = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the configuration, repeatable."),
]


def sweep_of(config: str, set_values: list[str] | None) -> Sweep:
    """The sweep of a configuration, with what ``--set`` changes.

    Raises:
        RequestError: in one line.
    """
    from sparseae.sweep.config import Sweep

    return Sweep.load(_standard_input() if config == "-" else config, set_values or ())


def _standard_input() -> Any:
    from sparseae.errors import RequestError
    from sparseae.sweep.reading import MOST_BYTES, parse

    if sys.stdin is None:
        raise RequestError("CONFIG -: standard input is closed; name a file")
    try:
        text = sys.stdin.buffer.read(MOST_BYTES + 1)
    except OSError as error:
        raise RequestError(f"CONFIG -: cannot be read: {error.strerror}") from None
    return parse(text, "standard input")
