"""Cropping and resizing of stored images in one compiled pass.

The published pipeline resized a crop twice with PIL's antialiased bilinear
filter, to 224 px and from there to 64. Both steps are linear and act on rows
and columns apart, so the two are multiplied into one filter per axis first
and the pixels are read once. What remains different from PIL is that nothing
is rounded between the steps: at most two grey levels (tests measure it).

Everything here releases the interpreter's lock and uses one thread: loaders
run it in threads of their own, and images do not depend on each other, so
neither batch size nor worker count can change a bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from mvkit.images.compiled import compiled

#: libffcv's JPEG decoder (turbojpeg): source, bytes, height, width, target, six sizes that stay unused when
#: the whole image is decoded, and two switches. Addresses are passed as integers. The symbol is looked up
#: when a kernel that uses it is compiled or loaded: ``ffcv_file.make_decoder_known`` must have run by then.
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


@compiled
def _triangle(source_px: int, target_px: int, first: int, n_rows: int) -> Any:
    """Return rows ``first`` and on of PIL's bilinear filter: starts, counts and weights of source pixels."""
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


@compiled
def _axis_filter(axis: Any, side_px: int) -> Any:
    """Return starts, counts and float32 weights of the whole way along one axis."""
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


@compiled
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
    wide = np.empty((n_columns, channels * side_px), np.float32)
    line = np.empty(n_columns * channels, np.float32)
    for row in range(side_px):
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
                wide[x, channel * side_px + row] = line[x * channels + channel]
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


@compiled
def resample_image(memory: Any, shape: Any, axes: Any, out: Any) -> None:
    """Crop and resize one RGB image, rounded to uint8.

    Parameters
    ----------
    memory
        uint8 (any length,): pixels of the image are somewhere in it.
    shape
        (position of the first pixel, height, width, 3).
    axes
        int64 (2, 5): vertical and horizontal; see :func:`mvkit.images.geometry.crop_axes`.
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


@compiled
def resample_plane(memory: Any, shape: Any, axes: Any, out: Any) -> None:
    """Crop one plane of numbers (depth) and take the nearest stored value for every output pixel.

    Depths are not averaged: between two objects that would make up a depth at which there is nothing. So does
    the reference. Result: float32 (side, side); see :func:`resample_image`.
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


@compiled
def _nearest(axis: Any, side_px: int) -> Any:
    """Return the stored pixel on which each output pixel's centre falls, in the steps of images."""
    origin, length, total, offset, mid = axis
    positions = np.empty(side_px, np.int64)
    for number in range(side_px):
        kept = int((number + 0.5) * mid / side_px) + offset
        # Floor, not truncation: padding puts positions before the first pixel.
        positions[number] = origin + int(np.floor((kept + 0.5) * length / total))
    return positions


@compiled
def crop_images(memory: Any, places: Any, axes: Any, rows: Any, out: Any) -> None:
    """Crop and resize some images of a batch.

    Parameters
    ----------
    memory
        uint8: where the pixels are.
    places
        int64 (n, 3): position of the first pixel, height, width.
    axes
        int64 (n, 2, 5): see :func:`mvkit.images.geometry.crop_axes`.
    rows
        int64 (n,): rows of ``out`` to fill.
    out
        uint8 (batch, side, side, 3).
    """
    for i in range(len(rows)):
        resample_image(memory, (places[i, 0], places[i, 1], places[i, 2], 3), axes[i], out[rows[i]])


@compiled
def crop_planes(memory: Any, places: Any, axes: Any, rows: Any, out: Any) -> None:
    """Do the same for planes: ``memory`` of any number type, ``out`` float32 (batch, 1, side, side)."""
    for i in range(len(rows)):
        resample_plane(memory, (places[i, 0], places[i, 1], places[i, 2], 1), axes[i], out[rows[i], 0])


@compiled
def decode_jpegs(memory: Any, places: Any, sizes: Any, pixels: Any, starts: Any) -> int:
    """Decode JPEGs until one fails; returns how many were decoded.

    Parameters
    ----------
    memory
        uint8: where the files are.
    places
        int64 (n, 3): position of the first byte, height, width.
    sizes
        int64 (n,): bytes of each file.
    pixels
        uint8: filled with RGB pixels.
    starts
        int64 (n,): where in ``pixels`` each image begins.
    """
    for i in range(len(sizes)):
        begin, height, width = places[i]
        source = memory[begin : begin + sizes[i]]
        target = pixels[starts[i] : starts[i] + height * width * 3]
        # All of the image at full scale: half scale saves a tenth (unpacking the bits is what takes time),
        # and libffcv's cropping, which recodes the JPEG first, takes longer than decoding it whole.
        box = (height, width, 0, 0, 1, 1)
        if _imdecode(source.ctypes.data, sizes[i], height, width, target.ctypes.data, *box, *_WHOLE) != 0:
            return i
    return len(sizes)
