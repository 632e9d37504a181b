"""Stimuli as neural files hold them, uint8 (n_images, height, width), made of other arrays and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvkit.errors import DataError
from mvkit.files import list_image_folder, name_text, opening_image
from mvkit.neural.dataset import plain_array

#: Weights of red, green and blue in grey (ITU-R 601-2), as Pillow has them, in parts of 65536.
_LUMA = (19595, 38470, 7471)
_CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}
#: Floats may exceed their range by this part of it.
_OVERSHOOT = 1e-3
#: Floats of which the largest is below this are not taken for grey levels from 0 to 255.
_LEAST_WHITE = 16
#: Pillow's modes of grey with more than eight bits.
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True, eq=False)
class GreyImages:
    """Images as a neural file holds them.

    Attributes
    ----------
    images
        uint8 (n_images, height, width).
    note
        What was converted, "" if nothing.
    names
        Names of the image files; empty for arrays.
    """

    images: NDArray[np.uint8]
    note: str = ""
    names: tuple[str, ...] = ()


def to_grey(stimuli: ArrayLike, *, n_images: int | None = None, what: str = "stimuli") -> GreyImages:
    """Convert images of other types to 8-bit grey.

    Colour becomes grey with Pillow's weights (0.299 R + 0.587 G + 0.114 B); an alpha channel is dropped.
    Floats in [0, 1] and [-1, 1] are stretched to 0 ... 255, others in [0, 255] rounded; of integers of 16
    bits the upper eight remain.

    Parameters
    ----------
    stimuli
        Numbers (n, height, width), (n, height, width, 3 or 4), (n, 3 or 4, height, width), or with the images
        last, as MATLAB often has them: (height, width, n), (height, width, 3 or 4, n).
    n_images
        Number of images, where it is known: it decides whether they are first or last.
    what
        Name of the array, for messages.

    Raises
    ------
    DataError
        If the array has another shape, values out of range, or missing pixels.
    """
    array = plain_array(stimuli, what)
    if np.ma.is_masked(stimuli):
        raise DataError(f"{what} have masked pixels; fill them, for every image was shown whole")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} must be numbers, not {array.dtype}")
    layouts = image_layouts(array.shape)
    if not layouts or 0 in array.shape:
        raise DataError(
            f"{what} have shape {array.shape}; expected (n_images, height, width), or with 3 colours last"
        )
    fitting = [layout for layout in layouts if n_images in (None, layout.n_images)]
    layout = (fitting or layouts)[0]
    arranged = array.transpose(layout.order)
    notes = [f"the last axis of {array.shape} has the images"] if layout.are_last else []
    # One letter a kind: colour, then depth.
    kinds = [_CHANNELS[arranged.shape[-1]]] if arranged.ndim == 4 and arranged.shape[-1] > 1 else []
    if arranged.ndim == 4 and arranged.shape[-1] == 1:
        arranged = arranged[..., 0]
    if arranged.dtype != np.uint8:
        arranged, kind = _scaled(arranged, what)
        kinds.append(kind)
    if arranged.ndim == 4:
        arranged = _without_colour(arranged)
    grey = np.ascontiguousarray(np.rint(arranged).astype(np.uint8))
    if kinds:
        notes.append(f"{' '.join(kinds)} converted to 8-bit grey")
    return GreyImages(grey, "; ".join(notes))


@dataclass(frozen=True)
class ImageLayout:
    """A way to read the axes of an array of images.

    Attributes
    ----------
    n_images
        Number of images.
    order
        Axes in the order (images, height, width[, channels]).
    are_last
        Whether the images are the last axis.
    """

    n_images: int
    order: tuple[int, ...]
    are_last: bool = False


def image_layouts(shape: tuple[int, ...]) -> list[ImageLayout]:
    """Return the ways in which an array of this shape can be images, the usual one first."""
    if len(shape) == 3:
        return [ImageLayout(shape[0], (0, 1, 2)), ImageLayout(shape[2], (2, 0, 1), are_last=True)]
    if len(shape) != 4:
        return []
    layouts = []
    if shape[3] in _CHANNELS:
        layouts.append(ImageLayout(shape[0], (0, 1, 2, 3)))
    if shape[1] in _CHANNELS:
        layouts.append(ImageLayout(shape[0], (0, 2, 3, 1)))
    if shape[2] in _CHANNELS:
        layouts.append(ImageLayout(shape[3], (3, 0, 1, 2), are_last=True))
    return layouts


def read_image_folder(folder: Path) -> GreyImages:
    """Read the images directly inside a folder, in natural order (``frame2`` before ``frame10``).

    Raises
    ------
    DataError
        If there is none, one cannot be read, or two differ in size.
    """
    from PIL import Image

    files = list_image_folder(folder)
    images: list[NDArray[np.uint8]] = []
    n_colour = 0
    for file in files:
        try:
            with opening_image(file) as opened:
                n_colour += opened.mode not in ("1", "L", "LA", *_DEEP_GREY)
                if opened.mode in _DEEP_GREY:
                    image = _upper_bits(np.asarray(opened).astype(np.int64), str(file))
                else:
                    image = np.asarray(opened.convert("L"))
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: cannot be read as an image; replace or remove it") from error
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{file}: {image.shape[1]} x {image.shape[0]} px, but {files[0].name} has "
                f"{images[0].shape[1]} x {images[0].shape[0]}; give all images one size"
            )
        images.append(image)
    note = f"{n_colour} colour image{'s' if n_colour > 1 else ''} converted to 8-bit grey" if n_colour else ""
    return GreyImages(np.stack(images), note, tuple(name_text(file.name) for file in files))


def _upper_bits(values: NDArray[np.int64], what: str) -> NDArray[np.uint8]:
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{what}: pixels from {values.min()} to {values.max()}; convert it to 8-bit")
    return np.rint(values / 257).astype(np.uint8)


def _scaled(images: NDArray[Any], what: str) -> tuple[NDArray[Any], str]:
    """Return pixels from 0 to 255, and what they were in words."""
    if images.dtype.kind == "b":
        return images.astype(np.uint8) * np.uint8(255), "black and white"
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        place = int(np.argwhere(~np.isfinite(images))[0][0])
        raise DataError(f"{what}: pixels of image {place} are NaN or infinite; every image was shown whole")
    low, high = images.min(), images.max()
    if images.dtype.kind == "f":
        values = images.astype(np.float64)
        # Resizing and arithmetic of single precision overshoot a little.
        if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
            return np.clip(values, 0, 1) * 255, "float in [0, 1]"
        if low >= -1 - _OVERSHOOT and high <= 1 + _OVERSHOOT:
            return (np.clip(values, -1, 1) + 1) * 127.5, "float in [-1, 1]"
        if low >= -255 * _OVERSHOOT and _LEAST_WHITE <= high <= 255 * (1 + _OVERSHOOT):
            return np.clip(values, 0, 255), "float in [0, 255]"
    elif low >= 0 and high <= 255:
        return images, f"{images.dtype}"
    elif low >= 0 and images.dtype == np.uint16:
        return images / 257, "16-bit"
    raise DataError(
        f"{what}: {images.dtype} from {low:.6g} to {high:.6g}; "
        "give pixels as 8-bit numbers, 0 to 255, or floats in [0, 1]"
    )


def _without_colour(images: NDArray[Any]) -> NDArray[Any]:
    """Weigh red, green and blue; 8-bit numbers give exactly Pillow's grey."""
    if images.dtype.kind == "f":
        weights = np.array(_LUMA) / 65536
        return images[..., :3] @ weights
    red, green, blue = (images[..., channel].astype(np.int64) for channel in range(3))
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 32768) >> 16
