"""Axes of a figure, a panel a data set, and how all figures look."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Panels side by side; more data sets go below.
_PANELS_A_ROW = 3

_RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,  # what a file calls its data may hold a $
    "svg.fonttype": "none",  # text stays text: searchable, and the page's size stays small
    "svg.hashsalt": "sparseae",  # the same figure is the same file
}

#: What matplotlib is without anybody's settings, but for where it draws windows.
_DEFAULTS = {
    key: value
    for key, value in mpl.rcParamsDefault.items()
    if key not in ("backend", "backend_fallback", "interactive", "toolbar")
}


#: Inches of a letter of a title, about.
_LETTER = 0.085


def style() -> AbstractContextManager[None]:
    """In this context figures are made and saved: as here, whatever matplotlibrc says."""
    return mpl.rc_context(_DEFAULTS | _RC)


def wrapped(text: str, inches: float) -> str:
    """Text in lines of at most so many inches, whatever its words are."""
    return textwrap.fill(text, max(8, int(inches / _LETTER)), drop_whitespace=False)


class Panels:
    """Axes by row and data set, laid out in inches: much quicker than a layout engine.

    Args:
        rows: what is drawn below each other, also the axes' labels.
        datasets: what is drawn beside each other.
        heights: of each row, in inches.
        width: of a panel, in inches.
    """

    _LEFT, _RIGHT, _TITLE, _GAP, _XLABEL, _LINE = 0.62, 0.1, 0.25, 0.25, 0.42, 0.19

    def __init__(
        self,
        rows: Sequence[str],
        datasets: Sequence[str],
        heights: Sequence[float],
        width: float = 2.7,
    ) -> None:
        # Four are a square.
        self._across = 2 if len(datasets) == 4 else min(len(datasets), _PANELS_A_ROW)
        self._blocks = -(-len(datasets) // self._across)
        self._heights, self.width = list(heights), width
        self._axes: dict[tuple[str, str], Axes] = {}
        with style():
            self.figure = Figure()
            for block in range(self._blocks):
                for r, row in enumerate(rows):
                    first = None
                    for column in range(self._across):
                        i = block * self._across + column
                        if i >= len(datasets):
                            break
                        axis = self.figure.add_axes((0, 0, 1, 1), sharey=first, label=f"{i} {row}")
                        first = first or axis
                        self._axes[row, datasets[i]] = axis
                        axis.tick_params(labelbottom=r == len(rows) - 1, labelleft=column == 0)
                        if r == 0:
                            axis.set_title(wrapped(datasets[i], width))
                        if column == 0:
                            axis.set_ylabel(row)

    def __getitem__(self, place: tuple[str, str]) -> Axes:
        return self._axes[place]

    def finish(self, title: str, xlabel: str, legend: str | None = None) -> Figure:
        """Add title and legend, and set every axis in its place."""
        handles = {}
        for axis in self._axes.values():
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        column = self.width + self._GAP
        width = self._LEFT + self._across * column - self._GAP + self._RIGHT
        if len(handles) == 1:
            handles = {}  # the title or the row says it
        longest = max(map(len, handles), default=0)
        across = max(1, min(len(handles), int(width / (0.55 + 0.075 * longest))))
        lines = -(-len(handles) // across) + (legend is not None and bool(handles))
        title = wrapped(title, width - self._LEFT)
        above = 0.3 + self._LINE * title.count("\n") if title else 0.05
        below = 0.12 + self._LINE * lines
        rows = len(self._heights)
        most = max(axis.get_title().count("\n") for axis in self._axes.values())
        heading = self._TITLE + self._LINE * most
        block = heading + sum(self._heights) + 0.14 * (rows - 1) + self._XLABEL
        height = above + self._blocks * block + below
        with style():
            self.figure.set_size_inches(width, height)
            for i, axis in enumerate(self._axes.values()):
                # Panels were made block by block, row by row.
                b, r, c = self._place(i, rows)
                top = height - above - b * block - heading
                top -= sum(self._heights[:r]) + 0.14 * r
                left, h = self._LEFT + c * column, self._heights[r]
                axis.set_position(
                    (left / width, (top - h) / height, self.width / width, h / height)
                )
                if r == rows - 1:
                    axis.set_xlabel(xlabel)
            if title:
                self.figure.suptitle(title, x=self._LEFT / width, y=1 - 0.07 / height,
                                     ha="left", va="top", fontsize=10)  # fmt: skip
            if handles:
                self.figure.legend(
                    handles.values(), handles.keys(), loc="lower center", ncols=across,
                    title=legend, fontsize=8, title_fontsize=8, borderaxespad=0.1,
                    columnspacing=1.4,
                )  # fmt: skip
        return self.figure

    def _place(self, index: int, rows: int) -> tuple[int, int, int]:
        """Block, row and column of the axis made as number ``index``."""
        block = index // (rows * self._across)
        rest = index - block * rows * self._across
        there = len(self._axes) // rows - block * self._across  # panels left for this block
        across = min(self._across, there)
        return block, rest // across, rest % across
