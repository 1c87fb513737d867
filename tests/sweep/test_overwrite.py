"""``--overwrite`` deletes what a sweep left, and nothing of anybody else's."""

import subprocess
import sys
from pathlib import Path

import pytest

import sparseae
from sparseae.errors import RequestError
from sparseae.results.location import Location
from sparseae.sweep.overwrite import clear

SMALL = {
    "name": "small",
    "space": {"model": ["cae"], "activation": ["relu"], "sigma2": [0], "dataset": ["digits"]},
    "training": {"epochs": 1, "hidden_units": 8, "samples": 50},
    "keep_weights": True,
}
FOREIGN = ("chapter1.tex", "weights/other.bin", "epochs/notes.txt", "report/photo.png",
           "checkpoints/mine/best.ckpt", "figures/a.svg")  # fmt: skip


def files(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def run(tmp_path, **options):
    return sparseae.run(SMALL, results=tmp_path, in_process=True, **options)


def test_a_strangers_files_stay(tmp_path):
    run(tmp_path)
    place = tmp_path / "small"
    for name in FOREIGN:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("years of work")
    before = files(place)
    results = run(tmp_path, overwrite=True)
    assert results.trained == 1
    after = files(place)
    assert set(FOREIGN) < after
    old_parts = {n for n in before if n.startswith(("epochs/part", "units/part"))}
    assert old_parts
    assert not old_parts & after


def test_nothing_of_a_sweeps_own_stays(tmp_path):
    run(tmp_path)
    place = tmp_path / "small"
    (place / "report").mkdir()
    for name in ("report/report.html", "report/figure1.svg", "report/units-relu-none.png",
                 "verdicts.parquet", "epochs/_unreadable-part-1.parquet", "epochs/.part-2.0123abcd",
                 "checkpoints/dae_relu_1/error.txt", "checkpoints/tuner.pkl"):  # fmt: skip
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    clear(Location.of(place))
    assert files(place) == {".lock"}
    assert [f for f in place.iterdir() if f.is_dir()] == []


def test_nothing_stays_of_what_later_commands_leave(tmp_path):
    sparseae.run(SMALL | {"watch": ["tensorboard"]}, results=tmp_path, in_process=True)
    place = tmp_path / "small"
    command = [sys.executable, "-m", "sparseae"]
    for words in (["analyze", place], ["report", place]):
        subprocess.run([*command, *words], check=True, capture_output=True)
    clear(Location.of(place))
    assert files(place) <= {".lock"}


@pytest.mark.parametrize("text", [None, "", "- a list", "{", "name: other\nspace: {}\ntraining: {}",
                                  "name: small"])  # fmt: skip
def test_a_folder_that_is_no_sweeps_is_refused_untouched(tmp_path, text):
    place = tmp_path / "small"
    (place / "epochs").mkdir(parents=True)
    (place / "epochs" / "part-0.parquet").write_text("mine")
    if text is not None:
        (place / "sweep.yaml").write_text(text)
    before = files(place)
    with pytest.raises(RequestError, match="--overwrite deletes nothing there"):
        run(tmp_path, overwrite=True)
    assert files(place) - {".lock"} == before


def test_an_empty_folder_has_nothing_to_overwrite(tmp_path):
    (tmp_path / "small").mkdir()
    assert run(tmp_path, overwrite=True).trained == 1
