"""Imports go one way (specification, "Layout"), and what must be light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparseae

ROOT = Path(sparseae.__file__).parent

#: What each folder may import of the others; of itself always.
BELOW = {
    "errors": set(),
    "paths": {"errors"},
    "yamltext": {"errors"},
    "model": {"errors"},
    "engine": {"model", "errors"},
    "theory": {"engine", "model", "errors"},
    "data": {"paths", "errors"},
    "results": {"model", "yamltext", "paths", "errors"},
    "analysis": {"results", "model", "yamltext", "paths", "errors"},
    "sweep": {"theory", "engine", "model", "data", "results", "yamltext", "paths", "errors"},
    "cluster": {
        "sweep",
        "theory",
        "engine",
        "model",
        "data",
        "results",
        "yamltext",
        "paths",
        "errors",
    },
}

#: What may be imported nowhere in a folder, not even when a function runs.
FORBIDDEN = {
    "model": {"ray", "pandas", "pyarrow"},
    "engine": {"ray", "pandas", "pyarrow"},
    "theory": {"ray", "pandas", "pyarrow"},
    "data": {"ray", "torch"},
    "sweep": {"ray"},
    "results": {"ray", "torch"},
    "analysis": {"ray", "torch"},
}


def _modules(folder: str) -> list[Path]:
    place = ROOT / folder
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def _imported(file: Path) -> set[str]:
    """Every module that a file names in an import, wherever in it, but those for types alone."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


@pytest.mark.parametrize("folder", BELOW)
def test_imports_go_one_way(folder):
    up = {
        f"{file.relative_to(ROOT)} imports {module}"
        for file in _modules(folder)
        for module in _imported(file)
        if module.startswith("sparseae.")
        and (part := module.split(".")[1]) != folder
        and (ROOT / part).is_dir() | (ROOT / f"{part}.py").is_file()
        and part not in BELOW[folder]
    }
    assert up == set()


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_names_no_library_above_it(folder):
    named = {
        f"{file.relative_to(ROOT)} imports {module}"
        for file in _modules(folder)
        for module in _imported(file)
        if module.split(".")[0] in FORBIDDEN[folder]
    }
    assert named == set()


def test_every_folder_has_its_place():
    folders = {p.name for p in ROOT.iterdir() if (p / "__init__.py").is_file()}
    assert folders - {"cli"} == set(BELOW) - {"errors", "paths", "yamltext"}


@pytest.mark.parametrize("folder", BELOW)
def test_no_circle_within_a_folder(folder):
    """Modules of a folder can be put in an order in which each needs only earlier ones."""
    names = {
        f"sparseae.{'.'.join(file.relative_to(ROOT).with_suffix('').parts)}": file
        for file in _modules(folder)
        if file.name != "__init__.py"
    }
    needs = {
        name: {module for module in _imported(file) if module in names} - {name}
        for name, file in names.items()
    }
    while needs:
        free = {name for name, needed in needs.items() if not needed}
        assert free, f"a circle among {sorted(needs)}"
        needs = {name: needed - free for name, needed in needs.items() if name not in free}


#: What a program does, one after the other, and what it has not loaded yet then.
LIGHT = {
    "import sparseae": {"torch", "ray", "pandas", "pyarrow", "numpy", "pydantic"},
    "import sparseae.cli": {"torch", "ray", "pandas", "pyarrow", "numpy", "pydantic"},
    "sparseae.load": {"torch", "ray"},
    "sparseae.trends": {"torch", "ray"},
    "sparseae.check_predictions": {"torch", "ray"},
    "sparseae.plot": {"torch", "ray"},
    "sparseae.run": {"ray"},
    "import sparseae.sweep.in_process": {"ray"},
}


def test_what_is_light_stays_light():
    lines = ["import sys"]
    for statement, heavy in LIGHT.items():
        lines += [statement, f"print({statement!r}, *sorted({heavy!r} & set(sys.modules)))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (done.stdout.splitlines(), done.stderr) == ([*LIGHT], "")


@pytest.mark.parametrize("file", sorted(str(f.relative_to(ROOT)) for f in ROOT.rglob("*.py")))
def test_no_file_is_too_long_to_read(file):
    assert len((ROOT / file).read_text().splitlines()) <= 500


def test_every_folder_of_tests_is_a_package():
    """Of two files with one name pytest would refuse to collect the second."""
    folders = {file.parent for file in Path(__file__).parent.rglob("test_*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
