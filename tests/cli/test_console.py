"""Whatever a command prints to and whatever is set around it: the right words, or one line."""

import html
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.text import Text

import sparseae
from sparseae.analysis import plot
from sparseae.cli import _console as console
from sparseae.cli import main
from sparseae.cli._view import RunView

SWEEP = """
name: small
space: {model: [dae, cae], activation: [relu], sigma2: [0, 0.25], dataset: [digits], seed: [0, 1]}
training: {epochs: 1, hidden_units: 4, samples: 100}
"""
#: As it is not printed: a name that markup, mathematics, HTML or a form would change or refuse.
NASTY = "[red]$a$ <b>&amp; {{x}} %s größe 日本🙂 \\$ ':smile:' \"q\".npy"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A finished sweep on data of a nasty name, in a folder of one."""
    folder = tmp_path_factory.mktemp("console")
    np.save(folder / NASTY, np.random.default_rng(0).standard_normal((60, 5)))
    space = {"model": ["dae", "cae"], "activation": "relu", "sigma2": [0, 0.25], "seed": [0, 1]}
    done = sparseae.run(
        {"name": "small", "space": space | {"dataset": folder / NASTY},
         "training": {"epochs": 1, "hidden_units": 4}},
        results=folder / "res[1] $x$ [bold]", in_process=True,
    )  # fmt: skip
    assert not done.failed
    return Path(done.place)


def called(monkeypatch, *words: str) -> object:
    """The command in this process; its exit status."""
    monkeypatch.setattr("sys.argv", ["sparseae", *map(str, words)])
    monkeypatch.setattr(console, "prepare", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    program = f"{shlex.quote(sys.executable)} -m sparseae"
    return subprocess.run(
        ["bash", "-c", command.replace("sparseae ", f"{program} ")], cwd=folder, text=True,
        capture_output=True, timeout=200, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def test_a_name_is_everywhere_as_it_stands(sweep, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "500")
    for words in (["analyze", sweep], ["trials", sweep, "relu-flat"], ["report", sweep]):
        assert called(monkeypatch, *words) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert (NASTY if words[0] != "report" else str(sweep)) in out
    page = (sweep / "report" / "report.html").read_text("utf-8")
    assert html.escape(NASTY, quote=False).partition("'")[0] in page
    assert "<b>&amp; {{x}}" not in page
    figure = ElementTree.parse(sweep / "report" / "figure1.svg").getroot()
    assert "".join(NASTY.split()) in "".join("".join(figure.itertext()).split())


#: Any characters that a path may have and a person can read.
names = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="/").filter(str.isprintable)
    | st.sampled_from("[]$\\{}<>&%#?*'\"~ :=-_^"),
    min_size=1, max_size=20,
)  # fmt: skip


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(name=names)
def test_any_name_goes_from_the_configuration_to_the_figures(
    tmp_path_factory, monkeypatch, capsys, name
):
    folder = tmp_path_factory.mktemp("names")
    file = folder / f"{name}.npy"
    np.save(file, np.random.default_rng(0).standard_normal((40, 3)))
    space = {"model": "cae", "activation": "relu", "sigma2": [0, 1], "dataset": file}
    done = sparseae.run(
        {"name": "n", "space": space, "training": {"epochs": 1, "hidden_units": 2}},
        results=folder / name.strip(".") / "r", in_process=True,
    )  # fmt: skip
    assert not done.failed
    assert set(done.frame["dataset"]) == {str(file)}
    monkeypatch.setenv("COLUMNS", "500")
    assert called(monkeypatch, "analyze", done.place) == 0
    assert str(file) in capsys.readouterr().out
    drawing = io.StringIO()
    plot.save(plot.by_sigma2(done.frame, "relu", "unit_norm"), drawing)
    drawn = "".join(ElementTree.fromstring(drawing.getvalue()).itertext())
    assert "".join(str(file).split()) in "".join(drawn.split())  # in as many lines as it needs


@settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), max_examples=40)
@given(
    rows=st.lists(st.tuples(names, names, names), min_size=1, max_size=4),
    width=st.integers(1, 200),
    kinds=st.tuples(*[st.sampled_from(["left", "right", "fold"])] * 3),
)
def test_a_table_of_any_width_loses_no_letter(monkeypatch, capsys, rows, width, kinds):
    monkeypatch.setenv("COLUMNS", str(width))
    console.table([*zip("abc", kinds, strict=True)], rows, title="t", boxed=True)
    printed = capsys.readouterr().out
    assert {letter for row in rows for cell in row for letter in cell} <= set(printed)
    if "fold" not in kinds or width < console.NARROWEST:
        assert all(cell.strip() in printed for row in rows for cell in row)


@settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=30))
def test_a_message_is_one_line(capsys, text):
    console.complain(text)
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert err[:-1].isprintable()


def test_notes_of_a_run_are_printed_as_they_stand(monkeypatch, capsys):
    with RunView(console.console()) as view:
        view.note("[red]x[/] $a$ [/] a\nb")
    assert capsys.readouterr().out == "[red]x[/] $a$ [/] a\\nb\n"
    console.say(Text("[bold]"))
    assert capsys.readouterr().out == "[bold]\n"


@pytest.mark.parametrize("columns", ["0", "40"])
def test_every_width_is_readable(sweep, columns):
    done = shell("sparseae data list && sparseae analyze . && sparseae -h", sweep, COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("photo_patches", "relu-flat", "[red]"):
        assert word in done.stdout


@pytest.mark.parametrize("columns", ["1", "59", "60", "²"])
def test_no_table_of_any_command_loses_a_word(sweep, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    trial = sparseae.load(sweep)["trial_id"].iloc[0]
    for words, wanted in {
        ("list", sweep): ["finished", "small"],
        ("columns", "l0"): ["l0", "units"],
        ("analyze", sweep): ["relu-flat: relu cae"],
        ("analyze", sweep, "--details"): ["undecided", "relu dae"],
        ("diff", sweep, "--by", "model=cae,dae"): ["differs", "verdicts"],
        ("trials", sweep, trial): [trial, "epoch"],
        ("data", "list"): ["photo_patches"],
    }.items():
        assert called(monkeypatch, *words) == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in wanted), (words, printed)


def test_a_reader_that_leaves_stops_no_sweep(tmp_path):
    (tmp_path / "c.yaml").write_text(SWEEP)
    """Nor does a configuration that comes from standard input."""
    done = shell("set -o pipefail; sparseae run - --in-process < c.yaml | head -1", tmp_path)
    assert done.returncode == 0
    assert done.stdout == "small: 8 trials in 2 Tune trials\n"
    assert done.stderr == "sparseae: nobody reads what is printed any more; the sweep goes on\n"
    assert len(sparseae.load(tmp_path / "results" / "small")) == 16


@pytest.mark.parametrize("sink", ["2>&- >&- <&-", "2>/dev/full >/dev/full"])
def test_where_nothing_can_be_printed_the_work_is_done(tmp_path, sink):
    (tmp_path / "c.yaml").write_text(SWEEP)
    done = shell(f"sparseae run c.yaml --in-process {sink}", tmp_path)
    assert done.returncode == 0
    assert len(sparseae.load(tmp_path / "results" / "small")) == 16
    assert shell(f"sparseae report results/small {sink}", tmp_path).returncode == 0
    assert "</html>" in (tmp_path / "results/small/report/report.html").read_text("utf-8")


#: Nonsense, and where a command reads it.
NONSENSE = {
    "ascii": {
        "PYTHONIOENCODING": "ascii", "TERM": "nonsense", "LINES": "x", "TERMINAL_WIDTH": "x",
        "OMP_NUM_THREADS": "x", "CC": "'", "SPARSEAE_GEMM": "",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    },
    "no locale": {
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TMPDIR": "/nonexistent",
        "HOME": "gone", "FORCE_COLOR": "x", "MPLBACKEND": "nonsense", "TEMP": "x",
        "MATPLOTLIBRC": "/nonexistent",
    },
    "no home": {
        "LC_ALL": "nonsense", "HOME": "", "XDG_CACHE_HOME": "/proc/x", "XDG_CONFIG_HOME": "/proc/x",
        "MPLCONFIGDIR": "/proc/x", "TYPER_USE_RICH": "0", "PY_COLORS": "x", "NO_COLOR": "x",
        "GITHUB_ACTIONS": "x", "TERM": "dumb",
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_in_the_environment_changes_nothing(sweep, tmp_path, case):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: many\nnonsense\n")
    (tmp_path / "c.yaml").write_text(SWEEP)
    place, gone = shlex.quote(str(sweep)), tmp_path / "gone"
    environment = {k: str(gone) if v == "gone" else v for k, v in NONSENSE[case].items()}
    done = shell(
        "sparseae run c.yaml --in-process && sparseae -h "
        f"&& sparseae analyze {place} && sparseae report {place} --output out",
        tmp_path, **environment,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "figure1.png").stat().st_size > 1000
    assert not gone.exists()  # a home that is not there is not made


def test_the_version_help_and_standard_input(tmp_path):
    done = shell("sparseae --version && sparseae run -h && sparseae plan - <<< '[' ", tmp_path)
    assert done.stdout.startswith(f"sparseae {sparseae.__version__}\n")
    assert "--in-process" in done.stdout
    assert done.returncode == 2
    assert done.stderr.startswith("sparseae: standard input: line 2: ")
    assert shell("sparseae run - <&-", tmp_path).returncode == 2
    done = shell("sparseae --show-completion; true", tmp_path, SHELL="/bin/bash")
    assert re.search("_sparseae_?completion", done.stdout.lower()) or "complete" in done.stdout


@pytest.mark.parametrize("option", ["--results", "--output"])
def test_an_empty_variable_is_no_place(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(SWEEP)
    command = "run c.yaml --in-process" if option == "--results" else "report results/small"
    assert called(monkeypatch, *command.split(), option, "") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "is empty" in err
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_where_every_trial_failed_the_command_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(SWEEP)
    change = ["--set", "training.hidden_units=1000000000"]
    assert called(monkeypatch, "run", "c.yaml", "--in-process", *change) == 1
    out, err = capsys.readouterr()
    assert "8 of 8 trials failed: " in out
    assert "Traceback" not in out + err


def test_a_working_directory_that_is_gone_is_one_line(tmp_path):
    for words in ("list", "run /c.yaml", "configs figure1", "analyze /x"):
        done = shell(f"mkdir gone; cd gone; rmdir ../gone; sparseae {words}", tmp_path)
        assert done.returncode == 2
        assert (
            done.stderr == "sparseae: the working directory is gone: change to one that is there\n"
        )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99.4, "99 s"), (100, "1.7 min"), (599, "10.0 min"), (3000, "50 min"),
     (7200, "2.0 h"), (360_000, "100.0 h")],
)  # fmt: skip
def test_a_duration_is_told_in_the_unit_that_suits_it(seconds, words):
    assert console.duration(seconds) == words


def test_the_closing_table_says_over_what_it_has_the_means(tmp_path, monkeypatch, capsys):
    space = {
        "model": ["cae", "dae"], "activation": ["relu"], "sigma2": [0.25], "dataset": ["digits"],
        "seed": [0, 1], "standardize": ["input", "sample"], "learning_rate": [0.001, 0.002],
    }  # fmt: skip
    sweep = {"name": "two", "space": space,
             "training": {"epochs": 1, "hidden_units": 4, "samples": 60}}  # fmt: skip
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(sweep))
    words = ("run", tmp_path / "two.yaml", "--results", tmp_path / "results", "--in-process")
    assert called(monkeypatch, *words) == 0
    said = " ".join(capsys.readouterr().out.split())  # a title is as wide as its table
    assert "digits, unit_norm" in said
    assert "digits (by sample), unit_norm" in said
    assert "Final activation fractions, means over 2 seeds and learning_rate." in said
