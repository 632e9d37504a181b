"""A folder of image files as stimuli, read a few at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})


@dataclass(frozen=True)
class FolderStimuli:
    """The images directly inside a folder, in natural order (``frame2`` before ``frame10``).

    Sizes may differ. Grey files give (H, W), all others RGB (H, W, 3); transparency is dropped and of
    animations the first frame is taken.

    Parameters
    ----------
    files
        Image files, in order.
    name
        Name of the folder.
    """

    files: tuple[Path, ...]
    name: str

    @classmethod
    def open(cls, folder: Path) -> FolderStimuli:
        """List the images of a folder.

        Raises
        ------
        DataError
            If there is none.
        """
        files = [
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        ]
        if not files:
            raise DataError(
                f"{folder}: no images directly inside this folder (looked for {', '.join(sorted(SUFFIXES))})"
            )
        return cls(tuple(sorted(files, key=lambda file: _natural_key(file.name))), folder.resolve().name)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """File names."""
        return tuple(file.name for file in self.files)

    @property
    def is_prepared(self) -> bool:
        """False: files hold pictures, not network inputs."""
        return False

    def read(self, start: int, stop: int) -> Sequence[NDArray[Any]]:
        """Read images ``start`` to ``stop``.

        Raises
        ------
        DataError
            If a file is damaged or does not hold eight bits per channel.
        """
        return [_read_image(file) for file in self.files[start:stop]]


def _read_image(file: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode = image.mode
            if mode in _GREY_MODES:
                return np.asarray(image.convert("L"))
            if mode in _COLOUR_MODES:
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow reports a broken PNG as a SyntaxError.
        raise DataError(f"{file}: cannot be read as an image ({error}); replace or remove it") from error
    raise DataError(
        f"{file}: pixels of mode '{mode}' are not eight bits per channel; convert the file to 8-bit"
    )


def _natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    pieces = re.findall(r"(\D*)([0-9]*)", name.lower())
    return [(text, int(digits) if digits else -1) for text, digits in pieces], name
