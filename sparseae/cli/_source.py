"""Arguments that several commands take: the configuration, and where it is trained."""

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
Address = Annotated[
    str | None, typer.Option(help="Ray cluster; without it Ray starts on this machine.")
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Train in this process, without Ray.")
]


def require_one_place(address: str | None, in_process: bool) -> None:
    """Refuse to train in two places."""
    from sparseae.errors import RequestError

    if address and in_process:
        raise RequestError("--address and --in-process exclude each other")


def sweep_of(config: str, set_values: list[str] | None) -> Sweep:
    """The sweep of a configuration, with what ``--set`` changes.

    Raises:
        RequestError: in one line.
    """
    from sparseae.sweep.config import Sweep

    return Sweep.load(_standard_input() if config == "-" else config, set_values or ())


def _standard_input() -> Any:
    from sparseae.errors import RequestError
    from sparseae.yamltext import MOST_BYTES, parse

    if sys.stdin is None:
        raise RequestError("CONFIG -: standard input is closed; name a file")
    try:
        text = sys.stdin.buffer.read(MOST_BYTES + 1)
    except OSError as error:
        raise RequestError(f"CONFIG -: cannot be read: {error.strerror}") from None
    return parse(text, "standard input")
