"""The named data sets: what they hold, and which of their files are refused."""

import gzip
import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_sample_images

from sparseae import data
from sparseae.data.dataset import patches
from sparseae.data.mnist import read_idx_images
from sparseae.errors import RequestError
from tests.data.small_files import batch, idx, put_batch, put_mnist, refusal


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("name", sorted(data.SOURCES))
def test_every_data_set_has_its_announced_shape(name, whiten, folder):
    put_mnist(folder, gzip.compress(idx(120)))
    put_batch(folder, 1)
    prepared = data.prepare(name, samples=100, whiten=whiten)
    assert prepared.x.shape == data.shape(name, samples=100)
    assert prepared.x.dtype == np.float32
    assert prepared.x.flags.c_contiguous
    assert np.isfinite(prepared.x).all()
    assert prepared.name == name
    assert "\n" not in prepared.description
    if prepared.image_shape:
        assert np.prod(prepared.image_shape) == prepared.x.shape[1]


@pytest.mark.parametrize("name", sorted(data.SOURCES))
def test_preparing_again_gives_the_same_bytes_and_the_data_seed_matters(name, folder):
    put_mnist(folder, gzip.compress(idx(120)))
    put_batch(folder, 1)
    one, again = (data.prepare(name, samples=100) for _ in range(2))
    assert one.fingerprint == again.fingerprint
    np.testing.assert_array_equal(one.x, again.x)
    other = data.prepare(name, samples=100, data_seed=1)
    # mnist's samples are the first ones, whatever the seed.
    assert (one.fingerprint != other.fingerprint) == (name != "mnist")


@pytest.mark.parametrize("samples", [0, -3])
def test_no_samples_are_refused(samples):
    assert f"samples {samples}" in refusal("digits", samples=samples)


def test_one_sample_varies_in_nothing():
    assert "no input varies" in refusal("digits", samples=1)


def test_a_smaller_data_set_is_used_whole_and_a_larger_one_in_part():
    whole = data.source("digits").load(50_000, 0, 64).x
    part = data.source("digits").load(300, 0, 64).x
    assert whole.shape == (1797, 64)
    assert part.shape == (300, 64)
    rows = {row.tobytes() for row in whole}
    assert all(row.tobytes() in rows for row in part)


def test_what_scikit_learn_brings_is_what_it_loads():
    images, _ = load_digits(return_X_y=True)
    digits = data.SOURCES["digits"]().load(1797, 0, 0)
    np.testing.assert_array_equal(digits.x, images)
    photographs = np.stack(load_sample_images().images)
    expected = patches(photographs, 50, 3)
    np.testing.assert_array_equal(data.SOURCES["photo_patches"]().load(50, 3, 0).x, expected)


def test_digits_are_softened_by_a_tenth_of_the_ink():
    raw = data.source("digits").load(500, 0, 64).x / 16
    expected = (raw - raw.mean(0)) / (raw.std(0) + 0.1)
    np.testing.assert_allclose(data.prepare("digits", samples=500).x, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "soften"), [("mnist", 0.1), ("digits", 0.1), ("cifar10", 0.0), ("photo_patches", 0.0)]
)
def test_a_sample_is_standardized_by_itself_where_that_is_asked_for(name, soften, folder):
    put_mnist(folder, gzip.compress(idx(120)))
    put_batch(folder, 1)
    raw = data.source(name).load(100, 0, 64).x / {"digits": 16}.get(name, 255)
    centered = raw - raw.mean(1, keepdims=True)
    expected = centered / (raw.std(1, keepdims=True) + soften)
    prepared = data.prepare(name, samples=100, standardize="sample")
    np.testing.assert_allclose(prepared.x, expected, atol=1e-5)
    assert prepared.description.endswith(", standardized by sample")
    assert prepared.fingerprint != data.prepare(name, samples=100).fingerprint


def test_a_sample_that_is_constant_becomes_0_and_held_out_ones_are_prepared_alike(tmp_path):
    x = np.random.default_rng(0).normal(3, 2, (40, 6))
    x[::7] = 0.1
    np.save(tmp_path / "x.npy", x)
    prepared = data.prepare(str(tmp_path / "x.npy"), samples=40, standardize="sample", holdout=0.25)
    assert (np.abs(prepared.x).sum(1) == 0).any()
    both = np.concatenate([prepared.x, prepared.heldout])
    varied = both[np.abs(both).sum(1) > 0].astype(np.float64)
    assert len(varied) == 34
    np.testing.assert_allclose(varied.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(varied.std(1), 1, atol=1e-6)
    white = data.prepare(str(tmp_path / "x.npy"), samples=40, standardize="sample", whiten=True)
    np.testing.assert_allclose(white.x.mean(0), 0, atol=1e-6)


@pytest.mark.parametrize(("samples", "inputs"), [(500, 20), (33, 32), (201, 200)])
def test_gaussian_satisfies_assumption_1(samples, inputs):
    x = data.prepare("gaussian", samples=samples, gaussian_inputs=inputs).x.astype(np.float64)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.T @ x / samples, np.eye(inputs), atol=1e-6)


def test_gaussian_refuses_what_cannot_be():
    assert "gaussian_inputs" in refusal("gaussian", samples=20, gaussian_inputs=20)
    with pytest.raises(RequestError, match="gaussian_inputs"):
        data.shape("gaussian", samples=20, gaussian_inputs=20)


def test_a_misspelt_name_gets_the_nearest():
    assert "did you mean 'mnist'?" in refusal("mnits")


def test_mnist_takes_the_first_images_gzipped_or_not(folder):
    gzipped = put_mnist(folder)
    images = np.frombuffer(idx()[16:], np.uint8).reshape(20, 784) / 255
    expected = (images[:7] - images[:7].mean(0)) / (images[:7].std(0) + 0.1)
    one = data.prepare("mnist", samples=7)
    np.testing.assert_allclose(one.x, expected, atol=1e-5)
    gzipped.with_suffix("").write_bytes(gzip.decompress(gzipped.read_bytes()))
    gzipped.unlink()
    assert data.prepare("mnist", samples=7).fingerprint == one.fingerprint


def test_cifar10_says_how_many_batches_it_took(folder):
    put_batch(folder, 2)
    put_batch(folder, 5)
    prepared = data.prepare("cifar10", samples=30)
    assert "2 of 5 batches (8 images)" in prepared.description
    assert prepared.details | {"assumption1": {}} == {
        "assumption1": {},
        "image_shape": [8, 8, 3],
        "batches": 2,
        "images": 8,
        "files": "data_batch_2.bin, data_batch_5.bin",
    }


def test_a_cifar10_patch_has_its_colours_last_and_rows_before_columns(folder):
    # Red counts rows, green columns; blue is 7.
    planes = np.indices((32, 32)).astype(np.uint8)
    record = np.concatenate([[3], planes.ravel(), np.full(1024, 7)]).astype(np.uint8)
    put_batch(folder, 1, record.tobytes())
    patch = data.source("cifar10").load(1, 0, 0).x.reshape(8, 8, 3).astype(int)
    np.testing.assert_array_equal(np.diff(patch[..., 0], axis=0), 1)
    np.testing.assert_array_equal(np.diff(patch[..., 1], axis=1), 1)
    np.testing.assert_array_equal(patch[..., 2], 7)


def packed(content: bytes) -> bytes:
    """Without the time: it would be part of the test's name, and two processes list the tests."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (packed(idx())[:-20], "truncated or corrupt"),
        (packed(idx()[:-1]), "bytes"),
        (packed(idx() + b"\0"), "bytes"),
        (packed(b"\0" * 100), "magic number"),
        (packed(idx().replace(b"\0\0\0\x1c\0\0\0\x1c", b"\0\0\0\x0e\0\0\0\x38")), "14x56"),
        (packed(idx(3)), "3 images"),
        (b"", "magic number"),
    ],
)
def test_a_broken_idx_file_is_named(folder, content, reason):
    file = put_mnist(folder, content)
    message = refusal("mnist")
    assert reason in message
    assert str(file) in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [(batch()[:-1], "whole records"), (b"", "whole records"), (b"\xff" * 3073, "label")],
)
def test_a_broken_cifar_batch_is_named(folder, content, reason):
    put_batch(folder, 1)
    file = put_batch(folder, 2, content)
    message = refusal("cifar10")
    assert reason in message
    assert str(file) in message


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    gzipped=st.booleans(),
    cut=st.one_of(st.none(), st.integers(0, 2500)),
    flips=st.lists(st.tuples(st.integers(0, 2500), st.integers(1, 255)), max_size=4),
)
def test_a_damaged_idx_file_is_refused_or_read_never_a_traceback(folder, gzipped, cut, flips):
    content = bytearray(gzip.compress(idx(3)) if gzipped else idx(3))[:cut]
    for position, change in flips:
        if position < len(content):
            content[position] ^= change
    put_mnist(folder, bytes(content))
    try:
        prepared = data.prepare("mnist", samples=2)
    except RequestError as error:
        assert "\n" not in str(error)
    else:
        assert prepared.x.shape == (2, 784)
        assert np.isfinite(prepared.x).all()


def test_real_mnist_is_the_official_images(real_data):
    file = real_data / "mnist" / "train-images-idx3-ubyte.gz"
    assert read_idx_images(file).shape == (60_000, 28, 28)
    whole = gzip.decompress(file.read_bytes())
    assert hashlib.md5(whole).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    prepared = data.prepare("mnist", samples=60_000)
    assert prepared.x.shape == data.shape("mnist", samples=60_000) == (50_000, 784)


def test_real_cifar10_takes_the_batches_that_are_there(real_data):
    prepared = data.prepare("cifar10", samples=5000)
    assert prepared.x.shape == (5000, 192)
    assert prepared.details["batches"] in range(1, 6)
    assert f"{prepared.details['batches']} of 5 batches" in prepared.description
    # Neighbouring pixels of photographs agree; were the layout misread, they would not.
    x = prepared.x.reshape(-1, 8, 8, 3)
    assert (x[:, 1:] * x[:, :-1]).mean() > 0.85
    assert (x[:, :, 1:] * x[:, :, :-1]).mean() > 0.85
