"""Rows that were made are made again."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparseae
from sparseae.cli import main
from sparseae.errors import RequestError
from sparseae.results import provenance
from sparseae.sweep.provenance import processor
from sparseae.sweep.replay import replay, sampled

RESULTS = Path(__file__).parents[2] / "results"

SWEEP = {
    "name": "made",
    "space": {
        "model": ["dae", "cae"],
        "activation": ["relu", "sigmoid"],
        "sigma2": [0, 0.25],
        "dataset": ["digits"],
        "seed": [0, 1],
    },
    "training": {"epochs": 3, "hidden_units": 16, "samples": 200},
    "theory": True,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A real sweep, small."""
    return Path(sparseae.run(SWEEP, results=tmp_path_factory.mktemp("made"), in_process=True).place)


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def again(place, **options):
    epochs = options.pop("epochs", None)
    return list(replay(sampled(str(place), **{"trials": 100} | options), epochs=epochs))


def changed(place: Path, kind: str, change, metadata=lambda known: known) -> None:
    """Rewrite a sweep's only part of a kind."""
    (file,) = (place / kind).glob("*.parquet")
    table = pq.read_table(file)
    frame = change(table.to_pandas())
    schema = table.schema.with_metadata(metadata(dict(table.schema.metadata)))
    pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), file)


def spoil(where, column, by):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame.eval(where), column] += by
        return frame

    return change


def not_recorded(metadata):
    return {k: v for k, v in metadata.items() if k != b"sparseae.processor"}


def test_every_row_and_unit_is_equal_to_the_bit_where_it_was_made(made):
    done = again(made)
    assert len(done) == 16
    for one in done:
        assert (one.rows, one.units, one.first, one.exact) == (4, 16, None, True)
        assert [c for c in one.changes if not c.startswith("git_commit")] == []


def test_the_processor_is_recorded(made):
    assert provenance(made)["processor"] == processor()
    assert int(provenance(made)["threads"]) >= 1


def test_the_first_epoch_and_column_that_differ_are_named(copy):
    changed(copy, "epochs", spoil("epoch >= 2", "bias_mean", 1e-9))
    for one in again(copy, trials=2):
        assert one.exact
        assert not one.within
        assert (one.first.where, one.first.column) == ("epoch 2", "bias_mean")
        assert one.first.recorded == pytest.approx(one.first.here + 1e-9)


def test_a_unit_that_differs_is_named(copy):
    changed(copy, "units", spoil("unit == 5", "bias", 1e-6))
    for one in again(copy, trials=2):
        assert not one.within
        assert (one.first.where, one.first.column) == ("unit 5", "bias")


def test_noise_that_another_kind_of_device_drew_is_named(copy):
    """Only of models that draw any."""
    changed(copy, "epochs", lambda frame: frame.assign(device="NVIDIA H200"))
    for one in again(copy, epochs=0):
        said = any(change.startswith("noise: ") for change in one.changes)
        assert said == (one.trial.model == "dae")


@pytest.mark.parametrize(
    ("where", "column", "by", "within"),
    [
        ("epoch == 2", "bias_mean", 1e-3, True),
        ("epoch == 2", "activation_fraction", 0.002, True),
        ("epoch == 2", "activation_fraction", 0.02, False),
        ("epoch == 0", "reconstruction_error", 1.0, False),
    ],
)
def test_on_another_processor_a_tolerance_decides(copy, where, column, by, within):
    changed(copy, "epochs", spoil(where, column, by), not_recorded)
    for one in again(copy, trials=2):
        assert not one.exact
        assert one.first is not None
        assert one.within == within
        assert any(c.startswith("processor: not recorded -> ") for c in one.changes)


def test_a_trial_that_diverged_diverges_again_at_the_same_epoch(tmp_path):
    unstable = SWEEP | {"training": SWEEP["training"] | {"learning_rate": 50.0}, "theory": False}
    narrow = ["space.activation=[relu]", "space.model=[dae]", "space.constraint=[none]"]
    done = sparseae.run(unstable, results=tmp_path, in_process=True, set_values=narrow)
    assert set(done.frame["status"]) == {"ok", "diverged"}
    assert all(one.first is None for one in again(done.place))


def test_the_choice_covers_the_kinds_and_can_be_repeated(made):
    kinds = [(t.model, t.activation) for _, t in sampled(str(made), trials=4)]
    assert len(set(kinds)) == 4
    chosen = [t.trial_id for _, t in sampled(str(made), trials=5, seed=3)]
    assert chosen == [t.trial_id for _, t in sampled(str(made), trials=5, seed=3)]
    assert len(set(chosen)) == 5
    assert [t.trial_id for _, t in sampled(str(made), trials=1, trial_ids=chosen)] == chosen
    with pytest.raises(RequestError, match="no trial '0000'"):
        sampled(str(made), trials=1, trial_ids=["0000"])


def test_other_data_are_refused(copy):
    def others(metadata):
        known = json.loads(metadata[b"sparseae.datasets"])
        for dataset in known.values():
            dataset["fingerprint"] = "0" * 16
        return metadata | {b"sparseae.datasets": json.dumps(known).encode()}

    changed(copy, "epochs", lambda frame: frame, others)
    with pytest.raises(RequestError, match="is not what its rows were made from"):
        again(copy, trials=1)


def test_the_command_says_what_it_found(copy, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["sparseae", "replay", str(copy), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    status, out, _ = command("--trials", "2")
    assert status == 0
    assert "2 of 2 trials equal to the bit" in out
    changed(copy, "epochs", spoil("epoch == 3", "loss", 1e-9))
    assert command("--epochs", "2")[0] == 0
    status, out, _ = command()
    assert status == 1
    assert "DIFFERS" in out
    assert "first at epoch 3, loss:" in out
    shutil.rmtree(copy / "epochs")
    status, out, err = command()
    assert (status, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    "place", sorted(f.parent for f in RESULTS.rglob("sweep.yaml")), ids=lambda place: place.name
)
def test_committed_rows_are_made_again(place):
    """Five small trials of each committed sweep, of data that need no download."""
    chosen = [
        (location, trial)
        for location, trial in sampled(str(place), trials=10_000)
        if trial.dataset in ("digits", "photo_patches")
    ][:5]
    if not chosen:
        pytest.skip("its data need a download: some are made again below")
    bad = [one for one in replay(chosen, epochs=2) if not one.within]
    assert bad == []


def test_the_papers_rows_are_made_again(real_data):
    """Five trials of 1,000 units on MNIST and CIFAR-10 from their beginning: a GPU made most of
    the rows, with noise of its own."""
    chosen = sampled(str(RESULTS / "paper"), trials=5)
    assert len({trial.model for _, trial in chosen}) > 2
    bad = [one for one in replay(chosen, epochs=1) if not one.within]
    assert bad == []
