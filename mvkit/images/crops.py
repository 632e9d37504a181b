"""Where images are cropped: boxes in the stored image, drawn for every (seed, epoch, image, view).

Loaders need nothing else: they cut the box out and resize it to ``output_px``. The same numbers come out of
:func:`crop_boxes` (arrays) and :func:`crop_box_one` (one image, callable inside compiled decoders).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvkit import draws
from mvkit.errors import DataError
from mvkit.images import compiled as compiling
from mvkit.images import compiled_draws
from mvkit.images.compiled import compiled, compiled_part, edition
from mvkit.images.compiled_draws import Integer, combined, compiled_seed, seeded, uniform
from mvkit.images.settings import Crop, RandomCrop, RandomResizedCrop, ViewsSettings

#: A random resized crop that does not fit into the image is drawn anew so many times (torchvision).
ATTEMPTS = 10
_RANDOM_RESIZED, _RANDOM, _CENTRE = 0, 1, 2
_DRAWS_PER_ATTEMPT = 4
_PURPOSE = draws.CROP


class CropNumbers(NamedTuple):
    """A crop as plain numbers, which compiled code can close over; 0 px: not said."""

    kind: int
    scale_low: float
    scale_high: float
    ratio_low: float
    ratio_high: float
    resize_px: int
    crop_px: int
    pad_px: int


def crop_numbers(crop: Crop) -> CropNumbers:
    """Return the numbers of a crop for :func:`crop_box_one`."""
    if isinstance(crop, RandomResizedCrop):
        return CropNumbers(_RANDOM_RESIZED, *crop.scale, *crop.ratio, 0, 0, 0)
    unused = (1.0, 1.0, 1.0, 1.0)
    if isinstance(crop, RandomCrop):
        return CropNumbers(_RANDOM, *unused, crop.resize_px or 0, crop.crop_px, crop.pad_px)
    return CropNumbers(_CENTRE, *unused, crop.resize_px or 0, crop.crop_px or 0, 0)


def output_px(crop: Crop, settings: ViewsSettings) -> int:
    """Return the side of the square that a loader delivers for ``crop``, one of the crops of ``settings``.

    It is ``settings.size_px`` whatever the crop: views are expanded (cut into patches) only after the steps,
    so the crop of relative location is delivered with 255 px, its ``size_px``.
    """
    if crop not in [view.crop for view in settings.views]:
        raise ValueError(f"{crop!r} is not a crop of these views")
    return settings.size_px


def intermediate_px(crop: Crop) -> int | None:
    """Return the side to which the published pipeline resizes the box before it goes on to ``output_px``.

    The faithful way is two resizes with rounding to 8 bits after each, box -> intermediate -> output (a step
    to the size already there does nothing). A loader on a fast path goes from the box to the output directly
    and must say so.
    """
    return crop.via_px if isinstance(crop, RandomResizedCrop) else crop.crop_px


@compiled_part
def _rounded(value: float) -> int:
    """Round to the nearest integer, halves to the even one (Python, torchvision)."""
    return int(np.rint(value))


@compiled_part
def _random_resized(
    numbers: CropNumbers, state: Integer, height: Integer, width: Integer
) -> tuple[int, int, int, int]:
    """Draw the box of torchvision's RandomResizedCrop."""
    area = float(height * width)
    low, high = math.log(numbers.ratio_low), math.log(numbers.ratio_high)
    for attempt in range(ATTEMPTS):
        first = attempt * _DRAWS_PER_ATTEMPT
        target = area * (numbers.scale_low + uniform(state, first) * (numbers.scale_high - numbers.scale_low))
        ratio = math.exp(low + uniform(state, first + 1) * (high - low))
        box_width = _rounded(math.sqrt(target * ratio))
        box_height = _rounded(math.sqrt(target / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(uniform(state, first + 2) * (height - box_height + 1))
            left = int(uniform(state, first + 3) * (width - box_width + 1))
            return top, left, box_height, box_width
    ratio = width / height
    box_width, box_height = width, height
    if ratio < numbers.ratio_low:
        box_height = max(1, _rounded(width / numbers.ratio_low))
    elif ratio > numbers.ratio_high:
        box_width = max(1, _rounded(height * numbers.ratio_high))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@compiled_part
def _side(numbers: CropNumbers, draw: float, length: Integer, shortest: Integer) -> tuple[int, int]:
    """Return start and length of a box of fixed size along one side of the image."""
    resized = length
    if numbers.resize_px > 0:
        resized = numbers.resize_px * length // shortest
    if numbers.crop_px == 0:
        return 0, length
    back = length / resized
    box = max(1, _rounded(numbers.crop_px * back))
    room = resized + 2 * numbers.pad_px - numbers.crop_px
    centred = _rounded(_rounded((resized - numbers.crop_px) / 2.0) * back)
    if room < 0:
        return centred, box
    # Rounding must push a box no further out than the padding reaches.
    outside = _rounded(numbers.pad_px * back)
    box = min(box, length + 2 * outside)
    start = centred
    if numbers.kind == _RANDOM:
        start = _rounded((int(draw * (room + 1)) - numbers.pad_px) * back)
    return max(-outside, min(start, length + outside - box)), box


BoxOne = Callable[[CropNumbers, int, int, int, int, int, int], tuple[int, int, int, int]]
Fill = Callable[..., None]


def _compile(parts_edition: int) -> tuple[BoxOne, Fill]:
    """Compile the functions that are called from outside; see :func:`mvkit.images.compiled.edition`."""

    @compiled
    def box_one(
        numbers: CropNumbers, seed: int, epoch: int, index: int, view: int, height: int, width: int
    ) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) of the box in one image; never raises.

        Parameters
        ----------
        numbers
            From :func:`crop_numbers`; a compiled function may close over it.
        seed
            From :func:`mvkit.images.compiled_draws.compiled_seed`.
        epoch, index, view
            Keys of the draw.
        height, width
            Of the stored image, in px.

        Returns
        -------
        tuple
            The row of :func:`crop_boxes`. Where that one raises because the image is too small for a crop of
            fixed size, this box is centred and reaches outside on all sides.
        """
        state = combined(combined(seeded(seed), _PURPOSE), epoch)
        state = combined(combined(state, index), view)
        if numbers.kind == _RANDOM_RESIZED:
            return _random_resized(numbers, state, np.int64(height), np.int64(width))
        if parts_edition == 0:  # never so; it makes numba see the edition
            return 0, 0, 0, 0
        shortest = min(np.int64(height), np.int64(width))
        top, box_height = _side(numbers, uniform(state, 0), np.int64(height), shortest)
        left, box_width = _side(numbers, uniform(state, 1), np.int64(width), shortest)
        return top, left, box_height, box_width

    @compiled
    def fill(
        boxes: NDArray[np.int64],
        numbers: CropNumbers,
        keys: tuple[int, int, int],
        index: NDArray[np.int64],
        sizes: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        """Write the box of every image; ``keys`` are seed, epoch and view."""
        if parts_edition == 0:
            return
        seed, epoch, view = keys
        heights, widths = sizes
        for row in range(index.size):
            box = box_one(numbers, seed, epoch, index[row], view, heights[row], widths[row])
            boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3] = box

    return box_one, fill


#: One box, for compiled decoders; bit-equal to :func:`crop_boxes`.
crop_box_one, _fill = _compile(
    edition(*(str(module.__file__) for module in (draws, compiling, compiled_draws)))
)


def check_sizes(crop: Crop, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> None:
    """Raise DataError if an image is too small for a crop of fixed size.

    Only a crop without ``resize_px`` can be too large: settings refuse a ``crop_px`` that exceeds
    ``resize_px`` and its padding.
    """
    if isinstance(crop, RandomResizedCrop) or crop.resize_px is not None or crop.crop_px is None:
        return
    needed = crop.crop_px - (2 * crop.pad_px if isinstance(crop, RandomCrop) else 0)
    small = np.flatnonzero(np.minimum(heights, widths) < needed)
    if small.size:
        row = small[0]
        raise DataError(
            f"{small.size} images are too small for a crop of {crop.crop_px} px, the first with "
            f"{widths[row]} x {heights[row]} px; needed: {needed} px, or give the crop a resize_px"
        )


def crop_boxes(
    crop: Crop,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    view: int,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the boxes to cut out of stored images.

    ``RandomResizedCrop`` follows torchvision: an area uniform in ``scale``, a ratio (width / height)
    log-uniform in ``ratio``, a uniform place; up to ten attempts, then the largest central box of an allowed
    ratio. ``RandomCrop`` and ``CentreCrop`` resize the shortest side to ``resize_px`` (the longer one rounded
    down, as torchvision does) and cut ``crop_px``; the box is that square mapped back into the stored image
    and rounded to whole pixels: exact where the stored shortest side is ``resize_px`` or that is None,
    otherwise within half a pixel of the stored image at each edge. It is a square unless the longer side's
    rounding makes it differ by a pixel. Without ``crop_px`` the box is the whole image, and the loader's
    resize to a square changes its proportions where it is not square.

    Padding is not applied to images: boxes of a ``RandomCrop`` with ``pad_px`` may reach outside the image,
    ``top`` or ``left`` below 0, or ``top + height`` above the image's height. Pixels outside are 0 (black)
    in all channels, *before* any resize of the box. All other boxes lie inside.

    How the box becomes a square of ``output_px``: see :func:`intermediate_px`.

    Parameters
    ----------
    crop
        Which box.
    seed, epoch
        Non-negative.
    index
        int64 (n,): positions of the images in the source.
    view
        Number of the crop among those of the image: views draw independently.
    heights, widths
        int64 (n,), px of the stored images.

    Returns
    -------
    ndarray
        int64 (n, 4): top, left, height, width in px of the stored image.

    Raises
    ------
    DataError
        If an image is too small for a crop of fixed size (see :func:`check_sizes`).
    """
    index, heights, widths = (np.ascontiguousarray(array, np.int64) for array in (index, heights, widths))
    check_sizes(crop, heights, widths)
    boxes = np.empty((index.size, 4), np.int64)
    _fill(boxes, crop_numbers(crop), (compiled_seed(seed), epoch, view), index, (heights, widths))
    return boxes
