"""From a box in the stored image to the steps along each axis that make a square of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.images.crops import intermediate_px
from mvkit.images.settings import CentreCrop, Crop

#: Columns of an axis: (origin, length, total, offset, mid). The stored pixels [origin, origin + length) are
#: resized to ``total`` pixels; of these [offset, offset + mid) are kept and resized to the side asked for.
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
            _fill(axes[:, axis], np.zeros_like(lengths), lengths, total, offset, crop.crop_px)
        return axes
    via = intermediate_px(crop)
    for axis in range(2):
        lengths = boxes[:, 2 + axis]
        total = lengths if via is None else np.full_like(lengths, via)
        _fill(axes[:, axis], boxes[:, axis], lengths, total, 0, total)
    return axes


def _fill(axis: NDArray[np.int64], *columns: NDArray[np.int64] | int) -> None:
    for number, values in enumerate(columns):
        axis[:, number] = values
