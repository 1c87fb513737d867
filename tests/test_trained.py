"""A trained model in hand: encode, decode, reconstruct, filters, and one trial in words."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import sparseae
from sparseae.errors import RequestError

ACTIVATIONS = ["relu", "sigmoid", "softplus", "tanh", "maxout"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep that kept its weights, and the same with its checkpoints alone."""
    place = tmp_path_factory.mktemp("trained")
    space = {
        "model": ["dae"], "activation": ACTIVATIONS, "sigma2": [0, 0.25], "dataset": ["digits"],
        "constraint": ["unit_norm", "none"],
    }  # fmt: skip
    training = {"epochs": 2, "hidden_units": 10, "samples": 100, "holdout": 0.2}
    for name, keep in (("kept", True), ("checkpoints", False)):
        config = {"name": name, "space": space, "training": training, "keep_weights": keep}
        sparseae.run(config, results=place, in_process=True)
    return place


def models(place):
    frame = sparseae.load(place)
    last = frame[frame["epoch"] == 2]
    return [(sparseae.load_model(place, row.trial_id), row) for row in last.itertuples()]


@pytest.mark.parametrize("name", ["kept", "checkpoints"])
def test_a_model_reconstructs_as_well_as_its_row_says(folder, name):
    for model, row in models(folder / name):
        data = model.dataset()
        error = np.square(data.x - model.reconstruct(data.x)).sum(1).mean()
        assert error == pytest.approx(row.reconstruction_error, rel=1e-4)
        threshold = 0 if row.activation in ("relu", "maxout") else 0.1
        held = (model.encode(data.heldout) > threshold).sum(1).mean()
        assert held == pytest.approx(row.heldout_l0, rel=1e-6)


def test_numpy_and_torch_agree_and_each_gets_its_own_kind_back(folder):
    model, _ = models(folder / "kept")[0]
    x = np.random.default_rng(0).standard_normal((3, 4, 64))  # float64, any leading dimensions
    y = model.reconstruct(x)
    assert (type(y), y.dtype, y.shape) == (np.ndarray, np.float32, (3, 4, 64))
    t = torch.from_numpy(x).requires_grad_()
    z = model.reconstruct(t)
    assert z.dtype == torch.float64
    np.testing.assert_allclose(z.detach().numpy(), y, rtol=1e-4, atol=1e-5)
    z.sum().backward()
    assert t.grad is not None


def test_inputs_of_another_size_are_refused_in_one_line(folder):
    model, _ = models(folder / "kept")[0]
    with pytest.raises(RequestError, match=r"expected \(\.\.\., 64\)"):
        model.encode(np.zeros((2, 63)))
    with pytest.raises(RequestError, match=r"expected \(\.\.\., 10\)"):
        model.decode(np.zeros((2, 64)))


def test_an_unknown_trial_and_one_without_weights_are_told_apart(folder, tmp_path):
    with pytest.raises(RequestError, match="has no trial"):
        sparseae.load_model(folder / "kept", "0" * 16)
    trial_id = sparseae.load(folder / "kept")["trial_id"][0]
    shutil.copytree(folder / "checkpoints", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    with pytest.raises(RequestError, match="no weights of trial"):
        sparseae.load_model(tmp_path / "bare", trial_id)


def test_filters_are_the_longest_rows_of_w_as_images(folder):
    model = next(m for m, row in models(folder / "kept") if row.constraint == "none")
    figure = model.filters(number=4)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [str(j) for j in np.argsort(-np.linalg.norm(model.W, axis=1))[:4]]
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image.shape == (8, 8)
    assert np.abs(image - 0.5).max() == pytest.approx(0.5)
    with pytest.raises(RequestError, match="64 inputs are no image"):
        model.filters(image_shape=(7, 7))


def test_trials_with_a_trial_id_prints_it_and_a_command_that_trains_it_again(folder, tmp_path):
    frame = sparseae.load(folder / "kept")
    trial_id = frame["trial_id"].iloc[-1]
    command = [sys.executable, "-m", "sparseae", "trials", folder / "kept", trial_id]
    done = subprocess.run(
        [*command, "--filters", tmp_path / "w.png"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert trial_id in done.stdout
    assert (tmp_path / "w.png").stat().st_size > 1000
    again = next(line for line in done.stdout.splitlines() if line.startswith("sparseae run"))
    subprocess.run(
        f"{sys.executable} -m {again} --in-process",
        shell=True, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (trained,) = (tmp_path / "again").iterdir()
    assert set(sparseae.load(trained)["trial_id"]) == {trial_id}
    missing = subprocess.run([*command[:-1], "f" * 16], capture_output=True, text=True)
    assert (missing.returncode, missing.stdout) == (2, "")
