"""A folder of image files as stimuli, read a few at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import list_files, name_text
from mvkit.images.decoding import reason_of

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
#: Files that an error names.
_MOST_LISTED = 5
_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})


@dataclass(frozen=True)
class FolderStimuli:
    """The images directly inside a folder, in natural order (``frame2`` before ``frame10``).

    Sizes may differ. Grey files give (H, W), all others RGB (H, W, 3); transparency is dropped and of
    animations the first frame is taken. Hidden files are passed over.

    Parameters
    ----------
    files
        Image files, in order.
    name
        Name of the folder, as text.
    """

    files: tuple[Path, ...]
    name: str

    @classmethod
    def open(cls, folder: Path) -> FolderStimuli:
        """List the images of a folder.

        Raises
        ------
        DataError
            If there is none, or a name is there without a file (a link to nothing, a pipe).
        """
        listed = list_files(folder, SUFFIXES, levels=0)
        problems = {file.path: file.problem or "an empty file" for file in listed if not file.n_bytes}
        if problems:
            shown = [f"{path}: cannot be read as an image: {why}" for path, why in problems.items()]
            more = [f"... and {len(shown) - _MOST_LISTED} more"] if len(shown) > _MOST_LISTED else []
            raise DataError("\n".join([*shown[:_MOST_LISTED], *more, "restore or remove them"]))
        files = [file.path for file in listed]
        if not files:
            raise DataError(
                f"{folder}: no images directly inside this folder (looked for {', '.join(sorted(SUFFIXES))})"
            )
        ordered = sorted(files, key=lambda file: _natural_key(file.name))
        return cls(tuple(ordered), name_text(folder.resolve().name))

    @property
    def image_ids(self) -> tuple[str, ...]:
        """File names, as text (:func:`mvkit.files.name_text`)."""
        return tuple(name_text(file.name) for file in self.files)

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
        raise DataError(
            f"{file}: cannot be read as an image ({reason_of(str(file), error)}); replace or remove it"
        ) from error
    raise DataError(
        f"{file}: pixels of mode '{mode}' are not eight bits per channel; convert the file to 8-bit"
    )


def _natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    # The same order whatever the system's encoding.
    name = os.fsencode(name).decode("utf-8", "surrogateescape")
    pieces = re.findall(r"(\D*)([0-9]*)", name.lower())
    return [(text, int(digits) if digits else -1) for text, digits in pieces], name
