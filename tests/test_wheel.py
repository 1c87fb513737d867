"""What an installed wheel gives: the command, the configurations, a sweep with verdicts."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """sdist and wheel, the wheel built from the sdist alone."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], REPOSITORY)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], source)
    return folder


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """A virtual environment with the wheel; what it depends on is shared, not installed again."""
    folder = tmp_path_factory.mktemp("venv")
    _run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    places = [sysconfig.get_path("purelib")]
    for pth in Path(places[0]).glob("*.pth"):  # of an environment that shares another's packages
        lines = pth.read_text().splitlines()
        places += [line for line in lines if line.endswith("site-packages")]
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "shared.pth").write_text("\n".join(places))
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "-qq"]
    _run([*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel], folder)
    return folder / "bin" / "python"


def _run(command, cwd, *, status=0) -> str:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "SPARSEAE"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=plain, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_configuration_the_step_in_c_and_the_page(built):
    (wheel,) = built.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    ours = REPOSITORY / "tune_configs"
    wanted = {f"sparseae/tune_configs/{f.relative_to(ours)}" for f in ours.rglob("*.yaml")}
    wanted |= {"sparseae/engine/products.c", "sparseae/engine/step.c", "sparseae/py.typed"}
    wanted |= {"sparseae/analysis/templates/report.html"}
    assert wanted <= files
    assert not any(name.startswith(("results/", "tests/")) for name in files)


def test_quickstart_of_the_wheel_leaves_verdicts_and_a_page_in_an_empty_folder(python, tmp_path):
    small = ["space.seed=[0]", "space.model=[dae,cae]", "space.dataset=[digits]"]
    small += ["training.epochs=1", "training.samples=100", "training.hidden_units=8"]
    options = [part for text in small for part in ("--set", text)]
    where = _run([python, "-c", "import sparseae; print(sparseae.__file__)"], tmp_path)
    assert Path(where).is_relative_to(python.parents[1])
    printed = _run([python, "-m", "sparseae", "quickstart", "--in-process", *options], tmp_path)
    assert "Is relu cae flat?" in printed
    left = tmp_path / "results" / "quickstart"
    assert (left / "report" / "report.html").stat().st_size > 10_000
    assert (left / "verdicts.parquet").exists()


def test_the_wheel_lists_and_copies_its_configurations(python, tmp_path):
    assert "quickstart" in _run([python, "-m", "sparseae", "configs"], tmp_path)
    printed = _run([python, "-m", "sparseae", "configs", "reference/mnist"], tmp_path)
    assert printed == "sparseae run tune_configs/reference/mnist.yaml\n"
    copied = (tmp_path / "tune_configs" / "reference" / "mnist.yaml").read_text()
    assert copied == (REPOSITORY / "tune_configs" / "reference" / "mnist.yaml").read_text()
    schema = (tmp_path / "tune_configs" / "reference" / ".." / "schema.json").read_text()
    assert schema == (REPOSITORY / "tune_configs" / "schema.json").read_text()


def test_citation_and_project_say_the_same():
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (cited["title"], cited["version"]) == (project["name"], project["version"])
    assert cited["license"] == project["license"]
