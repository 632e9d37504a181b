"""The JSON file beside a ``.beton``: what is in it, where it came from, and how to tell that it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mvkit import atomic
from mvkit.errors import DataError

FORMAT: Final = "mvkit-beton"


class _Part(BaseModel):
    # Files of later versions may say more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Failure(_Part):
    """An image that could not be read and was left out."""

    path: str
    reason: str


class Origin(_Part):
    """The source of the images.

    Attributes
    ----------
    kind
        Name of the source's layout.
    listing_digest
        sha256 over names and sizes of all files, in order.
    content_digest
        sha256 over the sha256 of every file that was read, in order.
    n_files, n_bytes
        Of the files that belong to this split.
    """

    kind: str
    listing_digest: str
    content_digest: str
    n_files: int
    n_bytes: int


class Stored(_Part):
    """How images are stored; heights and widths (smallest, greatest) in px."""

    format: Literal["raw", "jpeg"]
    jpeg_quality: int | None
    short_side_px: int | None
    heights: tuple[int, int]
    widths: tuple[int, int]


class Sidecar(_Part):
    """What is known about a ``.beton``.

    Attributes
    ----------
    n_bytes
        Size of the file.
    sha256
        Of the whole file: changes with any bit.
    structure_sha256
        Of header, fields, metadata and allocation table: read in a moment.
    classes, counts
        Names of the classes (None without labels) and images of each.
    failures
        What was left out.
    crops
        How crops change by storing images small, see :mod:`mvkit.images.prep_crops`.
    """

    format: Literal["mvkit-beton"] = FORMAT
    version: Literal[1] = 1
    split: str
    n_images: int
    n_bytes: int
    sha256: str
    structure_sha256: str
    has_depth: bool
    classes: tuple[str, ...] | None
    counts: tuple[int, ...] | None
    stored: Stored
    source: Origin
    recipe: Mapping[str, Any]
    recipe_digest: str
    failures: tuple[Failure, ...] = ()
    crops: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = {}


def sidecar_path(beton: Path) -> Path:
    """Return where the sidecar of a ``.beton`` lies: ``train.json`` beside ``train.beton``."""
    return beton.with_suffix(".json")


def read_sidecar(beton: Path) -> Sidecar:
    """Read the sidecar of a ``.beton``.

    Raises
    ------
    DataError
        If it is missing or is not one.
    """
    path = sidecar_path(beton)
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{beton}: its {path.name} is missing, so nobody knows whether the file is whole; "
            "write it again with `mvkit prep`"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise DataError(
            f"{path}: not a description of a beton ({where}: {first['msg']}); "
            "write it again with `mvkit prep`"
        ) from error


def write_sidecar(beton: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a ``.beton``, whole or not at all."""
    atomic.write_text(sidecar_path(beton), sidecar.model_dump_json(indent=2) + "\n")
