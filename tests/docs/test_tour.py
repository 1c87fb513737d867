"""docs/tour.ipynb runs from its first cell to its last, and shows what it says."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


#: In a process of its own: its kernel, its sockets and its event loop end with it.
EXECUTE = """
import sys
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

source, folder, target = sys.argv[1:]
manager = AsyncKernelManager(kernel_name="python3")
command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
manager._kernel_spec = KernelSpec(argv=command, display_name="here", language="python")
notebook = nbformat.read(source, as_version=4)
resources = {"metadata": {"path": folder}}
NotebookClient(notebook, km=manager, timeout=300, resources=resources).execute()
nbformat.write(notebook, target)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Of each code cell what it showed, by MIME type."""
    folder = tmp_path_factory.mktemp("tour")
    (folder / "docs").mkdir()
    shutil.copytree(ROOT / "results" / "controls", folder / "results" / "controls")
    target = folder / "done.ipynb"
    command = [sys.executable, "-c", EXECUTE, ROOT / "docs" / "tour.ipynb", folder / "docs", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads(target.read_text())["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def shown(outputs, kind: str) -> list[str]:
    """What a cell showed of this kind."""
    return ["".join(out["data"][kind]) for out in outputs if kind in out.get("data", {})]


def test_the_sweep_shows_a_table_that_ends_at_its_end(outputs):
    (live, *_) = [
        html for cell in outputs for html in shown(cell, "text/html") if "<progress" in html
    ]
    assert re.search(r"<b>tour</b>: (\d+)/\1 epochs", live)


def test_results_show_their_place_and_final_fractions(outputs):
    (table,) = [t for cell in outputs for t in shown(cell, "text/html") if "trained now" in t]
    assert "results/tour" in html.unescape(table)
    assert "0.49" in table


def test_figures_are_shown_as_pictures(outputs):
    assert sum(bool(shown(cell, "image/png")) for cell in outputs) == 2


def test_the_own_prediction_has_a_verdict(outputs):
    assert any("tanh" in t or "supported" in t or "inconclusive" in t for t in _text(outputs))


def test_the_code_has_as_many_active_units_as_the_row_says(outputs):
    text = next(t for t in _text(outputs) if "the results say" in t)
    ours, theirs = re.findall(r"(?:^|say )(\d+\.\d)", text, flags=re.MULTILINE)
    assert ours == theirs


def _text(outputs) -> list[str]:
    return [
        "".join(out.get("text", "")) + "".join(out.get("data", {}).get("text/plain", ""))
        for cell in outputs
        for out in cell
    ]
