"""Small pictures of curves for the page: SVG by hand, so that one looks before one reads.

Along the x axis runs sigma, in which the paper's values of sigma2 stand evenly. The shaded strip is
the margin around the value at the smallest sigma2, the band the range of the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from sparseae.analysis.curves import Curve
from sparseae.analysis.trends import ACTIVATION, MARGINS, PRE_ACTIVATION

#: The least height of the axis of E[a_j]: seven times its margin, so that a flat curve looks flat.
_LEAST_RANGE = 0.5

_NAMES = {ACTIVATION: "activation fraction", PRE_ACTIVATION: "E[a]"}

#: Where text is: left of the axis, below it, above it, and right of a line.
_LEFT, _BELOW, _ABOVE, _LABEL, _TEXT = 30.0, 14.0, 6.0, 42.0, 10.0


@dataclass(frozen=True)
class Line:
    """A curve in a picture.

    Attributes:
        curve: the curve.
        label: stands at its end; empty for none.
        style: ``main``, ``second``, ... in the page's colours, or ``context``.
    """

    curve: Curve
    label: str = ""
    style: str = "main"


def picture(
    lines: Sequence[Line], measure: str, width: float = 168, height: float = 76, title: str = ""
) -> Markup:
    """Curves along sigma in one measure; empty where none has it.

    Args:
        lines: what is drawn, the last on top.
        measure: `ACTIVATION` or `PRE_ACTIVATION`.
        width, height: in pixels at its natural size; the page scales it.
        title: stands above, before the measure's name.
    """
    drawn = [(line, *_values(line.curve, measure)) for line in lines]
    drawn = [(line, x, y) for line, x, y in drawn if x.size]
    main = [(line, x, y) for line, x, y in drawn if line.style != "context"]
    if not main:
        return Markup("")
    right = width - (_LABEL if any(line.label for line, _, _ in drawn) else 4.0)
    top, bottom = _ABOVE + _TEXT, height - _BELOW
    low, high = _range(main, measure)
    far = max(x[-1] for _, x, _ in drawn) or 1.0

    def at(x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        return (
            _LEFT + np.asarray(x) / far * (right - _LEFT),
            bottom - (np.asarray(y) - low) / (high - low) * (bottom - top),
        )

    parts = [
        _text(_LEFT, _ABOVE + 3, f"{title}{', ' if title else ''}{_NAMES[measure]}", "name"),
        _text(_LEFT - 4, top + 3, _short(high), "end"),
        _text(_LEFT - 4, bottom, _short(low), "end"),
        _text(_LEFT, height - 2, "0"),
        _text((_LEFT + right) / 2, height - 2, "σ²", "middle"),
        _text(right, height - 2, f"{far**2:g}", "end"),
    ]
    # The margin is of the value that most main curves start from: trials of a seed share it.
    start = float(np.median([np.mean(y[:, 0]) for _, _, y in main]))
    _, strip = at(0.0, np.array([start - MARGINS[measure], start + MARGINS[measure]]))
    parts.append(
        Markup(
            '<rect class="margin" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
        ).format(_LEFT, strip[1], right - _LEFT, max(strip[0] - strip[1], 1.0))
    )
    parts.append(
        Markup('<path class="axis" d="M{0:.1f} {1:.1f}V{2:.1f}H{3:.1f}"/>').format(
            _LEFT, top, bottom, right
        )
    )
    ends = []
    inside = []  # what the axes cut off
    for line, x, y in drawn:
        style = Markup("{}").format(line.style)
        if y.shape[0] > 1 and line.style != "context":
            px, below = at(x, y.min(0))
            _, above = at(x, y.max(0))
            outline = [*zip(px, below, strict=True), *zip(px[::-1], above[::-1], strict=True)]
            inside.append(Markup('<path class="band {}" d="M{}Z"/>').format(style, _path(outline)))
        px, py = at(x, y.mean(0))
        path = _path(list(zip(px, py, strict=True)))
        inside.append(Markup('<path class="line {}" d="M{}"/>').format(style, path))
        if line.style != "context":
            inside += [
                Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="1.7"/>').format(
                    style, a, b
                )
                for a, b in zip(px, py, strict=True)
            ]
        if line.label:
            ends.append((float(np.clip(py[-1], top, bottom)), line))
    parts.append(
        Markup('<svg x="{0:.1f}" y="{1:.1f}" width="{2:.1f}" height="{3:.1f}" '
               'viewBox="{0:.1f} {1:.1f} {2:.1f} {3:.1f}">{4}</svg>').format(
            _LEFT - 2, top - 2, right - _LEFT + 4, bottom - top + 4, Markup("").join(inside)
        )
    )  # fmt: skip
    for y, line in _apart(ends, top, bottom):
        parts.append(_text(right + 4, y + 3, line.label, f"label {line.style}"))
    words = "; ".join(
        f"{line.label or line.curve.label}: {', '.join(f'{v:.3g}' for v in y.mean(0))}"
        for line, _, y in main
    )
    name = f"{title} {_NAMES[measure]} along sigma2, {words}".strip()
    return _svg(width, height, name, parts)


def _values(curve: Curve, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """sigma (K,) and the values of the seeds that have them all, (R, K)."""
    table = curve.activation if measure == ACTIVATION else curve.pre_activations[..., -1]
    there = np.isfinite(table)
    columns = np.flatnonzero(there.any(0))
    rows = there[:, columns].all(1)
    if not rows.any():  # no seed has all: those that most seeds have
        columns = np.flatnonzero(there.sum(0) == there.sum(0).max()) if there.any() else columns[:0]
        rows = there[:, columns].all(1) & bool(columns.size)
    return np.sqrt(curve.sigma2[columns]), table[np.ix_(np.flatnonzero(rows), columns)]


def _range(
    main: Sequence[tuple[Line, np.ndarray, np.ndarray]], measure: str
) -> tuple[float, float]:
    """The axis: of a fraction the paper's, of E[a_j] what the curves and their margin need."""
    if measure == ACTIVATION:
        return 0.0, 1.0
    low = min(float(y.mean(0).min()) for _, _, y in main)
    high = max(float(y.mean(0).max()) for _, _, y in main)
    start = float(np.median([np.mean(y[:, 0]) for _, _, y in main]))
    low, high = min(low, start - MARGINS[measure]), max(high, start + MARGINS[measure])
    middle, half = (low + high) / 2, max(0.55 * (high - low), _LEAST_RANGE / 2)
    return middle - half, middle + half


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _text(x: float, y: float, words: str, style: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"


def _apart(ends: list[tuple[float, Line]], top: float, bottom: float) -> list[tuple[float, Line]]:
    """Labels moved so that none covers another, in the order of their lines."""
    ends = sorted(ends, key=lambda end: end[0])
    placed: list[tuple[float, Line]] = []
    for y, line in ends:
        least = placed[-1][0] + _TEXT if placed else top
        placed.append((max(y, least), line))
    over = placed[-1][0] - bottom if placed else 0.0
    if over > 0:  # push back up from the bottom
        limit = bottom
        for k in range(len(placed) - 1, -1, -1):
            y = min(placed[k][0], limit)
            placed[k] = (y, placed[k][1])
            limit = y - _TEXT
    return placed


def interval_picture(
    effect: float, low: float, high: float, words: str, width: float = 168, height: float = 40
) -> Markup:
    """A number with its interval against 0, for a statement that is not about one curve."""
    if effect != effect:
        return Markup("")
    reach = 1.15 * max(abs(v) for v in (effect, low, high) if v == v) or 1.0

    def at(value: float) -> float:
        return width / 2 + value / reach * (width / 2 - 6)

    parts = [
        Markup('<path class="axis" d="M6 22H{:.1f}M{:.1f} 15V29"/>').format(width - 6, width / 2),
        _text(width / 2, height - 1, "0", "middle"),
        _text(at(effect), 11, f"{effect:+.3g}", "middle"),
        Markup('<circle class="dot main" cx="{:.1f}" cy="22" r="3"/>').format(at(effect)),
    ]
    if low == low and high == high:
        parts.insert(1, Markup('<path class="line main" d="M{:.1f} 22H{:.1f}"/>').format(
            at(low), at(high)))  # fmt: skip
    return _svg(width, height, words, parts)


def _svg(width: float, height: float, name: str, parts: Sequence[Markup]) -> Markup:
    """A drawing with a name for a screen reader."""
    whole = (
        '<svg class="curve" viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" role="img" '
        'aria-label="{2}">{3}</svg>'
    )
    return Markup(whole).format(width, height, name, Markup("").join(parts))
