"""What the pages say exists: files, commands with their options, Python that parses, the site."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main
import yaml

from sparseae.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_to_a_file_finds_it(page):
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ours = [link for link in links if not re.match(r"[a-z]+:", link)]
    missing = [link for link in ours if not (page.parent / link).exists()]
    assert missing == []


def commands(page: Path) -> list[str]:
    """The commands of ours in a page: lines of blocks, and those in backticks."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if re.match(r" {4}\s*(\$ )?\S", line)]
    found = [*lines, *re.findall(r"`([^`\n]+)`", text)]
    plain = [re.sub(r"^(\$ |[A-Z_]+=\S+ )+", "", line) for line in found]
    # Without a subcommand it is a name in running text.
    return [line for line in plain if re.match(r"(python -m )?sparseae [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_in_a_page_is_one_with_these_options(page):
    root = typer.main.get_command(app)
    for line in commands(page):
        words = shlex.split(line.split("&&")[0], comments=True)[1:]
        words = words[2:] if words[:1] == ["sparseae"] else words
        command, parent = root, None
        name = "sparseae"
        while hasattr(command, "commands"):
            if not words:
                break  # a group of commands, named as one
            word = words.pop(0)
            assert word in command.commands, f"{line}: there is no command {word}"
            parent = click.Context(command, info_name=name, parent=parent)
            command, name = command.commands[word], word
        options = {option for parameter in command.params for option in parameter.opts}
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        assert given <= options, f"{line}: {given - options}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_of_python_and_yaml_parses(page):
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"```(python|yaml)\n(.*?)```", text, flags=re.DOTALL):
        if language == "python":
            ast.parse(block)
        else:
            yaml.safe_load(block)


def test_readme_fits_one_and_a_half_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_every_page_is_in_the_sites_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if page not in text} == set()


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = (tmp_path / "site" / "search" / "search_index.json").read_text()
    for wanted in ("How do I go on with more epochs", "corruptions", "explained_variance"):
        assert wanted in found
    python = (tmp_path / "site" / "reference" / "python" / "index.html").read_text()
    assert "trial_id" in python


QUERIES = re.compile(r"```python\n(import (?:duckdb|polars).*?)```", flags=re.DOTALL)


@pytest.mark.parametrize(
    "block", QUERIES.findall((ROOT / "docs" / "questions.md").read_text()), ids=["duckdb", "polars"]
)
def test_the_recipes_for_other_readers_read_the_results(block, tmp_path, monkeypatch):
    import sparseae

    space = {"model": ["ae"], "activation": ["relu"], "sigma2": [0], "dataset": ["digits"]}
    training = {"epochs": 20, "hidden_units": 4, "samples": 50}
    config = {"name": "quickstart", "space": space, "training": training}
    done = sparseae.run(config, results=tmp_path / "results", in_process=True)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    last = done.frame.query("epoch == 20")
    if "table" in names:
        assert names["table"].iloc[0, 2] == pytest.approx(last["l0"].iloc[0])
    else:
        assert names["last"]["trial_id"].to_list() == last["trial_id"].to_list()
