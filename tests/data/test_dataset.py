"""Standardization, whitening, patches and fingerprints, on arrays whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sparseae import data
from sparseae.data.dataset import fingerprint, patches, standardized, whitened


def covariance(x):
    x = x.astype(np.float64)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    return x.T @ x / x.shape[0]


@pytest.mark.parametrize("soften", [0.0, 0.1])
@pytest.mark.parametrize("rows", [2, 1024, 2500])  # within a block of rows, one, several
def test_standardization_is_the_specifications(rows, soften):
    x = np.random.default_rng(0).normal(3, [0.5, 1, 20], (rows, 3))
    expected = (x - x.mean(0)) / (x.std(0) + soften)
    scaled = standardized(x, soften)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, -7e30, 1e-30, 0])
def test_a_constant_input_becomes_zero_not_nan(value):
    x = np.full((3000, 3), value)
    x[:, 1] = np.arange(3000)
    scaled = standardized(x)
    assert not scaled[:, [0, 2]].any()
    assert scaled[:, 1].std() == pytest.approx(1, abs=1e-6)


def test_an_input_far_from_zero_keeps_its_digits():
    signal = np.random.default_rng(0).standard_normal((500, 1))
    np.testing.assert_allclose(standardized(signal + 1e9), standardized(signal), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.uint8, np.int64, np.bool_]),
        st.tuples(st.integers(1, 9), st.integers(1, 4)),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_standardized_inputs_are_finite_and_either_unit_or_zero(x):
    scaled = standardized(x).astype(np.float64)
    varies = (x != x[0]).any(0)
    # Values so small that their squares vanish even in float64 count as constant.
    varies &= np.ptp(x.astype(np.float64), 0) > 1e-150
    np.testing.assert_allclose(scaled.std(0), varies, atol=1e-5)


def test_whitening_gives_unit_covariance_where_the_data_vary():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 5))  # rank 3 in 5 dimensions
    for dtype in (np.float64, np.float32):
        variances = np.linalg.eigvalsh(covariance(whitened(x.astype(dtype))))
        np.testing.assert_allclose(variances, [0, 0, 1, 1, 1], atol=1e-6)


def test_whitening_is_zca_the_symmetric_root():
    x = np.random.default_rng(0).standard_normal((300, 4)) @ np.diag([1.0, 2, 3, 4])
    white = whitened(x)
    # Of all whitenings only the symmetric one leaves cov(white, x) symmetric and positive.
    cross = white.T.astype(np.float64) @ (x - x.mean(0)) / 300
    np.testing.assert_allclose(cross, cross.T, atol=1e-6)
    assert (np.linalg.eigvalsh((cross + cross.T) / 2) > 0).all()


def test_fewer_samples_than_inputs_whiten_to_their_own_subspace():
    variances = np.linalg.eigvalsh(covariance(whitened(np.eye(5, 8) + np.arange(8))))
    np.testing.assert_allclose(variances, [0] * 4 + [1] * 4, atol=1e-6)


def test_the_unit_of_an_input_does_not_decide_whether_whitening_keeps_it(folder):
    x = np.random.default_rng(0).standard_normal((100, 2)) * [1, 1e-9]
    np.save(folder / "x.npy", x)
    white = data.prepare(str(folder / "x.npy"), samples=100, whiten=True).x
    np.testing.assert_allclose(covariance(white), np.eye(2), atol=1e-6)


def test_a_patch_is_a_patch_of_an_image():
    images = np.arange(2 * 9 * 10 * 3, dtype=np.float32).reshape(2, 9, 10, 3)
    for patch in patches(images, 20, 0).reshape(20, 8, 8, 3):
        image, row, column = np.argwhere(images[..., 0] == patch[0, 0, 0])[0]
        np.testing.assert_array_equal(patch, images[image, row : row + 8, column : column + 8])


def test_every_corner_of_every_image_is_drawn_alike():
    images = np.arange(2 * 10 * 9).reshape(2, 10, 9, 1)  # 2 x 3 x 2 corners
    corners, counts = np.unique(patches(images, 12_000, 0)[:, 0], return_counts=True)
    assert len(corners) == 12
    # 1,000 expected, standard deviation 30
    assert abs(counts - 1000).max() < 150


def test_fewer_patches_are_the_first_of_more():
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 11, 2), np.uint8)
    few, many, other = patches(images, 50, 0), patches(images, 80, 0), patches(images, 50, 1)
    np.testing.assert_array_equal(few, many[:50])
    assert not np.array_equal(few, other)


def test_fingerprints_tell_values_and_shapes_apart():
    x = np.arange(6, dtype=np.float32)
    changed = x.copy()
    changed[3] = np.nextafter(changed[3], np.float32(9))
    marks = {fingerprint(a) for a in (x.reshape(2, 3), x.reshape(3, 2), changed.reshape(2, 3))}
    assert len(marks) == 3
    assert all(len(mark) == 16 for mark in marks)
    assert fingerprint(x.reshape(2, 3)) == fingerprint(x.copy().reshape(2, 3))
