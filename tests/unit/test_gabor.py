"""The Gabor bank against direct sums and what the filters are meant to detect."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.gabor import WAVELENGTHS_AND_STRIDES_PX, gabor_bank, gabor_energies, gabor_kernels


def grating(wavelength_px: float, angle: float, size_px: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size_px, :size_px]
    return 0.5 + 0.5 * np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength_px)


def test_kernels_have_zero_mean_unit_norm_and_are_in_quadrature() -> None:
    for scale in gabor_bank():
        for kernels in (scale.even, scale.odd):
            np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 0, atol=1e-12)
            np.testing.assert_allclose((kernels**2).sum(axis=(1, 2)), 1, rtol=1e-12)
            assert kernels.shape[-1] % 2 == 1
        np.testing.assert_allclose((scale.even * scale.odd).sum(axis=(1, 2)), 0, atol=1e-12)
        np.testing.assert_allclose(scale.even[:, ::-1, ::-1], scale.even, atol=1e-14)
        np.testing.assert_allclose(scale.odd[:, ::-1, ::-1], -scale.odd, atol=1e-14)


def test_kernel_formula_at_single_pixels() -> None:
    even, odd = gabor_kernels(4)
    # Odd kernel, vertical stripes: sin(2 pi x / 4) exp(-(x^2 + y^2) / (2 1.6^2)); ratio of two of its pixels.
    assert odd[0, 4, 4 + 1] / odd[0, 4 + 2, 4 + 1] == pytest.approx(math.exp(4 / (2 * 1.6**2)), rel=1e-12)
    assert odd[0, 4, 4 + 2] == pytest.approx(0, abs=1e-15)
    assert even[0, 4, 4] > 0 > even[0, 4, 4 + 2]


def test_energies_equal_direct_sums() -> None:
    """Every map entry is a sum over the zero-padded image, written out here with loops."""
    image = np.random.RandomState(0).random_sample((64, 64))
    found = gabor_energies(image[None])[0]
    start = 0
    for scale in gabor_bank():
        half = scale.even.shape[-1] // 2
        padded = np.pad(image - 0.5, half)
        size = -(-64 // scale.stride)
        shape = (len(scale.even), size, size)
        maps = found[start : start + math.prod(shape)].reshape(shape)
        for orientation, row, column in [(0, 0, 0), (3, 1, 2), (7, size - 1, size - 1)]:
            y, x = row * scale.stride, column * scale.stride
            window = padded[y : y + 2 * half + 1, x : x + 2 * half + 1]
            even = (window * scale.even[orientation]).sum()
            odd = (window * scale.odd[orientation]).sum()
            assert maps[orientation, row, column] == pytest.approx(math.hypot(even, odd), rel=1e-10)
        start += math.prod(shape)
    assert start == len(found)


def test_each_grating_drives_its_own_scale_and_orientation_most() -> None:
    for index, (wavelength, stride) in enumerate(WAVELENGTHS_AND_STRIDES_PX):
        for orientation in range(8):
            energies = gabor_energies(grating(wavelength, orientation * math.pi / 8)[None])[0]
            means, start = {}, 0
            for other, (_, other_stride) in enumerate(WAVELENGTHS_AND_STRIDES_PX):
                size = 64 // other_stride
                maps = energies[start : start + 8 * size * size].reshape(8, size, size)
                start += maps.size
                # The centre of the image, away from the padding.
                centre = maps[:, size // 2, size // 2] / (2 * WAVELENGTHS_AND_STRIDES_PX[other][0])
                means.update({(other, o): value for o, value in enumerate(centre)})
            assert max((key for key in means if key[0] == index), key=means.__getitem__) == (
                index,
                orientation,
            )
            assert max(means, key=means.__getitem__)[0] == index, (wavelength, stride)


def test_energy_ignores_contrast_sign_and_scales_with_contrast() -> None:
    images = np.random.RandomState(1).random_sample((2, 64, 64))
    energies = gabor_energies(images)
    np.testing.assert_allclose(gabor_energies(1 - images), energies, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gabor_energies(0.5 + (images - 0.5) / 2), energies / 2, rtol=1e-10)


def test_batching_does_not_change_the_result() -> None:
    images = np.random.RandomState(2).random_sample((70, 64, 64))
    together = gabor_energies(images)
    np.testing.assert_allclose(gabor_energies(images[66:]), together[66:], rtol=1e-12)
    assert together.shape == (70, 3200)
    assert gabor_energies(images[:0]).shape == (0, 3200)


def test_grey_images_have_no_energy_and_wrong_shapes_are_refused() -> None:
    np.testing.assert_array_equal(gabor_energies(np.full((1, 64, 64), 0.5)), 0)
    with pytest.raises(DataError, match="n_images, height, width"):
        gabor_energies(np.zeros((64, 64)))
