"""A fixed bank of Gabor energies over scales, orientations and positions.

A quadrature pair of Gabor filters, squared and summed, is the standard
description of a complex cell in primary visual cortex (Adelson & Bergen 1985,
J. Opt. Soc. Am. A 2:284, eq. 5; Jones & Palmer 1987, J. Neurophysiol.
58:1233, for the two-dimensional form). The bank is meant for 64 x 64 px grey
images:

=============  ======  ==========  =====================  ========
wavelength px  stride  kernel px   map (8 orientations)   features
=============  ======  ==========  =====================  ========
4              4       9 x 9       8 x 16 x 16            2048
8              8       17 x 17     8 x 8 x 8              512
16             8       33 x 33     8 x 8 x 8              512
32             16      65 x 65     8 x 4 x 4              128
=============  ======  ==========  =====================  ========

together 3200 features. Orientations are k * 22.5 degrees, k = 0 ... 7. The
envelope is a circular Gaussian of standard deviation 0.4 wavelengths (a
half-height bandwidth of 1.5 octaves), cut off one wavelength from the centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mvkit.errors import DataError

N_ORIENTATIONS = 8
ENVELOPE_SIGMA_IN_WAVELENGTHS = 0.4
WAVELENGTHS_AND_STRIDES_PX = ((4, 4), (8, 8), (16, 8), (32, 16))
GREY_LEVEL = 0.5
_IMAGES_PER_BATCH = 64


@dataclass(frozen=True, eq=False)
class GaborScale:
    """One spatial scale of the bank.

    Attributes
    ----------
    wavelength_px
        Period of the carrier in pixels.
    stride
        Distance between neighbouring filter positions in pixels.
    even, odd
        Cosine and sine kernels, float64 (n_orientations, k, k), k odd; each
        kernel has zero mean and unit Euclidean norm. Read-only.
    """

    wavelength_px: int
    stride: int
    even: NDArray[np.float64]
    odd: NDArray[np.float64]


def gabor_kernels(
    wavelength_px: int, n_orientations: int = N_ORIENTATIONS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the even and odd Gabor kernels of one wavelength.

    Parameters
    ----------
    wavelength_px
        Period of the carrier in pixels; the kernels are
        ``2 * wavelength_px + 1`` pixels wide.
    n_orientations
        Number of carrier directions, evenly spaced over 180 degrees. Direction
        0 varies along x (vertical stripes); the angle turns from +x to +y.

    Returns
    -------
    tuple of float64 (n_orientations, k, k)
        Even and odd kernels, each of zero mean and unit norm.
    """
    offsets = np.arange(-wavelength_px, wavelength_px + 1, dtype=np.float64)
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    sigma = ENVELOPE_SIGMA_IN_WAVELENGTHS * wavelength_px
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    angles = np.arange(n_orientations) * (math.pi / n_orientations)
    along = x * np.cos(angles)[:, None, None] + y * np.sin(angles)[:, None, None]
    phase = 2 * math.pi * along / wavelength_px
    return _normalised(np.cos(phase), envelope), _normalised(np.sin(phase), envelope)


def _normalised(carrier: NDArray[np.float64], envelope: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply by the envelope; make each kernel zero-mean and of unit norm."""
    # The mean is removed inside the envelope, so the kernel still fades out at its border.
    mean = (carrier * envelope).sum(axis=(1, 2), keepdims=True) / envelope.sum()
    kernels = (carrier - mean) * envelope
    normalised: NDArray[np.float64] = kernels / np.sqrt((kernels**2).sum(axis=(1, 2), keepdims=True))
    normalised.flags.writeable = False
    return normalised


def gabor_bank() -> tuple[GaborScale, ...]:
    """Return the scales of the bank, finest first (table in the module's docstring)."""
    return tuple(
        GaborScale(wavelength, stride, *gabor_kernels(wavelength))
        for wavelength, stride in WAVELENGTHS_AND_STRIDES_PX
    )


def gabor_energies(images: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the energies of all filters of :func:`gabor_bank` for each image.

    Per scale: cross-correlate ``images - 0.5`` with the even and odd kernels,
    with zero padding of ``k // 2`` and the scale's stride; energy =
    sqrt(even**2 + odd**2). The (n_orientations, h, w) maps are flattened in C
    order and concatenated over scales, finest first.

    Parameters
    ----------
    images
        Grey levels in [0, 1], (n_images, height, width); meant for 64 x 64.

    Returns
    -------
    float64 (n_images, n_features)
        3200 features for 64 x 64 images.

    Raises
    ------
    DataError
        If ``images`` is not three-dimensional.
    """
    if images.ndim != 3:
        raise DataError(f"gabor_energies: images must be (n_images, height, width), not {images.shape}")
    bank = gabor_bank()
    # A batch bounds the memory of the unfolded windows (64 images: about 36 MB at most).
    starts = range(0, len(images), _IMAGES_PER_BATCH)
    batches = [_batch_energies(images[start : start + _IMAGES_PER_BATCH], bank) for start in starts]
    return np.concatenate(batches) if batches else _batch_energies(images, bank)


def _batch_energies(images: NDArray[np.floating], bank: tuple[GaborScale, ...]) -> NDArray[np.float64]:
    contrast = np.asarray(images, dtype=np.float64) - GREY_LEVEL
    return np.concatenate([_scale_energies(contrast, scale) for scale in bank], axis=1)


def _scale_energies(contrast: NDArray[np.float64], scale: GaborScale) -> NDArray[np.float64]:
    size = scale.even.shape[-1]
    margin = (size // 2, size // 2)
    padded = np.pad(contrast, ((0, 0), margin, margin))
    windows = sliding_window_view(padded, (size, size), axis=(1, 2))[:, :: scale.stride, :: scale.stride]
    n_images, height, width = windows.shape[:3]
    flat = windows.reshape(n_images * height * width, size * size)
    even = flat @ scale.even.reshape(-1, size * size).T
    odd = flat @ scale.odd.reshape(-1, size * size).T
    energy = np.sqrt(even**2 + odd**2).reshape(n_images, height, width, len(scale.even))
    maps = np.ascontiguousarray(energy.transpose(0, 3, 1, 2))
    return maps.reshape(n_images, len(scale.even) * height * width)


__all__ = ["GaborScale", "gabor_bank", "gabor_energies", "gabor_kernels"]
