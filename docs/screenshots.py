"""Takes the pictures of the docs' screens: python docs/screenshots.py RESULTS (minutes; chromium).

The live view of a real run of the quickstart, half way, as SVG; the page of results/paper
as PNG. RESULTS is an empty folder for what they leave. Look at them before they are committed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from render import PAGE
from rich.console import Console

import sparseae
from sparseae.analysis.report import report
from sparseae.cli._view import RunView
from sparseae.sweep.job import Observer

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"


class _Pictured(RunView):
    """Keeps what a terminal shows half way."""

    def __init__(self, picture: Path) -> None:
        super().__init__(_recording())
        self._picture, self._said = picture, []

    def note(self, message: str, word: str = "", colour: str = "") -> None:
        self._said.append(word + message)
        super().note(message, word, colour)

    def _show(self) -> None:
        super()._show()
        half = self._done > 0.4 * self._total and len(self._in_flight) > 1
        if half and not self._picture.exists():
            screen = _recording()
            screen.print(
                "$ sparseae run tune_configs/quickstart.yaml", style="dim", highlight=False
            )
            for line in self._said:
                screen.print(line, highlight=False, soft_wrap=True)
            screen.print(self._table(), self._progress, sep="\n")
            screen.save_svg(str(self._picture), title="sparseae run")


def _recording() -> Console:
    return Console(record=True, width=88, force_terminal=True, file=open("/dev/null", "w"))


def live_view(results: Path) -> None:
    picture = IMAGES / "live-view.svg"
    picture.unlink(missing_ok=True)
    with _Pictured(picture) as view:
        sparseae.run(
            ROOT / "tune_configs" / "quickstart.yaml",
            results=results,
            observer=cast(Observer, view),
        )


def page(results: Path) -> None:
    written = report(ROOT / "results" / PAGE.folder, results / "page")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--window-size=1100,1000", f"--user-data-dir={results / 'browser'}",
         f"--screenshot={PAGE.file}", written.resolve().as_uri()],
        check=True, timeout=300,
    )  # fmt: skip
    source = PngInfo()
    source.add_text("Source", PAGE.source)  # by which docs/render.py --check knows it
    Image.open(PAGE.file).convert("RGB").quantize(64).save(PAGE.file, optimize=True, pnginfo=source)


if __name__ == "__main__":
    live_view(Path(sys.argv[1]))
    page(Path(sys.argv[1]))
