"""What happens to each image of a batch, as arrays: drawn once, carried out on the CPU or on a device.

A step of a recipe becomes one column, a colour jitter up to four (its changes in the order drawn for the
image). Greyscale is a saturation of 0, so there are seven operations only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit import draws
from mvkit.images.settings import Blur, ColourJitter, Flip, Greyscale, Solarise, Step

NOTHING, FLIP, BRIGHTNESS, CONTRAST, SATURATION, HUE, BLUR, SOLARISE = range(8)

#: Draws that a step may take; those of the next one begin after them.
DRAWS_PER_STEP = 16
#: A Gaussian is cut off so many times its (largest) width from its centre.
TRUNCATE = 3.0
#: From this width on, values of a Gaussian at whole pixels have its standard deviation (to 1e-8).
EXACT_FROM_PX = 1.5

Uniforms = NDArray[np.float64]


@dataclass(frozen=True)
class ViewKey:
    """What the draws of one view of a batch have in common."""

    seed: int
    epoch: int
    view: int


@dataclass(frozen=True)
class Program:
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
        """Return which images end up with left and right exchanged."""
        odd: NDArray[np.bool_] = (self.operations == FLIP).sum(axis=1) % 2 == 1
        return odd


Columns = tuple[NDArray[np.int64], NDArray[np.float64]]


def _applied(step: Any, u: Uniforms, operation: int, amount: Any = 0.0) -> Columns:
    """One column: the operation where it was drawn."""
    operations = np.where(u[:, :1] < step.probability, operation, NOTHING)
    return operations, np.broadcast_to(np.reshape(amount, (-1, 1)), operations.shape)


def _flip(step: Flip, u: Uniforms, side_px: int) -> Columns:
    return _applied(step, u, FLIP)


def _greyscale(step: Greyscale, u: Uniforms, side_px: int) -> Columns:
    return _applied(step, u, SATURATION, 0.0)


def _solarise(step: Solarise, u: Uniforms, side_px: int) -> Columns:
    # Half a level lower: values between levels, left by earlier steps, count as the nearest level, so that
    # a last bit never decides about a pixel that lies on the threshold.
    return _applied(step, u, SOLARISE, (step.threshold - 0.5) / 255)


def blur_radius(step: Blur, side_px: int) -> int:
    """Return how many neighbours on each side the blur of a view of ``side_px`` takes in."""
    largest = step.sigma_px[1] * (side_px / step.at_px if step.at_px else 1.0)
    return min(int(np.ceil(TRUNCATE * largest)), side_px - 1)


@cache
def _spreads() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Widths of Gaussians, and the standard deviations of their values at whole pixels."""
    width = np.linspace(0.01, EXACT_FROM_PX, 4000)
    pixel = np.arange(-16, 17)
    weights = np.exp(-0.5 * (pixel / width[:, None]) ** 2)
    return width, np.sqrt((weights * pixel**2).sum(axis=1) / weights.sum(axis=1))


def sampled_width(spread_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the width of the Gaussian whose values at whole pixels have the standard deviation wanted.

    They differ below a pixel: values of a Gaussian of 0.29 px hardly blur at all.
    """
    width, spread = _spreads()
    return np.where(spread_px < EXACT_FROM_PX, np.interp(spread_px, spread, width), spread_px)


def _blur(step: Blur, u: Uniforms, side_px: int) -> Columns:
    low, high = step.sigma_px
    sigma = low + u[:, 1] * (high - low)
    return _applied(step, u, BLUR, sampled_width(sigma * side_px / step.at_px) if step.at_px else sigma)


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


_STEPS: Mapping[type[Any], Callable[[Any, Uniforms, int], Columns]] = {
    Flip: _flip,
    Greyscale: _greyscale,
    ColourJitter: _jitter,
    Blur: _blur,
    Solarise: _solarise,
}


def _taps(sigma: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Weights of Gaussians at whole pixels, float32 (n, 2 radius + 1), each summing to 1."""
    distance = np.arange(-radius, radius + 1, dtype=np.float64)
    # A width of zero leaves the centre alone.
    width = np.maximum(sigma[:, None].astype(np.float64), 1e-6)
    weights = np.exp(-0.5 * (distance / width) ** 2)
    taps: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return taps


def draw_program(steps: Sequence[Step], index: NDArray[np.int64], key: ViewKey, *, side_px: int) -> Program:
    """Draw what happens to every image of a batch.

    Each number is a function of (seed, epoch, image, view, position of the step, number within the step), so
    it does not matter which images are in the batch, in which order, or who asks.

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
        taps[:, column] = _taps(amounts[:, column], max(radii))
    # One memory layout, so that kernels are compiled once.
    return Program(np.ascontiguousarray(operations), np.ascontiguousarray(amounts), taps)
