"""``sparseae trials DIR TRIAL_ID``: what one trial is and what it came to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparseae.cli import _console as console

#: A trial_id; no prediction is called so.
PATTERN = re.compile(r"[0-9a-f]{16}")

_ROWS = 6


def show(place: str, trial_id: str, filters: Path | None) -> None:
    """Print a trial's configuration, some of its epochs and a command that trains it again.

    Raises:
        RequestError: if the sweep has no such trial.
    """
    from sparseae.analysis import plot
    from sparseae.errors import RequestError, nearest
    from sparseae.results import load

    frame = load(place)
    rows = frame[frame["trial_id"] == trial_id].sort_values("epoch")
    if rows.empty:
        known = frame["trial_id"].unique()
        raise RequestError(f"{place}: no trial {trial_id}; {nearest(trial_id, known[:5], known)}")
    for line in _lines(rows.iloc[-1].to_dict()):
        console.say(line)
    console.show(_table(rows))
    for command in _commands(place, rows.iloc[-1].to_dict()):
        console.say(command)
    if filters is not None:
        from sparseae import load_model

        plot.save(load_model(place, trial_id).filters(), filters)
        console.say(f"filters: {filters}")


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    from sparseae.model.trial import AXES, DEFAULTS

    axes = ", ".join(f"{axis} {row[axis]}" for axis in AXES)
    yield f"{row['trial_id']} of {row['sweep']}: {axes}"
    keys = {key: row[key] for key in DEFAULTS if row.get(key) == row.get(key) and key in row}
    yield ", ".join(f"{key} {value}" for key, value in keys.items())
    yield f"on {row['device']}"


def _commands(place: str, row: Mapping[str, Any]) -> Iterator[str]:
    """What trains this trial again, elsewhere: the sweep's configuration, narrowed to it."""
    from sparseae.analysis.behind import again
    from sparseae.results.location import Location
    from sparseae.results.reader import configuration_of, sweeps_in

    for location in sweeps_in(Location.of(place)):
        configuration = configuration_of(location)
        if configuration is None or configuration["name"] != row["sweep"]:
            continue
        yield again(str(location / "sweep.yaml"), configuration, row)


def _table(rows: Any) -> Any:
    """Some epochs, the first and the last among them."""
    from rich import box
    from rich.table import Table

    names = {
        "epoch": "epoch", "status": "status", "activation_fraction": "active",
        "dead_units": "dead units", "reconstruction_error": "error",
        "explained_variance": "explained", "pre_activation_mean": "mean a",
    }  # fmt: skip
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in names.values():
        table.add_column(heading, justify="right")
    step = max(1, -(-(len(rows) - 1) // (_ROWS - 1)))
    chosen = rows.iloc[sorted({*range(0, len(rows), step), len(rows) - 1})]
    for row in chosen[list(names)].itertuples(index=False):
        table.add_row(*map(_plain, row))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value != value:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
