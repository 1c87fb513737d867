"""The article's numbers are those of the committed rows, and none of them is typed by hand."""

import importlib.util
import re
import sys

import numpy as np
import pytest
import scipy.stats

from tests.analysis.test_reference import FOLDERS
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def render():
    spec = importlib.util.spec_from_file_location("render", DOCS / "render.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["render"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rendered(render):
    return dict(render.pages())


def test_the_pages_are_what_the_rows_say(render, rendered):
    assert [
        line for file, text in rendered.items() for line in render.differences(file, text)
    ] == []


def test_a_changed_digit_is_named_with_file_and_line(render, rendered, tmp_path):
    file = DOCS / "reproduction.md"
    text = rendered[file]
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if re.search(r"\| \d\.\d{3} \|", line))
    lines[at] = re.sub(r"\| (\d\.\d\d)\d \|", r"| \g<1>X |", lines[at], count=1)
    wrong = tmp_path / file.name
    wrong.write_text("\n".join(lines))
    (line,) = render.differences(wrong, text)
    assert line.startswith(f"{wrong}:{at + 1}: ")


def test_a_changed_row_changes_the_page(render, rendered, monkeypatch):
    paper = render.rows("paper")
    moved = paper.last.copy()
    moved.loc[moved["model"] == "mdae", "activation_fraction"] += 0.001
    monkeypatch.setattr(paper, "last", moved)
    again = dict(render.pages())
    assert any(again[file] != text for file, text in rendered.items())


def test_any_digit_of_any_row_is_in_the_page_by_a_fingerprint(render, rendered, monkeypatch):
    """Also one that no table shows, as of an epoch in the middle."""
    text = rendered[DOCS / "reproduction.md"]
    assert [name for name in FOLDERS if render.rows(name).fingerprint() not in text] == []
    rates = render.rows("rates")
    before, moved = rates.fingerprint(), rates.frame.copy()
    place = moved.index[moved["epoch"] == 1][0], "bias_mean"
    moved.loc[place] = np.nextafter(moved.loc[place], 1)
    monkeypatch.setattr(rates, "frame", moved)
    assert rates.fingerprint() != before


def test_the_pictures_are_of_the_rows_that_there_are(render, monkeypatch):
    assert list(render.stale()) == []
    picture = render.PICTURES[0]._replace(folder="rates")
    monkeypatch.setattr(render, "PICTURES", [picture])
    (line,) = render.stale()
    assert line.startswith(f"{picture.file}: is of 'results/paper ")


def test_a_share_of_daes_fall_is_paired_by_seed(render):
    parts = render.rows("section-3-1-1")
    end = parts.last.set_index(["model", "sigma2", "seed"])["activation_fraction"]
    shares = [
        (end["dae", 0, seed] - end["dae_bias", 0.01, seed])
        / (end["dae", 0, seed] - end["dae", 0.01, seed])
        for seed in range(3)
    ]
    known = scipy.stats.ttest_1samp(shares, 0).confidence_interval()
    mean, low, high = parts.owed("dae_bias", sigma2=0.01)
    assert (mean, low, high) == pytest.approx((np.mean(shares), known.low, known.high))
    assert parts.owed("dae", sigma2=0.01) == pytest.approx((1, 1, 1))
    less = parts.owed("dae", "dae_bias", sigma2=0.01)
    assert less == pytest.approx((1 - mean, 1 - high, 1 - low))


def test_words_that_the_rows_do_not_bear_out_are_an_error(render):
    holds = render.environment().globals["holds"]
    assert holds(True, "most of it") == "most of it"
    with pytest.raises(ValueError, match="do not say: most of it"):
        holds(False, "most of it")


def test_what_no_row_gives_is_an_error_not_a_blank(render):
    with pytest.raises(LookupError, match="no trial"):
        render.rows("paper").mean(model="cae", dataset="digits")
    with pytest.raises(LookupError, match="0 verdicts"):
        render.rows("paper").verdict("relu-flat", "cifar10")


#: Numbers with a point or a percent sign that a template may hold: they name settings, not results.
SETTINGS = {"0.001", "0.002", "0.005", "0.05", "0.1", "0.01", "0.25", "0.09", "1505.05561", "95 %"}


def test_no_measured_number_of_the_article_is_typed():
    """analysis.md has those of simulations too, which no rows give."""
    template = (DOCS / "templates" / "reproduction.md.j2").read_text()
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|\(https?://[^)]*\)", "", template, flags=re.S)
    text = re.sub(r"section[s]? [\d.]+|\b3\.1(\.1)?\b", "", text)
    assert set(re.findall(r"\d+\.\d+|\d+ ?%", text)) <= SETTINGS
