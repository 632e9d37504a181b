"""The operations on the CPU: one pass over a batch, compiled, from 8-bit pixels to network input.

Every image is worked on in its place in the output, as three planes of float32 in [0, 1]. The loops are
written so that they become vector instructions: no branches, one plane after another, and no function that
has none. Formulas are those of torchvision on float tensors (torchvision.transforms.functional), values are
not rounded to 8 bits in between.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.images.augment.program import BLUR, BRIGHTNESS, CONTRAST, FLIP, HUE, SATURATION, SOLARISE
from mvkit.images.compiled import compiled, compiled_part

Plane = NDArray[np.float32]
Planes = NDArray[np.float32]

_ZERO, _ONE, _LEVELS = np.float32(0), np.float32(1), np.float32(255)
#: Weights of red, green and blue in the luma (ITU-R 601, as rounded by torchvision).
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_TWO, _FOUR, _SIX = np.float32(2), np.float32(4), np.float32(6)


@compiled_part
def _clamped(value: np.float32) -> np.float32:
    value = value if value > _ZERO else _ZERO
    return value if value < _ONE else _ONE


@compiled_part
def _load(pixels: NDArray[np.uint8], planes: Planes) -> None:
    """Scale interleaved 8-bit pixels, uint8 (n_pixels * 3,), into planes (3, n_pixels)."""
    red, green, blue = planes[0], planes[1], planes[2]
    for at in range(red.size):
        red[at] = np.float32(pixels[3 * at]) / _LEVELS
        green[at] = np.float32(pixels[3 * at + 1]) / _LEVELS
        blue[at] = np.float32(pixels[3 * at + 2]) / _LEVELS


@compiled_part
def _flip(planes: Planes, width: int, row: Plane) -> None:
    for channel in range(3):
        for start in range(0, planes.shape[1], width):
            line = planes[channel, start : start + width]
            for x in range(width):
                row[x] = line[x]
            for x in range(width):
                line[np.uintp(width - 1 - x)] = row[x]


@compiled_part
def _towards_constant(planes: Planes, factor: np.float32, rest: np.float32) -> None:
    """Multiply by ``factor`` and add ``rest``."""
    for channel in range(3):
        plane = planes[channel]
        for at in range(plane.size):
            plane[at] = _clamped(factor * plane[at] + rest)


@compiled_part
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


@compiled_part
def _saturation(planes: Planes, factor: np.float32, rest: np.float32) -> None:
    red, green, blue = planes[0], planes[1], planes[2]
    for at in range(red.size):
        grey = rest * (_RED * red[at] + _GREEN * green[at] + _BLUE * blue[at])
        red[at] = _clamped(factor * red[at] + grey)
        green[at] = _clamped(factor * green[at] + grey)
        blue[at] = _clamped(factor * blue[at] + grey)


@compiled_part
def _share(sixths: np.float32) -> np.float32:
    """How much of the chroma a channel lacks at this distance on the circle, in [0, 12) sixths."""
    sixths = sixths - _SIX if sixths >= _SIX else sixths
    rest = _FOUR - sixths
    nearer = sixths if sixths < rest else rest
    return _clamped(nearer)


@compiled_part
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
        red[at] = value - chroma * _share(last + _FOUR)
        green[at] = value - chroma * _share(last + _TWO)
        blue[at] = value - chroma * _share(last)


@compiled_part
def _reflected(at: int, length: int) -> int:
    """Position inside for one outside: mirrored at the first and last pixel, which are not repeated.

    Further out, where taps are zero, any position will do.
    """
    at = -at if at < 0 else at
    at = 2 * (length - 1) - at if at >= length else at
    return max(0, at)


@compiled_part
def _five(out: Plane, source: Plane, starts: tuple[int, int, int, int, int], weights: Plane) -> None:
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


@compiled_part
def _blur(planes: Planes, width: int, taps: Plane, row: Plane, half_done: Plane) -> None:
    """Blur along rows into ``half_done``, then along columns back.

    Taps are taken in fives, filled up with zeros; ``row`` has room for a line and as many taps.
    """
    radius = taps.size // 2
    height = planes.shape[1] // width
    weights = np.zeros((taps.size + 4) // 5 * 5, np.float32)
    weights[: taps.size] = taps
    row[:] = _ZERO
    for channel in range(3):
        plane = planes[channel]
        half_done[:] = _ZERO
        for y in range(height):
            line = plane[y * width : (y + 1) * width]
            for x in range(width):
                row[radius + x] = line[x]
            for x in range(radius):
                row[x] = line[radius - x]
                row[radius + width + x] = line[width - 2 - x]
            line = half_done[y * width : (y + 1) * width]
            for tap in range(0, weights.size, 5):
                _five(line, row, (tap, tap + 1, tap + 2, tap + 3, tap + 4), weights[tap:])
        plane[:] = _ZERO
        for y in range(height):
            line = plane[y * width : (y + 1) * width]
            for tap in range(0, weights.size, 5):
                above = y + tap - radius
                starts = (
                    _reflected(above, height) * width,
                    _reflected(above + 1, height) * width,
                    _reflected(above + 2, height) * width,
                    _reflected(above + 3, height) * width,
                    _reflected(above + 4, height) * width,
                )
                _five(line, half_done, starts, weights[tap:])


@compiled_part
def _solarise(planes: Planes, threshold: np.float32) -> None:
    for channel in range(3):
        plane = planes[channel]
        for at in range(plane.size):
            plane[at] = _ONE - plane[at] if plane[at] >= threshold else plane[at]


@compiled_part
def _normalise(planes: Planes, mean: Plane, std: Plane) -> None:
    for channel in range(3):
        plane = planes[channel]
        for at in range(plane.size):
            plane[at] = (plane[at] - mean[channel]) / std[channel]


@compiled
def augment_images(
    crops: NDArray[np.uint8],
    program: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]],
    norm: tuple[Plane, Plane],
    out: NDArray[np.float32],
) -> None:
    """Carry out the program of every image and normalise.

    Parameters
    ----------
    crops
        uint8 (n_images, height, width, 3), RGB, C-contiguous.
    program
        ``operations``, ``amounts`` and ``taps`` of :class:`mvkit.images.augment.program.Program`.
    norm
        Mean and standard deviation, float32 (3,) each, of values in [0, 1].
    out
        float32 (n_images, 3, height, width), C-contiguous, overwritten.
    """
    operations, amounts, taps = program
    n_images, height, width, _ = crops.shape
    row = np.empty(width + taps.shape[2] + 5, np.float32)
    half_done = np.empty(height * width if taps.shape[2] > 0 else 0, np.float32)
    for image in range(n_images):
        planes = out[image].reshape(3, height * width)
        _load(crops[image].reshape(height * width * 3), planes)
        for column in range(operations.shape[1]):
            operation = operations[image, column]
            amount = amounts[image, column]
            rest = np.float32(1.0 - np.float64(amount))
            if operation == FLIP:
                _flip(planes, width, row)
            elif operation == BRIGHTNESS:
                _towards_constant(planes, amount, _ZERO)
            elif operation == CONTRAST:
                _towards_constant(planes, amount, rest * _mean_luma(planes, width, row))
            elif operation == SATURATION:
                _saturation(planes, amount, rest)
            elif operation == HUE:
                _hue(planes, amount)
            elif operation == BLUR:
                _blur(planes, width, taps[image, column], row, half_done)
            elif operation == SOLARISE:
                _solarise(planes, amount)
        _normalise(planes, norm[0], norm[1])
