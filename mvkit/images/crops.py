"""Crops: boxes drawn for every image, and their resizing to squares, with PIL and in compiled code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray
from PIL import Image

from mvkit import rng as draws
from mvkit.errors import DataError
from mvkit.images.settings import CentreCrop, Crop, RandomCrop, RandomResizedCrop, ViewsSettings
from mvkit.jit import compiled_exact, compiled_exact_part, edition
from mvkit.rng import Integer, combined, compiled_seed, seeded, uniform

#: A random resized crop that does not fit into the image is drawn anew so many times (torchvision).
ATTEMPTS = 10
_RANDOM_RESIZED, _RANDOM, _CENTRE = 0, 1, 2
_DRAWS_PER_ATTEMPT = 4
_PURPOSE = draws.CROP


class CropNumbers(NamedTuple):
    """A crop as plain numbers, which compiled code can close over; 0 px: None."""

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

    The published way is two resizes with rounding to 8 bits after each, box -> intermediate -> output (a
    resize to the same size does nothing).
    """
    return crop.via_px if isinstance(crop, RandomResizedCrop) else crop.crop_px


@compiled_exact_part
def _round(value: float) -> int:
    """Round to the nearest integer, halves to the even one (Python, torchvision)."""
    return int(np.rint(value))


@compiled_exact_part
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
        box_width = _round(math.sqrt(target * ratio))
        box_height = _round(math.sqrt(target / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(uniform(state, first + 2) * (height - box_height + 1))
            left = int(uniform(state, first + 3) * (width - box_width + 1))
            return top, left, box_height, box_width
    ratio = width / height
    box_width, box_height = width, height
    if ratio < numbers.ratio_low:
        box_height = max(1, _round(width / numbers.ratio_low))
    elif ratio > numbers.ratio_high:
        box_width = max(1, _round(height * numbers.ratio_high))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@compiled_exact_part
def _side(numbers: CropNumbers, draw: float, length: Integer, shortest: Integer) -> tuple[int, int]:
    """Return start and length of a box of fixed size along one side of the image."""
    resized = length
    if numbers.resize_px > 0:
        resized = numbers.resize_px * length // shortest
    if numbers.crop_px == 0:
        return 0, length
    to_stored = length / resized
    box = max(1, _round(numbers.crop_px * to_stored))
    n_free = resized + 2 * numbers.pad_px - numbers.crop_px
    centred = _round(_round((resized - numbers.crop_px) / 2.0) * to_stored)
    if n_free < 0:
        return centred, box
    # Rounding must push a box no further out than the padding reaches.
    outside = _round(numbers.pad_px * to_stored)
    box = min(box, length + 2 * outside)
    start = centred
    if numbers.kind == _RANDOM:
        start = _round((int(draw * (n_free + 1)) - numbers.pad_px) * to_stored)
    return max(-outside, min(start, length + outside - box)), box


BoxOne = Callable[[CropNumbers, int, int, int, int, int, int], tuple[int, int, int, int]]
Fill = Callable[..., None]


def _compile(parts_edition: int) -> tuple[BoxOne, Fill]:
    """Compile the functions that are called from outside; see :func:`mvkit.jit.edition`."""

    @compiled_exact
    def box_one(
        numbers: CropNumbers, seed: int, epoch: int, index: int, view: int, height: int, width: int
    ) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) of the box in one image; never raises.

        Parameters
        ----------
        numbers
            From :func:`crop_numbers`; a compiled function may close over it.
        seed
            From :func:`mvkit.rng.compiled_seed`.
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

    @compiled_exact
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
crop_box_one, _fill = _compile(edition(str(draws.__file__)))


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
    log-uniform in ``ratio``, a uniform position; up to ten attempts, then the largest central box of a valid
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


#: Columns of an axis: (origin, length, total, offset, mid). The stored pixels [origin, origin + length) are
#: resized to ``total`` pixels; of these [offset, offset + mid) are cut out and resized to the requested side.
#: Where the range lies outside the image, it is black.
AXIS_COLUMNS = 5


def crop_axes(
    crop: Crop, boxes: NDArray[np.int64], heights: NDArray[np.int64], widths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how every box is resized, in the steps of the published pipeline.

    Random crops: box, to the intermediate side, to the final side. The centre crop of validation has steps
    of its own (shortest side to ``resize_px``, central square, final side), which need no rounding of a box.

    Parameters
    ----------
    crop
        Which crop.
    boxes
        int64 (n, 4) of :func:`mvkit.images.crops.crop_boxes`.
    heights, widths
        int64 (n,), px of the stored images.

    Returns
    -------
    ndarray
        int64 (n, 2, 5): vertical and horizontal :data:`AXIS_COLUMNS`.
    """
    axes = np.empty((len(boxes), 2, AXIS_COLUMNS), np.int64)
    if isinstance(crop, CentreCrop) and crop.crop_px is not None:
        shortest = np.minimum(heights, widths)
        for axis, lengths in enumerate((heights, widths)):
            total = lengths if crop.resize_px is None else crop.resize_px * lengths // shortest
            # np.rint rounds halves to even, as torchvision's central crop does.
            offset = np.rint((total - crop.crop_px) / 2).astype(np.int64)
            _fill_axis(axes[:, axis], np.zeros_like(lengths), lengths, total, offset, crop.crop_px)
        return axes
    via = intermediate_px(crop)
    for axis in range(2):
        lengths = boxes[:, 2 + axis]
        total = lengths if via is None else np.full_like(lengths, via)
        _fill_axis(axes[:, axis], boxes[:, axis], lengths, total, 0, total)
    return axes


def _fill_axis(axis: NDArray[np.int64], *columns: NDArray[np.int64] | int) -> None:
    for number, values in enumerate(columns):
        axis[:, number] = values


_BILINEAR = Image.Resampling.BILINEAR
Box = tuple[int, int, int, int]


def crop_image(
    image: Image.Image, crop: Crop, box: Box, side_px: int, filter_: Image.Resampling = _BILINEAR
) -> Image.Image:
    """Return the square that a crop makes of an image.

    Random crops: the box (top, left, height, width; black where it reaches outside) is resized to the
    intermediate side and then to ``side_px``. The centre crop resizes the shortest side, cuts the middle and
    resizes again, as ``mvkit.models.preprocessing`` does, and needs no box. Every resize is PIL's antialiased
    bilinear one, rounded to 8 bits; depth maps are given the filter ``NEAREST``, as in the reference.
    """
    if isinstance(crop, CentreCrop) and crop.crop_px is not None:
        return _resize(_centre_crop(image, crop.resize_px, crop.crop_px, filter_), side_px, filter_)
    top, left, height, width = box
    image = image.crop((left, top, left + width, top + height))
    via = intermediate_px(crop)
    return _resize(image if via is None else _resize(image, via, filter_), side_px, filter_)


def _resize(image: Image.Image, side_px: int, filter_: Image.Resampling) -> Image.Image:
    return image if image.size == (side_px, side_px) else image.resize((side_px, side_px), filter_)


def _centre_crop(
    image: Image.Image, resize_px: int | None, crop_px: int, filter_: Image.Resampling
) -> Image.Image:
    width, height = image.size
    if resize_px is not None and min(width, height) != resize_px:
        shortest = min(width, height)
        width, height = resize_px * width // shortest, resize_px * height // shortest
        image = image.resize((width, height), filter_)
    left, top = round((width - crop_px) / 2), round((height - crop_px) / 2)
    return image.crop((left, top, left + crop_px, top + crop_px))


#: libffcv's JPEG decoder (turbojpeg): source, bytes, height, width, target, six sizes that stay unused when
#: the whole image is decoded, and two switches. Addresses are passed as integers. The symbol is looked up
#: when a kernel that uses it is compiled or loaded: ``beton.register_decoder`` must have run by then.
_imdecode: Any = types.ExternalFunction(
    "imdecode",
    types.int32(
        *(types.uintp, types.uint64, types.uint32, types.uint32, types.uintp),
        *([types.uint32] * 6),
        *([types.boolean] * 2),
    ),
)


#: Neither crop nor flip.
_WHOLE = (False, False)


@compiled_exact
def _triangle(source_px: int, target_px: int, first: int, n_rows: int) -> Any:
    """Return rows from ``first`` on of PIL's bilinear filter: starts, counts and weights of source pixels."""
    scale = source_px / target_px
    support = max(scale, 1.0)
    starts = np.empty(n_rows, np.int64)
    counts = np.empty(n_rows, np.int64)
    weights = np.zeros((n_rows, 2 * int(np.ceil(support)) + 1))
    for row in range(n_rows):
        centre = (first + row + 0.5) * scale
        start = max(int(centre - support + 0.5), 0)
        end = min(int(centre + support + 0.5), source_px)
        total = 0.0
        for tap in range(end - start):
            weight = max(1.0 - abs(tap + start - centre + 0.5) / support, 0.0)
            weights[row, tap] = weight
            total += weight
        for tap in range(end - start):
            weights[row, tap] /= total
        starts[row] = start
        counts[row] = end - start
    return starts, counts, weights


@compiled_exact
def _axis_filter(axis: Any, side_px: int) -> Any:
    """Return starts, counts and float32 weights of both resizes along one axis."""
    length, total, offset, mid = axis[1], axis[2], axis[3], axis[4]
    outer_starts, outer_counts, outer = _triangle(mid, side_px, 0, side_px)
    if total == length:
        return outer_starts + offset, outer_counts, outer.astype(np.float32)
    inner_starts, inner_counts, inner = _triangle(length, total, offset, mid)
    span = int(outer.shape[1] * length / total) + inner.shape[1] + 2
    starts = np.empty(side_px, np.int64)
    counts = np.empty(side_px, np.int64)
    weights = np.zeros((side_px, span))
    for row in range(side_px):
        first = outer_starts[row]
        last = first + outer_counts[row] - 1
        start = inner_starts[first]
        for step in range(first, last + 1):
            shift = inner_starts[step] - start
            for tap in range(inner_counts[step]):
                weights[row, shift + tap] += outer[row, step - first] * inner[step, tap]
        starts[row] = start
        counts[row] = inner_starts[last] + inner_counts[last] - start
    return starts, counts, weights.astype(np.float32)


#: Rows of an output image that are added up before they are stored transposed: a line of the cache.
_ROWS_AT_ONCE = 16


@compiled_exact
def _resample(memory: Any, shape: Any, axes: Any, side_px: int) -> Any:
    """Resample one image.

    ``memory`` holds its pixels from ``shape[0]`` on, in rows; shape: (first, height, width, channels).
    Returns float32 (column, channel * side_px + row): the transposed image, as the second pass leaves it.
    """
    first, height, width, channels = shape
    row_starts, row_counts, row_weights = _axis_filter(axes[0], side_px)
    column_starts, column_counts, column_weights = _axis_filter(axes[1], side_px)
    left = max(axes[1, 0], 0)
    n_columns = max(min(axes[1, 0] + axes[1, 1], width) - left, 0)
    # Rows first: whole rows are added up, which the processor does many numbers at a time. The result is
    # stored transposed, so that the columns can be added up in the same way.
    # A few rows at a time: what is stored one after the other then lies together.
    wide = np.empty((n_columns, channels * side_px), np.float32)
    lines = np.empty((_ROWS_AT_ONCE, n_columns * channels), np.float32)
    for first_row in range(0, side_px, _ROWS_AT_ONCE):
        n_rows = min(_ROWS_AT_ONCE, side_px - first_row)
        for number in range(n_rows):
            row, line = first_row + number, lines[number]
            line[:] = 0
            for tap in range(row_counts[row]):
                y = axes[0, 0] + row_starts[row] + tap
                if 0 <= y < height:
                    weight = row_weights[row, tap]
                    begin = first + (y * width + left) * channels
                    stored = memory[begin : begin + n_columns * channels]
                    for i in range(n_columns * channels):
                        line[i] += weight * np.float32(stored[i])
        for x in range(n_columns):
            for channel in range(channels):
                target = wide[x, channel * side_px + first_row :]
                for number in range(n_rows):
                    target[number] = lines[number, x * channels + channel]
    result = np.zeros((side_px, channels * side_px), np.float32)
    for column in range(side_px):
        target = result[column]
        for tap in range(column_counts[column]):
            x = axes[1, 0] + column_starts[column] + tap - left
            if 0 <= x < n_columns:
                weight = column_weights[column, tap]
                source = wide[x]
                for i in range(channels * side_px):
                    target[i] += weight * source[i]
    return result


@compiled_exact
def resample_image(memory: Any, shape: Any, axes: Any, out: Any) -> None:
    """Crop and resize one RGB image, rounded to uint8.

    Parameters
    ----------
    memory
        uint8 (any length,): pixels of the image are somewhere in it.
    shape
        (position of the first pixel, height, width, 3).
    axes
        int64 (2, 5): vertical and horizontal; see :func:`mvkit.images.crops.crop_axes`.
    out
        uint8 (side, side, 3), filled.
    """
    side_px = out.shape[0]
    result = _resample(memory, shape, axes, side_px)
    for row in range(side_px):
        for column in range(side_px):
            for channel in range(3):
                value = result[column, channel * side_px + row]
                out[row, column, channel] = np.uint8(value + np.float32(0.5))


@compiled_exact
def resample_plane(memory: Any, shape: Any, axes: Any, out: Any) -> None:
    """Crop one plane of numbers (depth) and take the nearest stored value for every output pixel.

    Depths are not averaged, as in the reference: between two objects the mean is a depth at which there is
    nothing. Result: float32 (side, side); see :func:`resample_image`.
    """
    first, height, width, _ = shape
    side_px = out.shape[0]
    rows = _nearest(axes[0], side_px)
    columns = _nearest(axes[1], side_px)
    for row in range(side_px):
        for column in range(side_px):
            y, x = rows[row], columns[column]
            inside = 0 <= y < height and 0 <= x < width
            out[row, column] = np.float32(memory[first + y * width + x]) if inside else np.float32(0)


@compiled_exact
def _nearest(axis: Any, side_px: int) -> Any:
    """Return the stored pixel on which each output pixel's centre falls, in the steps of images."""
    origin, length, total, offset, mid = axis
    positions = np.empty(side_px, np.int64)
    for number in range(side_px):
        inner = int((number + 0.5) * mid / side_px) + offset
        # Floor, not truncation: padding puts positions before the first pixel.
        positions[number] = origin + int(np.floor((inner + 0.5) * length / total))
    return positions


@compiled_exact
def crop_images(memory: Any, locations: Any, axes: Any, rows: Any, out: Any) -> None:
    """Crop and resize some images of a batch.

    Parameters
    ----------
    memory
        uint8: where the pixels are.
    locations
        int64 (n, 3): position of the first pixel, height, width.
    axes
        int64 (n, 2, 5): see :func:`mvkit.images.crops.crop_axes`.
    rows
        int64 (n,): rows of ``out`` to fill.
    out
        uint8 (batch, side, side, 3).
    """
    for i in range(len(rows)):
        resample_image(memory, (locations[i, 0], locations[i, 1], locations[i, 2], 3), axes[i], out[rows[i]])


@compiled_exact
def crop_planes(memory: Any, locations: Any, axes: Any, rows: Any, out: Any) -> None:
    """Do the same for planes: ``memory`` of any number type, ``out`` float32 (batch, 1, side, side)."""
    for i in range(len(rows)):
        resample_plane(
            memory, (locations[i, 0], locations[i, 1], locations[i, 2], 1), axes[i], out[rows[i], 0]
        )


@compiled_exact
def decode_jpegs(memory: Any, locations: Any, sizes: Any, pixels: Any, starts: Any) -> int:
    """Decode JPEGs until one fails; returns how many were decoded.

    Parameters
    ----------
    memory
        uint8: where the files are.
    locations
        int64 (n, 3): position of the first byte, height, width.
    sizes
        int64 (n,): bytes of each file.
    pixels
        uint8: filled with RGB pixels.
    starts
        int64 (n,): where in ``pixels`` each image begins.
    """
    for i in range(len(sizes)):
        begin, height, width = locations[i]
        source = memory[begin : begin + sizes[i]]
        target = pixels[starts[i] : starts[i] + height * width * 3]
        # All of the image at full scale: half scale saves a tenth (unpacking the bits is what takes time),
        # and libffcv's cropping, which recodes the JPEG first, takes longer than decoding it whole.
        box = (height, width, 0, 0, 1, 1)
        if _imdecode(source.ctypes.data, sizes[i], height, width, target.ctypes.data, *box, *_WHOLE) != 0:
            return i
    return len(sizes)
