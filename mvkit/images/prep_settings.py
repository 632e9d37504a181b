"""What a prep recipe says: which source, and how its images are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from mvkit.images.prep_encode import Encoding
from mvkit.images.settings import Pixels
from mvkit.naming import unknown_name
from mvkit.recipes import Settings, load_recipe, packaged_recipes

#: Keys that tell a reader something and change no byte of the file.
_REMARKS: Final = frozenset({"name", "notes", "gb_per_million_images", "measured"})
MIB: Final = 1024 * 1024
_FOLDER: Final = "prep/"


class PrepSettings(Settings):
    """A prep recipe.

    Attributes
    ----------
    name
        Name of the recipe and of the folder of its files.
    notes
        For whom it is.
    gb_per_million_images, measured
        Size on disk (10**9 bytes), and how that number was found.
    source
        Layout of the images; see :mod:`mvkit.images.sources`.
    short_side_px
        Images with a greater shorter side are made smaller until it has this length, proportions kept;
        smaller ones and, with None, all stay as they are.
    format
        ``raw``: three bytes per pixel. ``jpeg``: compressed; a JPEG that needs no resizing is kept as it is.
    jpeg_quality
        1 to 95, as Pillow counts.
    resampling
        Filter for making images smaller (Pillow's, with support in proportion).
    page_mib
        Size of FFCV's pages, a power of two; no image takes more.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    notes: str = ""
    gb_per_million_images: Annotated[float, Field(gt=0)] | None = None
    measured: str = ""
    source: Literal["folder", "cifar10", "paired_depth"] = "folder"
    short_side_px: Pixels | None = None
    format: Literal["raw", "jpeg"] = "raw"
    jpeg_quality: Annotated[int, Field(ge=1, le=95)] = 95
    resampling: Literal["box", "bilinear", "bicubic", "lanczos"] = "lanczos"
    page_mib: Annotated[int, Field(ge=2, le=1024)] = 8

    @field_validator("page_mib")
    @classmethod
    def _is_power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two (2, 4, 8, ...), got {value}")
        return value

    @property
    def encoding(self) -> Encoding:
        """How images are stored, as the workers need it."""
        return Encoding(
            short_side_px=self.short_side_px,
            format=self.format,
            jpeg_quality=self.jpeg_quality,
            resampling=self.resampling,
            page_bytes=self.page_mib * MIB,
        )

    def digest(self) -> str:
        """Return a sha256 over everything that decides what is in the file."""
        document = self.model_dump(mode="json", exclude=set(_REMARKS))
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def load_prep_recipe(source: str, overrides: Sequence[str] = ()) -> PrepSettings:
    """Read a prep recipe.

    Parameters
    ----------
    source
        Path of a file, or name of a packaged recipe, as ``imagenet_64``.
    overrides
        ``"key=value"`` items as given to ``--set``.

    Raises
    ------
    UsageError
        If there is no such recipe.
    RecipeError
        If the recipe does not validate; one line per problem.
    """
    if Path(source).is_file():
        return load_recipe(PrepSettings, source, overrides)
    name = source.removeprefix(_FOLDER).removesuffix(".yaml")
    valid = [name.removeprefix(_FOLDER) for name in packaged_recipes() if name.startswith(_FOLDER)]
    if name not in valid:
        raise unknown_name("prep recipe", source, valid)
    return load_recipe(PrepSettings, _FOLDER + name, overrides)
