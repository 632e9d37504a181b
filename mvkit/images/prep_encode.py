"""From an image file to the bytes that are stored; runs in worker processes, so it imports little.

Images become RGB of 8 bits as torchvision's ``default_loader`` makes them:
transparency dropped, CMYK and palettes converted, the orientation that a
camera noted not applied.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mvkit.errors import printable
from mvkit.files import name_text, unfetched
from mvkit.images import beton
from mvkit.images.beton_write import Encoded
from mvkit.images.sources.base import Item

_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_EIGHT_BITS = frozenset(
    {"1", "L", "LA", "La", "RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}
)
#: Pillow reports a broken PNG as a SyntaxError, some broken TIFFs and others in the remaining ways.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class Encoding:
    """How images are stored; see :class:`mvkit.images.prep_settings.PrepSettings`."""

    short_side_px: int | None
    format: Literal["raw", "jpeg"]
    jpeg_quality: int
    resampling: Literal["box", "bilinear", "bicubic", "lanczos"]
    page_bytes: int


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be stored, and why."""

    name: str
    reason: str


class _UnfitError(Exception):
    """An image that was read but cannot be stored."""


def encode(item: Item, how: Encoding) -> Encoded | Unreadable:
    """Read an image, make it smaller if asked, and return what is stored; never raises for a bad image."""
    if item.problem:
        return Unreadable(item.name, item.problem)
    with warnings.catch_warnings():
        # Odd EXIF blocks and palettes are common in ImageNet and change nothing. Bombs stay errors.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _encode(item, how)
        except _UnfitError as error:
            return Unreadable(item.name, str(error))
        except UnidentifiedImageError:
            # Pillow's message names an object in memory, which differs from run to run.
            return Unreadable(item.name, "not an image of a kind that Pillow knows")
        except _BROKEN as error:
            return Unreadable(item.name, _in_one_line(error))


def _encode(item: Item, how: Encoding) -> Encoded:
    content, image, digest = _read(item)
    height, width = image.height, image.width
    size = stored_size(height, width, how.short_side_px)
    is_kept = size == (height, width)
    keeps_jpeg = how.format == "jpeg" and is_kept and image.format == "JPEG" and image.mode == "RGB"
    # Conversion decodes the whole file, also where its bytes are kept: a broken one must not get through.
    pixels = (
        image.convert("RGB") if is_kept else image.convert("RGB").resize(size[::-1], _FILTERS[how.resampling])
    )
    if how.format == "raw":
        mode, stored = beton.RAW_MODE, pixels.tobytes()
    else:
        mode, stored = beton.JPEG_MODE, content if keeps_jpeg else _as_jpeg(pixels, how.jpeg_quality)
    depth = None
    if item.depth_path is not None:
        depth_content = _content(item.depth_path, "depth map")
        digest.update(hashlib.sha256(depth_content).digest())
        depth = beton.pack_depth(_depth(item.depth_path, depth_content, (height, width), size))
    needed = len(stored) + len(depth or b"")
    if needed > how.page_bytes:
        raise _UnfitError(
            f"needs {needed} bytes, more than a page of {how.page_bytes}; give --set page_mib a greater value"
        )
    if max(size) > beton.MOST_PX:
        raise _UnfitError(f"{size[1]} x {size[0]} px; a beton stores sides up to {beton.MOST_PX}")
    return Encoded(item.name, item.label, mode, *size, height, width, stored, depth, digest.digest())


def stored_size(height: int, width: int, short_side_px: int | None) -> tuple[int, int]:
    """Return (height, width) as stored: the shorter side cut down to ``short_side_px``, never enlarged.

    The longer side is rounded down, as torchvision's ``Resize`` does.
    """
    shorter = min(height, width)
    if short_side_px is None or shorter <= short_side_px:
        return height, width
    return short_side_px * height // shorter, short_side_px * width // shorter


def _read(item: Item) -> tuple[bytes, Image.Image, hashlib._Hash]:
    if item.pixels is not None:
        content = item.pixels.tobytes()
        return content, Image.fromarray(item.pixels), hashlib.sha256(content)
    if item.path is None:
        raise _UnfitError("neither a file nor pixels")
    content = _content(item.path, "image")
    image = Image.open(io.BytesIO(content))
    if image.mode not in _EIGHT_BITS:
        raise _UnfitError(f"pixels of mode '{image.mode}' are not eight bits per channel")
    return content, image, hashlib.sha256(content)


def _content(path: Path, what: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise _UnfitError(f"its {what} {name_text(path)} is missing") from error
    if not content:
        raise _UnfitError(f"its {what} is an empty file")
    if problem := unfetched(content):
        raise _UnfitError(problem)
    return content


def _as_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _depth(
    path: Path, content: bytes, source_size: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read a depth map of one channel, 8 or 16 bits; made smaller without mixing depths."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image)
    # Pillow gives 16-bit PNGs as int32 in some versions.
    if (
        pixels.dtype == np.int32
        and pixels.size
        and pixels.min() >= 0
        and pixels.max() <= np.iinfo(np.uint16).max
    ):
        pixels = pixels.astype(np.uint16)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise _UnfitError(f"its depth map {name_text(path)} has not one channel of 8 or 16 bits")
    if pixels.shape != source_size:
        raise _UnfitError(
            f"its depth map has {pixels.shape[1]} x {pixels.shape[0]} px, "
            f"the image {source_size[1]} x {source_size[0]}"
        )
    if size == source_size:
        return pixels
    # The source's pixel at the middle of each new one: Pillow's NEAREST, for any number of bits.
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, source_size, strict=True)
    )
    return np.ascontiguousarray(pixels[np.ix_(rows, columns)])


def _in_one_line(error: BaseException) -> str:
    # The system's errors repeat the file's name.
    text = error.strerror if isinstance(error, OSError) and error.filename and error.strerror else str(error)
    return printable(" ".join(text.split())) or type(error).__name__
