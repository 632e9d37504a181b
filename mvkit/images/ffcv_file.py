"""What FFCV's reader knows of a beton: where each image lies, and what belongs to it.

FFCV's own loader is not used: one error in its threads hangs the caller for
ever, and leaving an epoch early aborts the interpreter (FFCV 1.0.2). Here its
reader opens the file and its library decodes the JPEGs, in threads of our own
(:mod:`mvkit.images.prefetch`) that can be stopped and whose errors arrive.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.images import beton
from mvkit.images.beton_ffcv import load_ffcv


@dataclass(frozen=True)
class BetonContent:
    """A beton's tables; the images themselves stay in the mapped file.

    Attributes
    ----------
    path
        The file.
    memory
        uint8 (n_bytes,): the file, mapped read-only.
    places
        int64 (n_images, 3): position of an image's first byte, its height and width in px.
    sizes
        int64 (n_images,): bytes of each image.
    is_jpeg
        bool (n_images,): a JPEG, or else raw pixels.
    labels
        int64 (n_images,), or None without labels.
    depths
        int64 (n_images, 2): position and bytes of an image's depth; None without depth.
    """

    path: Path
    memory: NDArray[np.uint8]
    places: NDArray[np.int64]
    sizes: NDArray[np.int64]
    is_jpeg: NDArray[np.bool_]
    labels: NDArray[np.int64] | None
    depths: NDArray[np.int64] | None


def read_content(path: Path) -> BetonContent:
    """Read a beton's tables with FFCV and map the file.

    Only for files that passed :func:`mvkit.images.beton_check.check_complete`: FFCV checks nothing.

    Raises
    ------
    MissingPackageError
        If FFCV cannot be loaded.
    DataError
        If FFCV cannot read the file.
    """
    make_decoder_known()
    try:
        reader = load_ffcv("ffcv.reader").Reader(str(path))
    # The reader asserts the version and trusts every number in the file.
    except (AssertionError, ValueError, IndexError, KeyError, OSError) as error:
        raise DataError(f"{path}: FFCV cannot read it: {error}\nwrite it again with `mvkit prep`") from error
    columns = {
        name: reader.metadata[column]
        for name, column in zip(reader.field_names, reader.metadata_type.names, strict=True)
    }
    images, labels = columns[beton.IMAGE], columns[beton.LABEL].astype(np.int64)
    depths = columns.get(beton.DEPTH)
    return BetonContent(
        path=path,
        memory=np.asarray(np.memmap(path, np.uint8, mode="r")),
        places=_table(images, ("data_ptr", "height", "width")),
        sizes=_sizes(reader.alloc_table, images["data_ptr"]),
        is_jpeg=images["mode"] == beton.JPEG_MODE,
        labels=None if (labels == beton.NO_LABEL).all() else labels,
        depths=None if depths is None else _table(depths, ("ptr", "size")),
    )


def make_decoder_known() -> None:
    """Load FFCV's library and name it to LLVM, so that compiled functions find the JPEG decoder in it."""
    llvm = importlib.import_module("llvmlite.binding")
    llvm.load_library_permanently(str(load_ffcv("ffcv._libffcv").__file__))


def _table(rows: NDArray[Any], columns: tuple[str, ...]) -> NDArray[np.int64]:
    return np.stack([rows[column].astype(np.int64) for column in columns], axis=1)


def _sizes(allocations: NDArray[Any], starts: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bytes that were allocated at each position."""
    order = np.argsort(allocations["ptr"], kind="stable")
    found = order[np.searchsorted(allocations["ptr"], starts, sorter=order)]
    return np.ascontiguousarray(allocations["size"][found], np.int64)
