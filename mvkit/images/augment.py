"""Augmentations: parameters drawn for every image, and their application on the CPU and on other devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvkit import rng as draws
from mvkit.images.settings import Blur, ColourJitter, Flip, Greyscale, Patches, Solarise, Step
from mvkit.jit import compiled_exact, compiled_exact_part

NOTHING, FLIP, BRIGHTNESS, CONTRAST, SATURATION, HUE, BLUR, SOLARISE = range(8)

#: Draws that a step may take; those of the next one begin after them.
DRAWS_PER_STEP = 16

#: A Gaussian is cut off so many times its (largest) width from its centre.
TRUNCATE = 3.0

#: From this width on, values of a Gaussian at whole pixels have its standard deviation (to 1e-8).
EXACT_FROM_PX = 1.5

#: Cells of the 3 x 3 grid as (row, column): the centre, then its neighbours in reading order.
CELLS = ((1, 1), (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2))

#: Weights of red, green and blue in the luma (ITU-R 601, as rounded by torchvision).
LUMA = (0.2989, 0.587, 0.114)
_RED, _GREEN, _BLUE = np.float32(LUMA[0]), np.float32(LUMA[1]), np.float32(LUMA[2])
_ZERO, _ONE, _LEVELS = np.float32(0), np.float32(1), np.float32(255)
_TWO, _FOUR, _SIX = np.float32(2), np.float32(4), np.float32(6)
Uniforms = NDArray[np.float64]
Columns = tuple[NDArray[np.int64], NDArray[np.float64]]

#: float32 (n_pixels,), and (3, n_pixels).
Plane = NDArray[np.float32]
Planes = NDArray[np.float32]


@dataclass(frozen=True)
class ViewKey:
    """Keys of the random draws of one view of a batch."""

    seed: int
    epoch: int
    view: int


@dataclass(frozen=True)
class AugmentParams:
    """Operations for every image, applied from the first column to the last.

    Attributes
    ----------
    operations
        int64 (n_images, n_columns): one of the constants of this module.
    amounts
        float32 (n_images, n_columns). Brightness, contrast, saturation: factor, 1 changes nothing. Hue: shift
        in turns, -0.5 to 0.5. Blur: width in px of the view. Solarise: least value inverted, in [0, 1].
    taps
        float32 (n_images, n_columns, n_taps): weights of the blur along one axis, sum 1; n_taps is 0 without
        a blur.
    """

    operations: NDArray[np.int64]
    amounts: NDArray[np.float32]
    taps: NDArray[np.float32]

    def flips(self) -> NDArray[np.bool_]:
        """Return whether left and right of each image are exchanged in the end, bool (n_images,)."""
        odd: NDArray[np.bool_] = (self.operations == FLIP).sum(axis=1) % 2 == 1
        return odd


def draw_params(
    steps: Sequence[Step], index: NDArray[np.int64], key: ViewKey, *, side_px: int
) -> AugmentParams:
    """Draw the augmentation of every image of a batch.

    Each number is a function of (seed, epoch, image, view, position of the step, number within the step), so
    it does not depend on the other images of the batch or on their order.

    Parameters
    ----------
    steps
        Of the view, in the order of application.
    index
        int64 (n_images,): positions of the images in the source.
    key
        Seed, epoch and view.
    side_px
        Side of the view, to which the width of a blur is scaled.
    """
    numbers = np.arange(len(steps) * DRAWS_PER_STEP, dtype=np.int64)
    drawn = draws.uniforms(key.seed, draws.STEP, key.epoch, index[:, None], key.view, numbers[None, :])
    columns: list[Columns] = [(np.zeros((index.size, 0), np.int64), np.zeros((index.size, 0)))]
    for position, step in enumerate(steps):
        first = position * DRAWS_PER_STEP
        columns.append(_STEPS[type(step)](step, drawn[:, first : first + DRAWS_PER_STEP], side_px))
    operations = np.concatenate([column[0] for column in columns], axis=1)
    amounts = np.concatenate([column[1] for column in columns], axis=1).astype(np.float32)
    radii = [blur_radius(step, side_px) for step in steps if isinstance(step, Blur)]
    taps = np.zeros((*operations.shape, 2 * max(radii) + 1 if radii else 0), np.float32)
    blurred = [column for column in range(operations.shape[1]) if (operations[:, column] == BLUR).any()]
    for column in blurred:
        taps[:, column] = _gaussian_taps(amounts[:, column], max(radii))
    # One memory layout, so that kernels are compiled once.
    return AugmentParams(np.ascontiguousarray(operations), np.ascontiguousarray(amounts), taps)


def _column(step: Any, u: Uniforms, operation: int, amount: Any = 0.0) -> Columns:
    """One column: the operation for the images for which it was drawn."""
    operations = np.where(u[:, :1] < step.probability, operation, NOTHING)
    return operations, np.broadcast_to(np.reshape(amount, (-1, 1)), operations.shape)


def _flip(step: Flip, u: Uniforms, side_px: int) -> Columns:
    return _column(step, u, FLIP)


def _greyscale(step: Greyscale, u: Uniforms, side_px: int) -> Columns:
    return _column(step, u, SATURATION, 0.0)


def _solarise(step: Solarise, u: Uniforms, side_px: int) -> Columns:
    # Half a level lower: values between levels, left by earlier steps, count as the nearest level.
    return _column(step, u, SOLARISE, (step.threshold - 0.5) / 255)


def _jitter(step: ColourJitter, u: Uniforms, side_px: int) -> Columns:
    operations, amounts = [], []
    factors = (
        (BRIGHTNESS, step.brightness),
        (CONTRAST, step.contrast),
        (SATURATION, step.saturation),
    )
    for operation, strength in factors:
        if strength > 0:
            low = max(0.0, 1.0 - strength)
            operations.append(operation)
            amounts.append(low + u[:, operation] * (1.0 + strength - low))
    if step.hue > 0:
        operations.append(HUE)
        amounts.append((2.0 * u[:, HUE] - 1.0) * step.hue)
    if not operations:
        return np.zeros((len(u), 0), np.int64), np.zeros((len(u), 0))
    first = HUE + 1
    order = np.argsort(u[:, first : first + len(operations)], axis=1, kind="stable")
    ordered = np.asarray(operations, np.int64)[order]
    drawn = np.take_along_axis(np.stack(amounts, axis=1), order, axis=1)
    return np.where(u[:, :1] < step.probability, ordered, NOTHING), drawn


def _blur(step: Blur, u: Uniforms, side_px: int) -> Columns:
    low, high = step.sigma_px
    sigma = low + u[:, 1] * (high - low)
    return _column(step, u, BLUR, width_of_deviation(sigma * side_px / step.at_px) if step.at_px else sigma)


def blur_radius(step: Blur, side_px: int) -> int:
    """Return how many neighbours on each side the blur of a view of ``side_px`` takes in."""
    largest = step.sigma_px[1] * (side_px / step.at_px if step.at_px else 1.0)
    return min(int(np.ceil(TRUNCATE * largest)), side_px - 1)


def width_of_deviation(deviation_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the width of the Gaussian whose values at whole pixels have this standard deviation.

    The two differ below a pixel: values of a Gaussian of 0.29 px hardly blur at all.
    """
    width, deviation = _deviations()
    return np.where(deviation_px < EXACT_FROM_PX, np.interp(deviation_px, deviation, width), deviation_px)


@cache
def _deviations() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Widths of Gaussians, and the standard deviations of their values at whole pixels."""
    width = np.linspace(0.01, EXACT_FROM_PX, 4000)
    pixel = np.arange(-16, 17)
    weights = np.exp(-0.5 * (pixel / width[:, None]) ** 2)
    return width, np.sqrt((weights * pixel**2).sum(axis=1) / weights.sum(axis=1))


_STEPS: Mapping[type[Any], Callable[[Any, Uniforms, int], Columns]] = {
    Flip: _flip,
    Greyscale: _greyscale,
    ColourJitter: _jitter,
    Blur: _blur,
    Solarise: _solarise,
}


def _gaussian_taps(sigma: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Weights of Gaussians at whole pixels, float32 (n, 2 radius + 1), each summing to 1."""
    distance = np.arange(-radius, radius + 1, dtype=np.float64)
    # A width of zero leaves the centre alone.
    width = np.maximum(sigma[:, None].astype(np.float64), 1e-6)
    weights = np.exp(-0.5 * (distance / width) ** 2)
    taps: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return taps


def rotations(view: Tensor) -> tuple[Tensor, ...]:
    """Return the view (n, 3, side, side) turned by 0, 90, 180 and 270 degrees, counter-clockwise."""
    return tuple(torch.rot90(view, quarter, (2, 3)).contiguous() for quarter in range(4))


def patch_offsets(settings: Patches, index: NDArray[np.int64], key: ViewKey) -> NDArray[np.int64]:
    """Draw where patches begin in their cells, uniformly.

    Returns
    -------
    ndarray
        int64 (n_images, 9, 2): rows and columns below the cell's first, 0 to ``cell_px - patch_px``.
    """
    numbers = np.arange(2 * len(CELLS), dtype=np.int64)
    drawn = draws.uniforms(key.seed, draws.PATCH, key.epoch, index[:, None], key.view, numbers[None, :])
    n_offsets = settings.cell_px - settings.patch_px + 1
    offsets: NDArray[np.int64] = (drawn * n_offsets).astype(np.int64).reshape(-1, len(CELLS), 2)
    return offsets


def patches(view: Tensor, settings: Patches, offsets: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """Cut nine patches out of every image.

    Parameters
    ----------
    view
        float32 (n, 3, 3 cell_px, 3 cell_px).
    settings
        Sides of cells and patches.
    offsets
        From :func:`patch_offsets`.

    Returns
    -------
    tuple of Tensor
        Nine of float32 (n, 3, patch_px, patch_px): the centre first, then its neighbours in reading order.
    """
    starts = np.asarray(CELLS, np.int64) * settings.cell_px + offsets
    inside = torch.arange(settings.patch_px, device=view.device)
    image = torch.arange(view.shape[0], device=view.device).view(-1, 1, 1, 1)
    channel = torch.arange(view.shape[1], device=view.device).view(1, -1, 1, 1)
    cut = []
    for cell in range(len(CELLS)):
        start = _to_device(starts[:, cell], view)
        rows = (start[:, :1] + inside).view(view.shape[0], 1, -1, 1)
        columns = (start[:, 1:] + inside).view(view.shape[0], 1, 1, -1)
        cut.append(view[image, channel, rows, columns])
    return tuple(cut)


@compiled_exact
def augment_images(
    crops: NDArray[np.uint8],
    params: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]],
    norm: tuple[Plane, Plane],
    out: NDArray[np.float32],
) -> None:
    """Augment and normalise every image.

    Parameters
    ----------
    crops
        uint8 (n_images, height, width, 3), RGB, C-contiguous.
    params
        ``operations``, ``amounts`` and ``taps`` of :class:`mvkit.images.augment.AugmentParams`.
    norm
        Mean and standard deviation, float32 (3,) each, of values in [0, 1].
    out
        float32 (n_images, 3, height, width), C-contiguous, overwritten.
    """
    operations, amounts, taps = params
    n_images, height, width, _ = crops.shape
    row = np.empty(width + taps.shape[2] + 5, np.float32)
    row_blurred = np.empty(height * width if taps.shape[2] > 0 else 0, np.float32)
    for image in range(n_images):
        planes = out[image].reshape(3, height * width)
        _scale_pixels(crops[image].reshape(height * width * 3), planes)
        for column in range(operations.shape[1]):
            operation = operations[image, column]
            amount = amounts[image, column]
            rest = np.float32(1.0 - np.float64(amount))
            if operation == FLIP:
                _flip_pixels(planes, width, row)
            elif operation == BRIGHTNESS:
                _scale_and_add(planes, amount, _ZERO)
            elif operation == CONTRAST:
                _scale_and_add(planes, amount, rest * _mean_luma(planes, width, row))
            elif operation == SATURATION:
                _saturation(planes, amount, rest)
            elif operation == HUE:
                _hue(planes, amount)
            elif operation == BLUR:
                _blur_pixels(planes, width, taps[image, column], row, row_blurred)
            elif operation == SOLARISE:
                _solarise_pixels(planes, amount)
        _normalise(planes, norm[0], norm[1])


@compiled_exact_part
def _scale_pixels(pixels: NDArray[np.uint8], planes: Planes) -> None:
    """Scale interleaved 8-bit pixels, uint8 (n_pixels * 3,), into planes (3, n_pixels)."""
    red, green, blue = planes[0], planes[1], planes[2]
    for at in range(red.size):
        red[at] = np.float32(pixels[3 * at]) / _LEVELS
        green[at] = np.float32(pixels[3 * at + 1]) / _LEVELS
        blue[at] = np.float32(pixels[3 * at + 2]) / _LEVELS


@compiled_exact_part
def _flip_pixels(planes: Planes, width: int, row: Plane) -> None:
    for channel in range(3):
        for start in range(0, planes.shape[1], width):
            line = planes[channel, start : start + width]
            for x in range(width):
                row[x] = line[x]
            for x in range(width):
                line[np.uintp(width - 1 - x)] = row[x]


@compiled_exact_part
def _scale_and_add(planes: Planes, factor: np.float32, rest: np.float32) -> None:
    """Multiply by ``factor`` and add ``rest``."""
    for channel in range(3):
        plane = planes[channel]
        for at in range(plane.size):
            plane[at] = _clamp(factor * plane[at] + rest)


@compiled_exact_part
def _mean_luma(planes: Planes, width: int, sums: Plane) -> np.float32:
    for x in range(width):
        sums[x] = _ZERO
    for start in range(0, planes.shape[1], width):
        red, green, blue = planes[0, start:], planes[1, start:], planes[2, start:]
        for x in range(width):
            sums[x] += _RED * red[x] + _GREEN * green[x] + _BLUE * blue[x]
    total = 0.0
    for x in range(width):
        total += np.float64(sums[x])
    return np.float32(total / planes.shape[1])


@compiled_exact_part
def _saturation(planes: Planes, factor: np.float32, rest: np.float32) -> None:
    red, green, blue = planes[0], planes[1], planes[2]
    for at in range(red.size):
        grey = rest * (_RED * red[at] + _GREEN * green[at] + _BLUE * blue[at])
        red[at] = _clamp(factor * red[at] + grey)
        green[at] = _clamp(factor * green[at] + grey)
        blue[at] = _clamp(factor * blue[at] + grey)


@compiled_exact_part
def _hue(planes: Planes, shift: np.float32) -> None:
    """Turn the hue by ``shift`` turns.

    With value v (the largest channel) and chroma c (largest minus smallest) a colour of hue h is
    v - c max(0, min(k, 4 - k, 1)), k = (n + 6h) mod 6, n = 5, 3, 1 for red, green, blue; so the way through
    saturation and sextants, with its divisions and branches, is not needed.
    """
    red, green, blue = planes[0], planes[1], planes[2]
    # Hue lies between -1 and 5 sixths; made non-negative, turned, and n of the last channel added.
    turned = np.float32(shift * _SIX + _SIX if shift < _ZERO else shift * _SIX)
    start = turned + _ONE
    for at in range(red.size):
        r, g, b = red[at], green[at], blue[at]
        larger = r if r > g else g
        value = larger if larger > b else b
        smaller = r if r < g else g
        least = smaller if smaller < b else b
        chroma = value - least
        divisor = chroma if chroma > _ZERO else _ONE
        of_red = g - b
        of_green = b - r
        of_blue = r - g
        numerator = of_green if value == g else of_blue
        numerator = of_red if value == r else numerator
        sector = _TWO if value == g else _FOUR
        sector = _ZERO if value == r else sector
        last = numerator / divisor + sector + start
        last = last - _SIX if last >= _SIX else last
        red[at] = value - chroma * _missing_chroma(last + _FOUR)
        green[at] = value - chroma * _missing_chroma(last + _TWO)
        blue[at] = value - chroma * _missing_chroma(last)


@compiled_exact_part
def _missing_chroma(sixths: np.float32) -> np.float32:
    """Fraction of the chroma that a channel lacks, by its distance on the colour circle in [0, 12) sixths."""
    sixths = sixths - _SIX if sixths >= _SIX else sixths
    rest = _FOUR - sixths
    nearer = sixths if sixths < rest else rest
    return _clamp(nearer)


@compiled_exact_part
def _blur_pixels(planes: Planes, width: int, taps: Plane, row: Plane, row_blurred: Plane) -> None:
    """Blur along rows into ``row_blurred``, then along columns back.

    Taps are taken in fives, filled up with zeros; ``row`` holds a line and as many taps.
    """
    radius = taps.size // 2
    height = planes.shape[1] // width
    weights = np.zeros((taps.size + 4) // 5 * 5, np.float32)
    weights[: taps.size] = taps
    row[:] = _ZERO
    for channel in range(3):
        plane = planes[channel]
        row_blurred[:] = _ZERO
        for y in range(height):
            line = plane[y * width : (y + 1) * width]
            for x in range(width):
                row[radius + x] = line[x]
            for x in range(radius):
                row[x] = line[radius - x]
                row[radius + width + x] = line[width - 2 - x]
            line = row_blurred[y * width : (y + 1) * width]
            for tap in range(0, weights.size, 5):
                _add_five(line, row, (tap, tap + 1, tap + 2, tap + 3, tap + 4), weights[tap:])
        plane[:] = _ZERO
        for y in range(height):
            line = plane[y * width : (y + 1) * width]
            for tap in range(0, weights.size, 5):
                above = y + tap - radius
                starts = (
                    _mirror(above, height) * width,
                    _mirror(above + 1, height) * width,
                    _mirror(above + 2, height) * width,
                    _mirror(above + 3, height) * width,
                    _mirror(above + 4, height) * width,
                )
                _add_five(line, row_blurred, starts, weights[tap:])


@compiled_exact_part
def _mirror(at: int, length: int) -> int:
    """Mirror a position outside at the first or last pixel, which are not repeated.

    Further out, where taps are zero, any position will do.
    """
    at = -at if at < 0 else at
    at = 2 * (length - 1) - at if at >= length else at
    return max(0, at)


@compiled_exact_part
def _add_five(out: Plane, source: Plane, starts: tuple[int, int, int, int, int], weights: Plane) -> None:
    """Add five weighted stretches of ``source`` to ``out``: several at once spare traffic with memory.

    Positions are unsigned: numba's meaning of negative ones would keep the loop from being vectorised.
    """
    a, b, c, d, e = starts
    at_a, at_b, at_c, at_d, at_e = np.uintp(a), np.uintp(b), np.uintp(c), np.uintp(d), np.uintp(e)
    first, second, third, fourth, fifth = weights[0], weights[1], weights[2], weights[3], weights[4]
    for x in range(np.uintp(out.size)):
        out[x] = (
            out[x]
            + first * source[at_a + x]
            + second * source[at_b + x]
            + third * source[at_c + x]
            + fourth * source[at_d + x]
            + fifth * source[at_e + x]
        )


@compiled_exact_part
def _solarise_pixels(planes: Planes, threshold: np.float32) -> None:
    for channel in range(3):
        plane = planes[channel]
        for at in range(plane.size):
            plane[at] = _ONE - plane[at] if plane[at] >= threshold else plane[at]


@compiled_exact_part
def _normalise(planes: Planes, mean: Plane, std: Plane) -> None:
    for channel in range(3):
        plane = planes[channel]
        for at in range(plane.size):
            plane[at] = (plane[at] - mean[channel]) / std[channel]


@compiled_exact_part
def _clamp(value: np.float32) -> np.float32:
    value = value if value > _ZERO else _ZERO
    return value if value < _ONE else _ONE


def augment_batch(crops: Tensor, params: AugmentParams, mean: Tensor, std: Tensor) -> Tensor:
    """Augment and normalise every image with torch operations.

    Parameters
    ----------
    crops
        uint8 (n_images, height, width, 3), RGB, on the device to work on.
    params
        Drawn for these images.
    mean, std
        float32 (3,), on the device, of values in [0, 1].

    Returns
    -------
    Tensor
        float32 (n_images, 3, height, width), contiguous.
    """
    images = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
    for column in range(params.operations.shape[1]):
        operations = params.operations[:, column]
        amounts = params.amounts[:, column]
        images = _blend(images, operations, amounts)
        for operation in (FLIP, HUE, BLUR, SOLARISE):
            chosen = np.flatnonzero(operations == operation)
            if not chosen.size:
                continue
            rows = _to_device(chosen, images)
            part = images.index_select(0, rows)
            if operation == FLIP:
                part = part.flip(-1)
            elif operation == HUE:
                part = turn_hue(part, _factors(amounts[chosen], part))
            elif operation == BLUR:
                part = blur(part, _to_device(params.taps[chosen, column], part))
            else:
                part = torch.where(part >= _factors(amounts[chosen], part), 1 - part, part)
            images.index_copy_(0, rows, part)
    return (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def _blend(images: Tensor, operations: NDArray[np.int64], amounts: NDArray[np.float32]) -> Tensor:
    """Apply brightness, contrast and saturation where a column has them; other images stay as they are."""
    contrasted, saturated = operations == CONTRAST, operations == SATURATION
    blended = contrasted | saturated | (operations == BRIGHTNESS)
    if not blended.any():
        return images
    factors = np.where(blended, amounts, np.float32(1))
    rests = (1.0 - factors.astype(np.float64)).astype(np.float32)
    partner = torch.zeros((), device=images.device)
    if contrasted.any() or saturated.any():
        grey = luma(images)
        if saturated.any():
            partner = grey * _factors(np.where(saturated, rests, np.float32(0)), images)
        if contrasted.any():
            weight = _factors(np.where(contrasted, rests, np.float32(0)), images)
            partner = partner + grey.mean(dim=(2, 3), keepdim=True) * weight
    return (images * _factors(factors, images) + partner).clamp_(0, 1)


def luma(images: Tensor) -> Tensor:
    """Return the luma of float images (n, 3, height, width) as (n, 1, height, width)."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def turn_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of float images in [0, 1].

    See the compiled ``_hue`` for the formula.

    Parameters
    ----------
    images
        float32 (n, 3, height, width).
    shift
        float32 (n, 1, 1, 1): turns.
    """
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    red, green, blue = images.unbind(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    # n of red, green and blue; see the kernel.
    offsets = _to_device(np.array((5.0, 3.0, 1.0), np.float32), images).view(1, 3, 1, 1)
    wrapped = torch.remainder(sixths.unsqueeze(1) + 6 * shift + offsets, 6)
    share = torch.minimum(wrapped, 4 - wrapped).clamp_(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * share


def blur(images: Tensor, taps: Tensor) -> Tensor:
    """Blur every image with its own weights, rows first; borders are mirrored.

    A sum of shifted images: convolutions of CUDA devices may round their factors to ten bits (TF32).

    Parameters
    ----------
    images
        float32 (n, 3, height, width).
    taps
        float32 (n, n_taps).
    """
    radius = taps.shape[1] // 2
    for axis in (3, 2):
        sides = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
        padded = torch.nn.functional.pad(images, sides, mode="reflect")
        length = images.shape[axis]
        blurred = torch.zeros_like(images)
        for tap in range(taps.shape[1]):
            blurred = blurred + taps[:, tap].view(-1, 1, 1, 1) * padded.narrow(axis, tap, length)
        images = blurred
    return images


def _factors(amounts: NDArray[np.float32], like: Tensor) -> Tensor:
    """float32 (n_images, 1, 1, 1)."""
    return _to_device(amounts, like).view(-1, 1, 1, 1)


def _to_device(array: NDArray[np.int64] | NDArray[np.float32], like: Tensor) -> Tensor:
    """Copy a small array to a tensor's device without waiting for what the device has to do before."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)
