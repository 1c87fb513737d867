"""Data sets: what they hold, how they are prepared, and which files are refused."""

import gzip
import hashlib
import http.server
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparseae import data
from sparseae.data import files
from sparseae.data.dataset import standardized, whitened
from sparseae.errors import RequestError

OFFLINE = ["digits", "photo_patches", "gaussian"]


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_sets_have_their_announced_shape(name):
    prepared = data.prepare(name, samples=300)
    assert prepared.x.shape == data.shape(name, samples=300)
    assert prepared.x.dtype == np.float32
    assert prepared.x.flags.c_contiguous
    assert np.isfinite(prepared.x).all()


def test_a_smaller_data_set_is_used_whole():
    assert data.prepare("digits", samples=50_000).x.shape == (1797, 64)


@pytest.mark.parametrize(("name", "soften"), [("digits", 0.1), ("photo_patches", 0.0)])
def test_standardization_is_the_specifications(name, soften):
    raw = data.source(name).load(500, 0, 64).x.astype(np.float64)
    expected = (raw - raw.mean(0)) / (raw.std(0) + soften).clip(1e-300)
    expected[:, raw.std(0) == 0] = 0
    np.testing.assert_allclose(data.prepare(name, samples=500).x, expected, atol=1e-4)


def test_a_constant_input_becomes_zero_not_nan():
    x = np.full((50, 3), 0.1, np.float32)
    x[:, 1] = np.arange(50)
    scaled = standardized(x)
    assert not scaled[:, [0, 2]].any()
    assert scaled[:, 1].std() == pytest.approx(1, abs=1e-6)


def test_gaussian_satisfies_assumption_1():
    x = data.prepare("gaussian", samples=500, gaussian_inputs=20).x.astype(np.float64)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.T @ x / 500, np.eye(20), atol=1e-5)


def test_gaussian_refuses_what_cannot_be():
    with pytest.raises(RequestError, match="gaussian_inputs"):
        data.prepare("gaussian", samples=20, gaussian_inputs=20)


def test_whitening_gives_unit_covariance_where_the_data_vary():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 5))  # rank 3 in 5 dimensions
    white = whitened(x)
    covariance = white.T @ white / 400
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), [0, 0, 1, 1, 1], atol=1e-8)


def test_patches_depend_on_the_data_seed_alone_and_fewer_are_the_first_of_more():
    load = data.source("photo_patches").load
    few, many, other = load(50, 0, 0).x, load(80, 0, 0).x, load(50, 1, 0).x
    np.testing.assert_array_equal(few, many[:50])
    assert not np.array_equal(few, other)


def test_a_patch_is_a_patch_of_an_image():
    images = np.arange(2 * 9 * 10 * 3, dtype=np.float32).reshape(2, 9, 10, 3)
    for patch in data.dataset.patches(images, 20, 0).reshape(20, 8, 8, 3):
        image, row, column = np.argwhere(images[..., 0] == patch[0, 0, 0])[0]
        np.testing.assert_array_equal(patch, images[image, row : row + 8, column : column + 8])


def test_fingerprints_tell_data_apart_and_repeat():
    one = data.prepare("digits", samples=100)
    assert one.fingerprint == data.prepare("digits", samples=100).fingerprint
    assert one.fingerprint != data.prepare("digits", samples=101).fingerprint
    assert one.fingerprint != data.prepare("digits", samples=100, whiten=True).fingerprint


def test_real_mnist_is_the_official_images(real_data):
    images = data.mnist.read_idx_images(real_data / "mnist" / "train-images-idx3-ubyte.gz")
    assert images.shape == (60_000, 28, 28)
    whole = gzip.decompress((real_data / "mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    assert hashlib.md5(whole).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    prepared = data.prepare("mnist", samples=1000)
    raw = images[:1000].reshape(-1, 784) / 255
    expected = (raw - raw.mean(0)) / (raw.std(0) + 0.1)
    np.testing.assert_allclose(prepared.x, expected, atol=1e-4)


def test_real_cifar10_takes_the_batches_that_are_there(real_data):
    prepared = data.prepare("cifar10", samples=5000)
    assert prepared.x.shape == (5000, 192)
    assert prepared.details["batches"] in range(1, 6)
    assert f"{prepared.details['batches']} of 5 batches" in prepared.description


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEAE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def idx(count=3) -> bytes:
    header = b"".join(n.to_bytes(4, "big") for n in (2051, count, 28, 28))
    return header + bytes(count * 784)


def refusal(name: str) -> str:
    with pytest.raises(RequestError) as caught:
        data.check(name)
        data.prepare(name, samples=10)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(idx())[:-20], "truncated or corrupt"),
        (gzip.compress(idx()[:-1]), "bytes"),
        (gzip.compress(b"\0" * 100), "magic number"),
        (gzip.compress(idx(3)), "3 images"),
    ],
)
def test_a_broken_idx_file_is_named(folder, content, reason):
    file = folder / "mnist" / "train-images-idx3-ubyte.gz"
    file.parent.mkdir()
    file.write_bytes(content)
    message = refusal("mnist")
    assert reason in message
    assert str(file) in message


@pytest.mark.parametrize("content", [bytes(3072), b"", b"\xff" * 3073])
def test_a_broken_cifar_batch_is_named(folder, content):
    file = folder / "cifar10" / "cifar-10-batches-bin" / "data_batch_2.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert str(file) in refusal("cifar10")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "NaN"),
        (np.array([[1.0, 1e300], [0.0, 1.0]]), "beyond float32"),
        (np.zeros(5), "1 dimensions"),
        (np.array([[1, None], [2, 3]], dtype=object), "Python objects"),
        (np.array([["a", "b"], ["c", "d"]]), "not numbers"),
        (np.zeros((0, 4)), "too small"),
    ],
)
def test_a_useless_matrix_is_named(tmp_path, array, reason):
    file = tmp_path / "x.npy"
    np.save(file, array, allow_pickle=True)
    message = refusal(str(file))
    assert reason in message
    assert "x.npy" in message


def test_own_matrices_are_read(tmp_path):
    x = np.random.default_rng(0).standard_normal((30, 4))
    np.save(tmp_path / "x.npy", x)
    pd.DataFrame(x, columns=list("abcd")).to_parquet(tmp_path / "x.parquet")
    one = data.prepare(str(tmp_path / "x.npy"), samples=100)
    other = data.prepare(str(tmp_path / "x.parquet"), samples=100)
    np.testing.assert_array_equal(one.x, other.x)
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_parquet(tmp_path / "text.parquet")
    assert "'b'" in refusal(str(tmp_path / "text.parquet"))


def test_a_misspelt_name_gets_the_nearest():
    assert "'mnist'" in refusal("mnits")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cut=st.integers(0, 2500),
    flips=st.lists(st.integers(0, 2000), max_size=4),
    kind=st.sampled_from(["npy", "parquet"]),
)
def test_a_damaged_matrix_is_refused_or_read_never_a_traceback(tmp_path, cut, flips, kind):
    file = tmp_path / f"x.{kind}"
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((20, 5)), columns=list("abcde"))
    if kind == "npy":
        np.save(file, frame.to_numpy())
    else:
        frame.to_parquet(file)
    content = bytearray(file.read_bytes()[: cut or None])
    for position in flips:
        if position < len(content):
            content[position] ^= 0xFF
    file.write_bytes(bytes(content))
    try:
        data.check(str(file))
        data.prepare(str(file), samples=10)
    except RequestError as error:
        assert "\n" not in str(error)


@pytest.fixture
def server(tmp_path):
    """A real HTTP server on loopback with one file."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.gz").write_bytes(gzip.compress(idx()))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_is_checked_against_its_checksum(folder, server):
    content = (folder / "served" / "file.gz").read_bytes()
    good = f"md5:{hashlib.md5(content).hexdigest()}"
    path = files.download("mnist", f"{server}/file.gz", good)
    assert path.read_bytes() == content
    shutil.rmtree(path.parent)
    for url, checksum in ((f"{server}/file.gz", "md5:" + "0" * 32), (f"{server}/none.gz", good)):
        with pytest.raises(RequestError, match="SPARSEAE_DATA_DIR") as caught:
            files.download("mnist", url, checksum)
        assert "\n" not in str(caught.value)
