"""Read a ``.beton`` completely: right after it was written, and when a user asks."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.images import beton
from mvkit.images.beton_check import Structure, check_complete, read_structure
from mvkit.images.beton_ffcv import has_ffcv, load_ffcv

Progress = Callable[[int, int], None]
_CHUNK_BYTES: Final = 16 * 1024 * 1024
_CHUNK_IMAGES: Final = 64
_MOST_LISTED: Final = 10


@dataclass(frozen=True)
class VerifyReport:
    """What was read, all of it as it should be."""

    path: str
    n_images: int
    n_bytes: int
    sha256: str
    classes: int | None
    with_ffcv: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def verify_beton(
    path: Path, *, workers: int = 1, progress: Progress = lambda done, total: None
) -> VerifyReport:
    """Read a ``.beton`` completely and compare it with its sidecar.

    The structure, the file's sha256, every image's pixels (JPEGs are decoded)
    and depth map, and, where it is installed, what FFCV's own reader sees.

    Parameters
    ----------
    path
        The file; its sidecar lies beside it.
    workers
        Threads that decode.
    progress
        Called with (images done, all images).

    Raises
    ------
    DataError
        With the first things that are wrong.
    """
    sidecar = check_complete(path)
    structure = read_structure(path)
    sha256 = digest_of(path)
    if sha256 != sidecar.sha256:
        raise DataError(
            f"{path}: its content changed since it was written (sha256 {sha256[:12]}..., "
            f"not {sidecar.sha256[:12]}...); write it again with `mvkit prep`"
        )
    _check_labels(structure, sidecar.counts)
    _decode_all(structure, workers, progress)
    with_ffcv = has_ffcv()
    if with_ffcv:
        compare_with_ffcv(structure)
    return VerifyReport(
        path=str(path),
        n_images=structure.n_images,
        n_bytes=sidecar.n_bytes,
        sha256=sha256,
        classes=None if sidecar.classes is None else len(sidecar.classes),
        with_ffcv=with_ffcv,
    )


def digest_of(path: Path) -> str:
    """Return the sha256 of a file's content."""
    summary = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            summary.update(chunk)
    return summary.hexdigest()


def compare_with_checksums(structure: Structure, crcs: NDArray[np.uint32]) -> None:
    """Compare what can be read back with what was written.

    Parameters
    ----------
    structure
        Of the file.
    crcs
        uint32 (n_images,) of :class:`mvkit.images.beton_write.BetonWriter`.

    Raises
    ------
    DataError
        If the disk gave back anything else.
    """
    if len(crcs) != structure.n_images:
        raise DataError(f"{structure.path}: {structure.n_images} images, but {len(crcs)} were written")
    with structure.path.open("rb") as file:
        for number in range(structure.n_images):
            image, depth = _stored(structure, file, number)
            if zlib.crc32(depth or b"", zlib.crc32(image)) != crcs[number]:
                raise DataError(
                    f"{structure.path}: image {number} reads back differently from what was written; "
                    "check the disk"
                )


def compare_with_ffcv(structure: Structure) -> None:
    """Make sure that FFCV's own reader sees the same images at the same places.

    Raises
    ------
    DataError
        If it does not.
    MissingPackageError
        If FFCV is not installed.
    """
    reader = load_ffcv("ffcv.reader").Reader(str(structure.path))
    rows = reader.metadata
    same = (
        int(reader.num_samples) == structure.n_images
        and tuple(reader.field_names) == structure.names
        and rows.dtype.itemsize == structure.rows.dtype.itemsize
        and all((rows[name] == structure.rows[name]).all() for name in structure.rows.dtype.names or ())
        and all(
            (reader.alloc_table[name] == structure.table[name]).all() for name in beton.ALLOCATION.names or ()
        )
    )
    if not same:
        raise DataError(
            f"{structure.path}: FFCV reads it differently from mvkit; reinstall ffcv==1.0.2, and report this"
        )


def _check_labels(structure: Structure, counts: tuple[int, ...] | None) -> None:
    labels = structure.column(beton.LABEL)
    if counts is None:
        expected = (labels == beton.NO_LABEL).all()
    else:
        in_range = (labels >= 0).all() and (labels < len(counts)).all()
        expected = in_range and tuple(np.bincount(labels, minlength=len(counts)).tolist()) == counts
    if not expected:
        raise DataError(f"{structure.path}: its labels are not those that its .json counts")


def _decode_all(structure: Structure, workers: int, progress: Progress) -> None:
    chunks = range(0, structure.n_images, _CHUNK_IMAGES)
    wrong: list[str] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start, found in zip(chunks, pool.map(lambda at: _decode(structure, at), chunks), strict=True):
            wrong.extend(found)
            progress(min(start + _CHUNK_IMAGES, structure.n_images), structure.n_images)
    if wrong:
        shown = "\n".join(f"  {line}" for line in wrong[:_MOST_LISTED])
        raise DataError(f"{structure.path}: {len(wrong)} images cannot be decoded:\n{shown}")


def _decode(structure: Structure, start: int) -> list[str]:
    """Decode a chunk of images; return what is wrong."""
    from PIL import Image

    wrong = []
    rows = structure.column(beton.IMAGE)
    with structure.path.open("rb") as file:
        for number in range(start, min(start + _CHUNK_IMAGES, structure.n_images)):
            image, depth = _stored(structure, file, number)
            size = (int(rows["width"][number]), int(rows["height"][number]))
            try:
                if rows["mode"][number] == beton.JPEG_MODE:
                    with Image.open(io.BytesIO(image)) as opened:
                        opened.load()
                        if opened.size != size:
                            wrong.append(f"image {number}: {opened.size} px, not {size}")
                if depth is not None and beton.unpack_depth(depth).shape != size[::-1]:
                    wrong.append(f"image {number}: its depth map has another size")
            except (OSError, SyntaxError, ValueError, DataError) as error:
                wrong.append(f"image {number}: {error}")
    return wrong


def _stored(structure: Structure, file: Any, number: int) -> tuple[bytes, bytes | None]:
    """Return the bytes of an image and of its depth map."""
    per_image = 2 if structure.has_depth else 1
    parts = []
    # mvkit's writer adds allocations in the images' order.
    for _, pointer, size in structure.table[number * per_image : (number + 1) * per_image].tolist():
        file.seek(pointer)
        parts.append(file.read(size))
    return parts[0], parts[1] if structure.has_depth else None
