"""How trends and verdicts look in a notebook: a short table, nothing cut off."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import pandas as pd

_COLOURS = {
    "supported": "#1a7f37",
    "contradicted": "#cf222e",
    "inconclusive": "#9a6700",
}


def with_html(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The same data frame, of which a notebook shows these columns whole.

    A plain DataFrame in all else; what is selected from it is shown as pandas shows it.
    """
    there = [name for name in columns if name in frame]
    frame.__dict__["_repr_html_"] = lambda: _html(frame, there)
    return frame


def _html(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = frame[list(columns)].itertuples(index=False)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    rest = [name for name in frame if name not in columns]
    more = f"<p>further columns: {html.escape(', '.join(map(str, rest)))}</p>" if rest else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: object) -> str:
    if isinstance(value, float):
        text = "" if value != value else f"{value:.3f}"
    elif isinstance(value, Iterable) and not isinstance(value, str):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    colour = _COLOURS.get(text)
    style = f" style='color:{colour};font-weight:bold'" if colour else " style='text-align:left'"
    return f"<td{style}>{html.escape(text)}</td>"
