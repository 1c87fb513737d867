"""The report: figures and one self-contained HTML page, from the Parquet files alone."""

from __future__ import annotations

from pathlib import Path

from sparseae.analysis import plot
from sparseae.analysis.figures import figures
from sparseae.analysis.page import Drawn, inline, render, slug
from sparseae.analysis.trends import judge
from sparseae.errors import RequestError
from sparseae.results import load


def report(place: str | Path, output: Path) -> Path:
    """Write ``report.html`` and the figures as SVG and PNG into ``output``; return the page.

    Works while a sweep is running, on the rows that are there.

    Args:
        place: the sweep's folder or URL.
        output: where to write.

    Raises:
        RequestError: where there are no results, or ``output`` cannot be written.
    """
    frame = load(place)
    try:
        output.mkdir(parents=True, exist_ok=True)
        drawn = []
        for name, caption, figure in figures(place, frame):
            file = slug(name)
            for suffix in (".svg", ".png"):
                plot.save(figure, output / f"{file}{suffix}")
            svg = (output / f"{file}.svg").read_text("utf-8")
            drawn.append(Drawn(file, caption, inline(svg, file, caption)))
        page = output / "report.html"
        text = render(place, frame, judge(frame), drawn)
        draft = output / ".report.html"
        draft.write_text(text, encoding="utf-8")
        draft.replace(page)  # who reads it meanwhile sees the old page or the new one
    except OSError as error:
        raise RequestError(f"{output}: cannot be written: {error.strerror}") from None
    return page
