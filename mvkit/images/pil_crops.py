"""Crops made with PIL, one image at a time: the published pipeline's own arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvkit.images.crops import intermediate_px
from mvkit.images.settings import CentreCrop, Crop

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
        return _resized(_central(image, crop.resize_px, crop.crop_px, filter_), side_px, filter_)
    top, left, height, width = box
    image = image.crop((left, top, left + width, top + height))
    via = intermediate_px(crop)
    return _resized(image if via is None else _resized(image, via, filter_), side_px, filter_)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB image's pixels, uint8 (height, width, 3)."""
    return np.asarray(image, np.uint8)


def _resized(image: Image.Image, side_px: int, filter_: Image.Resampling) -> Image.Image:
    return image if image.size == (side_px, side_px) else image.resize((side_px, side_px), filter_)


def _central(
    image: Image.Image, resize_px: int | None, crop_px: int, filter_: Image.Resampling
) -> Image.Image:
    width, height = image.size
    if resize_px is not None and min(width, height) != resize_px:
        shortest = min(width, height)
        width, height = resize_px * width // shortest, resize_px * height // shortest
        image = image.resize((width, height), filter_)
    left, top = round((width - crop_px) / 2), round((height - crop_px) / 2)
    return image.crop((left, top, left + crop_px, top + crop_px))
