"""Figures, the two commands, and the page in a real browser."""

import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import sparseae
from sparseae.analysis import plot
from sparseae.analysis.live import Live, serving
from sparseae.analysis.page import expected_trials
from sparseae.analysis.report import report
from sparseae.errors import RequestError
from sparseae.results.schema import EPOCH_FIELDS
from tests.analysis.frames import curve
from tests.cli.test_console import called

SWEEP = {
    "name": "shown",
    "space": {
        "model": ["dae", "cae", "mdae", "sae"],
        "activation": ["relu"],
        "sigma2": [0, 0.25, 1.0],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 6, "hidden_units": 16, "samples": 200},
    "keep_weights": True,
    "theory": True,
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A real sweep, small."""
    folder = tmp_path_factory.mktemp("results")
    sparseae.run(SWEEP, results=folder, in_process=True)
    return folder / "shown"


@pytest.fixture
def command(monkeypatch, capsys):
    """What a command says, in this process."""

    def answer(*words) -> subprocess.CompletedProcess:
        status = called(monkeypatch, *words)
        return subprocess.CompletedProcess(words, status, *capsys.readouterr())

    return answer


def test_figures_are_figures_and_the_frame_is_untouched():
    frame = pd.concat([curve(model=m) for m in ("dae", "cae")])
    before = frame.copy()
    assert isinstance(plot.figure1(frame), Figure)
    assert isinstance(plot.epoch_curves(frame, "relu", "unit_norm"), Figure)
    pd.testing.assert_frame_equal(frame, before)
    with pytest.raises(RequestError, match="sigmoid"):
        plot.figure4(frame)


def test_a_panel_for_each_data_set_shows_the_means():
    figure = plot.figure1(pd.concat([curve(noise=0.0), curve(noise=0.0, dataset="mnist")]))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["digits", "mnist"]
    (line,) = figure.axes[0].get_lines()
    assert line.get_ydata() == pytest.approx(0.37)


def test_no_data_set_is_left_out():
    names = [f"data{i}" for i in range(7)]
    frame = pd.concat([curve(dataset=name) for name in names])
    for figure in (plot.figure1(frame), plot.epoch_curves(frame, "relu", "unit_norm")):
        assert [title for axis in figure.axes if (title := axis.get_title())] == names
        boxes = [axis.get_position() for axis in figure.axes]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_variants_are_drawn_apart():
    frame = pd.concat(
        [curve("flat", learning_rate=0.001), curve("increasing", learning_rate=0.005)]
    )
    figure = plot.epoch_curves(frame, "relu", "unit_norm")
    rows = [axis.get_ylabel() for axis in figure.axes]
    assert rows == ["cae, learning_rate=0.001", "cae, learning_rate=0.005"]
    ends = [axis.get_lines()[-1].get_ydata()[-1] for axis in figure.axes]
    assert ends == pytest.approx([0.37, 0.9], abs=0.02)


def test_the_histogram_keeps_dead_units_apart():
    frame = curve(sigma2=(0.0,), seeds=1)
    (trial,) = frame["trial_id"].unique()
    fractions = [0.0, 0.0, 0.0, 0.004]
    units = pd.DataFrame({"trial_id": trial, "activation_fraction": fractions})
    (axis,) = plot.unit_histogram(frame, units, "relu", "unit_norm").axes
    dead = next(line for line in axis.get_lines() if line.get_marker() == "o")
    assert dead.get_ydata() == pytest.approx([0.75])
    (stairs,) = axis.patches
    values, edges, _ = stairs.get_data()
    (held,) = np.flatnonzero(values)
    assert values[held] == 0.25
    assert edges[held] <= 0.004 <= edges[held + 1]


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({}, 24),
        ({"overrides": [{"when": {"model": "sae"}, "training": {"learning_rate": 0.1}}]}, 24),
        ({"exclude": [{"model": ["sae", "cae"], "sigma2": 1.0}]}, 20),
        # An override may give two points of the space the same configuration.
        ({"overrides": [{"when": {"model": "dae", "seed": [0, 1]}, "training": {"seed": 0}}]}, 21),
    ],
)
def test_how_many_trials_a_configuration_asks_for(more, count):
    assert expected_trials(SWEEP | more) == count


def test_a_page_of_a_running_sweep_says_what_is_missing(sweep, tmp_path):
    frame = sparseae.load(sweep)
    part = tmp_path / "part"
    (part / "epochs").mkdir(parents=True)
    shutil.copy(sweep / "sweep.yaml", part)
    done = frame[(frame["model"] == "cae") | ((frame["model"] == "dae") & (frame["epoch"] < 3))]
    done.to_parquet(part / "epochs" / "part-1.parquet")
    page = report(part, tmp_path / "out").read_text()
    assert "12 not yet begun, 6 unfinished" in page
    assert "12 trials" in page


def test_analyze_prints_and_stores_both_tables(sweep, command):
    done = command("analyze", sweep)
    assert done.returncode == 0, done.stderr
    assert "Is relu cae flat?" in done.stdout
    assert "relu-flat: relu cae" in done.stdout
    assert len(done.stdout.splitlines()) <= 30
    # A command is one line, to be copied, however long the folder's name.
    printed = done.stdout.replace(str(sweep), "results/quickstart")
    assert all(len(line) <= 80 for line in printed.splitlines())
    stored = pd.read_parquet(sweep / "verdicts.parquet")
    expected = sparseae.check_predictions(sparseae.load(sweep))
    assert stored["verdict"].tolist() == expected["verdict"].tolist()
    assert len(pd.read_parquet(sweep / "trends.parquet")) == 4


def test_analyze_with_details_has_curves_and_numbers(sweep, command):
    done = command("analyze", sweep, "--details")
    assert done.returncode == 0, done.stderr
    assert re.search(r"relu dae +\w+ +0\.\d{3} +0\.\d{3}", done.stdout)
    assert "corrected" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_analyze_as_json(sweep, command):
    found = json.loads(command("analyze", sweep, "--json").stdout)
    assert {row["model"] for row in found["trends"]} == {"dae", "cae", "mdae", "sae"}
    assert {"prediction", "dataset", "verdict", "evidence"} <= set(found["verdicts"][0])


def test_what_cannot_be_read_is_one_line(tmp_path, command):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "epochs").mkdir(parents=True)
    (tmp_path / "broken" / "epochs" / "part-1.parquet").write_bytes(b"PAR1 no")
    for name, word in (("nowhere", "no such"), ("empty", "epochs"), ("broken", "part-1")):
        done = command("analyze", tmp_path / name)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert word in done.stderr


def test_several_folders_are_one_table(sweep, tmp_path):
    other = sparseae.run(SWEEP | {"name": "more"}, results=tmp_path, set_values=["space.seed=[5]"],
                         in_process=True)  # fmt: skip
    both = sparseae.load([sweep, other.place])
    assert len(both) == (24 + 12) * 7
    assert (sparseae.trends(both)["seeds"] == 3).all()


def test_the_report_is_one_page_with_its_figures(sweep, tmp_path):
    page = report(sweep, tmp_path / "out").read_text()
    for name in ("figure1", "epochs-relu-unit_norm", "units-relu-unit_norm"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 1000
        assert f'id="{name}"' in page
    # Namespaces are names; nothing is loaded from anywhere.
    assert not re.search(r'(src|href)="(?!data:|#)', page.replace("xlink:href", "href"))
    assert sparseae.data.prepare("digits", samples=200).fingerprint in page
    assert "24 trials" in page


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="no chromium and chromium-driver installed",
)
def test_the_page_in_a_browser(sweep, tmp_path):
    """Open a verdict, sort, filter, by mouse and keyboard, on a desktop and a phone."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    page = report(sweep, tmp_path / "out")
    options = webdriver.ChromeOptions()
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 f"user-data-dir={tmp_path / 'profile'}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(page.as_uri())
        wait = WebDriverWait(browser, 10)

        heads = [e.text for e in browser.find_elements(By.CSS_SELECTOR, ".answer h2")]
        assert heads[0].startswith("Is relu cae flat?")
        pictures = browser.find_elements(By.CSS_SELECTOR, ".answer svg.curve, .finding svg.curve")
        assert len(pictures) >= 8
        assert all(p.is_displayed() and p.rect["width"] > 80 for p in pictures)

        numbers = browser.find_element(By.CSS_SELECTOR, "details.numbers")
        assert not numbers.find_element(By.TAG_NAME, "dl").is_displayed()
        numbers.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        wait.until(lambda _: numbers.find_element(By.TAG_NAME, "dl").is_displayed())

        def shown_findings():
            findings = browser.find_elements(By.CSS_SELECTOR, ".finding")
            return [f.get_attribute("data-verdict") for f in findings if f.is_displayed()]

        every = shown_findings()
        button = browser.find_element(By.CSS_SELECTOR, ".counts .inconclusive button")
        count = int(button.find_element(By.TAG_NAME, "b").text)
        button.send_keys(Keys.ENTER)
        assert shown_findings() == ["inconclusive"] * count
        button.click()
        assert shown_findings() == every

        table = browser.find_element(By.ID, "curve-table")

        def shown(column):
            return [
                row.find_elements(By.TAG_NAME, "td")[column].text
                for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")
                if row.is_displayed()
            ]

        heads = table.find_elements(By.CSS_SELECTOR, "th button")
        (last,) = [i for i, head in enumerate(heads) if head.text == "last"]
        heads[last].click()
        ascending = [float(text) for text in shown(last)]
        assert ascending == sorted(ascending)
        heads[last].send_keys(Keys.ENTER)
        assert [float(text) for text in shown(last)] == ascending[::-1]

        browser.find_element(By.ID, "filter").send_keys("relu DAE")
        wait.until(lambda _: browser.find_element(By.ID, "shown").text == "2 of 4 curves")
        assert set(shown(0)) == {"dae", "mdae"}

        # A window is never as narrow as a phone, which is told of by the protocol.
        phone = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        wait.until(lambda _: browser.execute_script("return window.innerWidth") == 390)
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(wide) == 0
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


def test_what_a_file_calls_its_trials_is_text(sweep, tmp_path, command):
    """Names that are HTML, SVG, mathematics, markup or a path are shown as they are."""
    names = ["<script>alert(1)</script>", "$\\frac{", "[red]x", "../../up", "a'\"&amp;"]
    bad = tmp_path / "bad"
    (bad / "epochs").mkdir(parents=True)
    frame = curve(sigma2=(0.0, 1.0), seeds=2, epochs=2)
    for column in sparseae.load(sweep).columns.intersection([f.name for f in EPOCH_FIELDS]):
        if column not in frame:
            frame[column] = "cpu" if column == "device" else 1
    parts = []
    for k, name in enumerate(names):
        part = frame.assign(trial_id=frame["trial_id"].str[:-1] + str(k))
        key = ("activation", "constraint", "dataset", "model")[k % 4]
        parts.append(part.assign(**{key: name}))
    pd.concat(parts).to_parquet(bad / "epochs" / "part-1.parquet")
    output = tmp_path / "deep" / "out"
    page = report(bad, output).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script>") == 1  # the page's own
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"out"}
    assert all(p.parent == output for p in output.rglob("*"))
    for identifier in re.findall(r' id="([^"]*)"', page):
        assert re.fullmatch(r"[A-Za-z0-9_.:-]+", identifier)
    done = command("analyze", bad, "--details")
    assert done.returncode == 0, done.stderr
    assert "[red]x" in done.stdout


def test_the_live_page_renews_itself_while_a_sweep_runs(sweep, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(sweep / "epochs", part / "epochs")
    page = Live(str(part), tmp_path / "out", note=print)
    page.renew()
    with serving(page, tmp_path / "out") as address:

        def get(path, **headers):
            asked = urllib.request.Request(address + path, headers=headers)
            with urllib.request.urlopen(asked) as answer:
                return answer.read().decode()

        assert re.match(r"http://127\.0\.0\.1:\d+/$", address)
        before = get("version")
        assert 'fetch("version"' in get("")
        assert 'fetch("version"' not in (tmp_path / "out" / "report.html").read_text()
        (part / "epochs" / "part-2.parquet").write_bytes(b"")
        with pytest.raises(RequestError):  # half a file leaves the page as it was
            page.renew()
        assert get("version") == before
        frame = sparseae.load(sweep)
        more = frame.assign(trial_id=frame["trial_id"].str[:-1] + "x", seed=frame["seed"] + 7)
        more.to_parquet(part / "epochs" / "part-2.parquet")
        deadline = time.monotonic() + 60
        while get("version") == before and time.monotonic() < deadline:
            page.renew()
        assert "48 trials" in get("")
        with pytest.raises(urllib.error.HTTPError, match="421"):
            get("", Host="evil.example:80")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get("../part/epochs/part-1.parquet")


def test_a_folder_of_sweeps_is_one_table(sweep, tmp_path, command):
    other = sparseae.run(
        SWEEP, results=sweep.parent, set_values=["name=other", "space.model=[edae, dae2]"],
        in_process=True,
    )  # fmt: skip
    frame = sparseae.load(sweep.parent)
    assert len(frame) == len(sparseae.load(sweep)) + len(other.frame)
    assert set(frame["sweep"]) == {"shown", "other"}
    page = report(sweep.parent, tmp_path).read_text()
    assert "0 not yet begun" not in page
    assert "36 trials" in page
    assert "Configuration of other" in page
    for name in ("explanations", "theory-terms", "theory-drift", "theory-reach", "theory-lemma1"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    done = command("analyze", sweep.parent)
    assert done.returncode == 0
    assert "kink-explains" in done.stdout
