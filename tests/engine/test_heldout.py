"""Fraction of variance explained and L0, of the training set and of held-out samples."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch

import sparseae
from sparseae import data
from sparseae.data.dataset import split
from sparseae.engine.heldout import Quality
from sparseae.engine.stack import Stack
from sparseae.errors import RequestError
from sparseae.model import ACTIVATIONS
from tests.engine.test_stack import trials


def sweep(folder, name="quality", epochs=2, **changes):
    space = {
        "model": ["dae", "cae"], "activation": ["relu", "sigmoid"], "sigma2": [0, 0.25],
        "dataset": ["digits"],
    }  # fmt: skip
    training = {"epochs": epochs, "hidden_units": 12, "samples": 200, "holdout": 0.25}
    config = {"name": name, "space": space, "training": training, "keep_weights": True} | changes
    return sparseae.run(config, results=folder, in_process=True)


def expected(W, b, activation, x):
    """(fraction of variance explained, active units a sample) of x (N, n), in float64."""
    h = ACTIVATIONS[activation]().value(torch.from_numpy(x @ W.T + b)).numpy()
    error = np.square(x - h @ W).sum() / np.square(x - x.mean(0)).sum()
    return 1 - error, (h > ACTIVATIONS[activation].threshold).sum(1).mean()


def test_the_columns_are_those_of_the_weights_on_either_part_of_the_data(tmp_path):
    frame = sweep(tmp_path).frame
    last = frame[frame["epoch"] == 2]
    prepared = data.prepare("digits", samples=200, holdout=0.25)
    assert prepared.heldout is not None
    assert (len(prepared.x), len(prepared.heldout)) == (150, 50)
    for row in last.itertuples():
        weights = sparseae.load_weights(tmp_path / "quality", row.trial_id)
        W, b = (weights[k].astype(np.float64) for k in "Wb")
        for x, found in (
            (prepared.x, (row.explained_variance, row.l0)),
            (prepared.heldout, (row.heldout_explained_variance, row.heldout_l0)),
        ):
            wanted = expected(W, b, row.activation, x.astype(np.float64))
            assert found == pytest.approx(wanted, rel=1e-4)
    assert (last["samples"] == 150).all()


@pytest.mark.parametrize("samples", [499, 500, 501, 1203])
def test_held_out_samples_of_several_chunks_are_all_measured(samples):
    stream = torch.Generator().manual_seed(samples)
    members, x = trials("cae", "sigmoid"), torch.randn(40, 6, generator=stream)
    heldout = torch.randn(samples, 6, generator=stream) + 0.5
    stack = Stack(members, x)
    stack.diverged[1] = True
    found = Quality(stack, heldout).columns(stack.measure())
    for member in (0, 5):
        W, b = (t[member].double().numpy() for t in (stack.W, stack.b))
        for kind, rows in (("", x), ("heldout_", heldout)):
            wanted = expected(W, b, "sigmoid", rows.double().numpy())
            mine = found[f"{kind}explained_variance"][member], found[f"{kind}l0"][member]
            # Of a fraction near 0 the float32 of the error, near 1, is left.
            assert [value.item() for value in mine] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert not found["heldout_l0"][1]
    assert set(Quality(stack, None).columns(stack.measure())) == {"explained_variance", "l0"}


def test_held_out_samples_of_another_type_are_measured_in_the_stacks_and_told_in_float64():
    members, x = trials("cae", "sigmoid"), torch.randn(40, 6)
    for dtype, other in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        stack = Stack(members, x.to(dtype), dtype=dtype)
        measured = stack.measure()
        found = Quality(stack, x.to(other)).columns(measured)
        assert all(column.dtype == torch.float64 for column in found.values())
        for column in ("explained_variance", "l0"):
            torch.testing.assert_close(found[f"heldout_{column}"], found[column], atol=1e-5, rtol=0)


def test_where_nothing_varies_no_fraction_of_it_is_explained():
    stack = Stack(trials("cae", "sigmoid"), torch.full((40, 6), 0.5))
    found = Quality(stack, torch.zeros(20, 6)).columns(stack.measure())
    for prefix in ("", "heldout_"):
        assert found[f"{prefix}explained_variance"].isnan().all()
        assert found[f"{prefix}l0"].isfinite().all()


def test_nothing_that_is_held_out_reaches_training(tmp_path):
    """Other held-out samples change the columns that are about them, and no other."""
    x = np.random.default_rng(0).standard_normal((120, 6))
    _, held = split(np.arange(120), 30, 0)
    frames = []
    for scale in (1, 3):
        x[held] *= scale
        np.save(tmp_path / "x.npy", x)
        space = {
            "model": ["cae"], "activation": ["relu"], "sigma2": [0.25],
            "dataset": [str(tmp_path / "x.npy")],
        }  # fmt: skip
        frames.append(sweep(tmp_path, name=f"times-{scale}", space=space).frame)
    one, other = (f.drop(columns=["sweep", "epoch_seconds"]) for f in frames)
    differing = {c for c in one if not one[c].equals(other[c])}
    assert differing == {"heldout_explained_variance", "heldout_l0"}


def test_without_held_out_samples_the_columns_are_null_and_the_trials_are_the_old_ones(tmp_path):
    changes = {"training": {"epochs": 1, "hidden_units": 12, "samples": 200}}
    frame = sweep(tmp_path, **changes).frame
    assert frame["heldout_explained_variance"].isna().all()
    assert frame["explained_variance"].notna().all()
    from sparseae.model.trial import Training, Trial

    first = Trial(
        model="cae", activation="relu", sigma2=0.25, constraint="unit_norm", dataset="digits",
        seed=0, training=Training(samples=200, hidden_units=12),
    )  # fmt: skip
    assert first.trial_id in set(frame["trial_id"])
    assert first.trial_id == "b94b8f48e5f10c4b"


def test_rows_from_before_the_columns_load_as_null(tmp_path):
    done = sweep(tmp_path, name="old")
    (part,) = (tmp_path / "old" / "epochs").glob("*.parquet")
    added = ["explained_variance", "l0", "heldout_explained_variance", "heldout_l0", "holdout"]
    pd.read_parquet(part).drop(columns=added).to_parquet(part)
    assert done.frame["l0"].isna().all()


def test_mnist_is_measured_on_its_test_images_where_they_are(tmp_path, monkeypatch):
    def idx(images):
        header = b"".join(n.to_bytes(4, "big") for n in (2051, len(images), 28, 28))
        return gzip.compress(header + images.tobytes())

    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 784), np.uint8) for n in (60, 30))
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(idx(train))
    monkeypatch.setenv("SPARSEAE_DATA_DIR", str(tmp_path))
    assert data.prepare("mnist", samples=60).heldout is None
    before = data.prepare("mnist", samples=50)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(idx(test))
    after = data.prepare("mnist", samples=50)
    np.testing.assert_array_equal(after.x, before.x)
    scale = train[:50].std(0) + 25.5
    wanted = (test[:5] - train[:50].mean(0)) / scale
    np.testing.assert_allclose(after.heldout, wanted, atol=1e-5)


@pytest.mark.parametrize("name", sorted(data.SOURCES))
def test_held_out_samples_are_scaled_by_the_statistics_of_the_others(name, monkeypatch, tmp_path):
    if name in ("mnist", "cifar10"):
        pytest.skip("needs files; the split is the same code")
    whole = data.prepare(name, samples=500, holdout=0.2, gaussian_inputs=20)
    assert whole.heldout is not None
    assert (len(whole.x), len(whole.heldout)) == (400, 100)
    assert abs(whole.x.mean(0)).max() < 1e-5
    # Statistics of their own would make these means 0 too.
    assert abs(whole.heldout.mean(0)).max() > 0.01
    white = data.prepare(name, samples=500, holdout=0.2, gaussian_inputs=20, whiten=True)
    assert white.heldout is not None
    assert white.heldout.shape == whole.heldout.shape


def test_a_share_that_leaves_too_few_is_refused_before_anything_starts():
    space = {"model": ["ae"], "activation": ["relu"], "sigma2": [0], "dataset": ["digits"]}
    config = {"name": "x", "space": space, "training": {"samples": 10, "holdout": 0.95}}
    with pytest.raises(RequestError, match=r"holdout 0\.95 of 10 samples of digits"):
        sparseae.Sweep.load(config)
