"""``sparseae data list`` and ``sparseae data fetch``."""

import numpy as np
import pytest

from sparseae import data
from sparseae.cli import main


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Run ``sparseae data ...`` with nothing downloaded; (status, stdout, stderr)."""
    monkeypatch.delenv("SPARSEAE_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["sparseae", "data", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_list_names_every_data_set_and_where_it_is(command):
    status, out, _ = command("list")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert set(data.SOURCES) <= set(lines)
    assert lines["digits"].split()[1:3] == ["64", "1,797"]
    assert lines["cifar10"].split()[1:3] == ["192", "any"]
    assert lines["gaussian"].split()[1:3] == ["any", "any"]
    assert "sparseae data fetch mnist" in lines["mnist"]


def test_fetch_says_where_a_data_set_is(command, tmp_path):
    assert command("fetch", "digits")[:2] == (0, "digits: comes with the installation\n")
    np.save(tmp_path / "x.npy", np.eye(3))
    status, out, _ = command("fetch", str(tmp_path / "x.npy"))
    assert status == 0
    assert "x.npy" in out


@pytest.mark.parametrize(
    ("name", "reason"),
    [("mnits", "did you mean 'mnist'?"), ("no/x.npy", "no/x.npy: there is no such file")],
)
def test_what_cannot_be_fetched_is_one_line_and_status_2(command, name, reason):
    status, out, err = command("fetch", name)
    assert (status, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1


def test_a_data_folder_that_is_none_is_one_line_and_status_2(command, monkeypatch):
    monkeypatch.setenv("SPARSEAE_DATA_DIR", "/nowhere")
    status, _, err = command("list")
    assert (status, err) == (2, "sparseae: SPARSEAE_DATA_DIR=/nowhere: there is no such folder\n")
