"""Image files to pixels."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mvkit.errors import DataError
from mvkit.files import look_at, unfetched

#: Modes of one number per pixel and the greatest value of each (PIL reads 16-bit PNGs as "I" or "I;16").
_GREATEST = {"L": 255, "I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 65535}


#: How names of modes with more than 8 bits begin: PIL would cut their values off at 255.
_WIDE = ("I", "F")


def read_rgb(file: str | BinaryIO, *, name: str | None = None) -> Image.Image:
    """Decode an image file to RGB.

    Parameters
    ----------
    file
        A path, or an open file that messages call ``name``.
    name
        See ``file``.

    Raises
    ------
    DataError
        If it cannot be read or has more than 8 bits per channel; names the file.
    """
    image = _opened(file, name or str(file))
    if image.mode.startswith(_WIDE):
        raise DataError(f"{name or file}: pixels of mode '{image.mode}' are not eight bits per channel")
    return image.convert("RGB")


def read_depth(path: str) -> Image.Image:
    """Decode a depth image to numbers in [0, 1] (mode "F"): pixel / greatest value of its type.

    Raises
    ------
    DataError
        If it cannot be read or has more than one number per pixel; names the file.
    """
    image = _opened(path, path)
    greatest = _GREATEST.get(image.mode)
    if greatest is None:
        raise DataError(f"{path}: a depth image has one number per pixel, this has mode {image.mode}")
    return Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(greatest))


def _opened(file: str | BinaryIO, name: str) -> Image.Image:
    if isinstance(file, str) and (problem := look_at(Path(file)).problem):
        # A pipe, for one, would never end.
        raise DataError(f"{name}: cannot be read as an image: {problem}\nrestore or remove it")
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{name}: cannot be read as an image: {reason_of(file, error)}\nrestore or remove it"
        ) from error


def reason_of(file: str | BinaryIO, error: Exception) -> str:
    """Say what is wrong with an image file that Pillow does not read, without the file's name."""
    if isinstance(error, UnidentifiedImageError):
        if isinstance(file, str) and (problem := unfetched(_beginning(file))):
            return problem
        # Pillow's message repeats the name, or names an object in memory.
        return "not an image of a kind that Pillow knows"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _beginning(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(64)
