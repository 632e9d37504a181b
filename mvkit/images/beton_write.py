"""Write a ``.beton``: FFCV's format, without FFCV's writer.

One process writes, so pages come in the images' order and the file is the
same, byte for byte, however many workers encode. The header, which FFCV's
reader looks at first, is written last.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mvkit.images import beton


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored.

    Attributes
    ----------
    name, label
        Of the item.
    mode
        :data:`beton.RAW_MODE` or :data:`beton.JPEG_MODE`.
    height, width
        As stored, in px.
    source_height, source_width
        As found, in px.
    content
        The image's bytes.
    depth
        The depth map's bytes (:func:`beton.pack_depth`), or None.
    sha256
        Of the files' content.
    """

    name: str
    label: int
    mode: int
    height: int
    width: int
    source_height: int
    source_width: int
    content: bytes
    depth: bytes | None
    sha256: bytes

    @property
    def crc(self) -> int:
        """Checksum over image and depth map, to compare with what can be read back."""
        return zlib.crc32(self.depth or b"", zlib.crc32(self.content))


class BetonWriter:
    """Adds images one after another to a new file; use as a context manager.

    Parameters
    ----------
    path
        File to create.
    capacity
        Most images that will be added.
    has_depth
        Whether every image comes with a depth map.
    page_bytes
        Size of pages, a power of two; an image and its depth map share one.
    """

    def __init__(self, path: Path, *, capacity: int, has_depth: bool, page_bytes: int) -> None:
        self._row = beton.metadata_row(has_depth=has_depth)
        self._has_depth = has_depth
        self._page_bytes = page_bytes
        self._fields = _field_descriptions(beton.field_names(has_depth=has_depth))
        head = beton.HEADER.itemsize + len(self._fields)
        self._rows: NDArray[Any] = np.zeros(capacity, self._row)
        self._table: NDArray[Any] = np.zeros(capacity * (2 if has_depth else 1), beton.ALLOCATION)
        self._n_images = self._n_allocations = 0
        self._crcs = np.zeros(capacity, np.uint32)
        end = head + self._rows.nbytes
        #: Where the page that is being filled begins; the first page begins at a multiple of the size.
        self._page_at = -(-end // page_bytes) * page_bytes
        self._used = 0
        self._file = path.open("wb")

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def n_images(self) -> int:
        """Images added so far."""
        return self._n_images

    @property
    def crcs(self) -> NDArray[np.uint32]:
        """Checksums of the images added so far (image, then depth map)."""
        return self._crcs[: self._n_images]

    def add(self, image: Encoded) -> None:
        """Add an image.

        Raises
        ------
        ValueError
            If it does not fit a page, or its depth map is missing or unexpected.
        """
        parts = [image.content] + ([] if image.depth is None else [image.depth])
        needed = sum(map(len, parts))
        if needed > self._page_bytes or (image.depth is not None) != self._has_depth:
            raise ValueError(f"{image.name}: {len(parts)} parts of {needed} bytes do not fit this file")
        if self._used + needed > self._page_bytes:
            self._page_at += self._page_bytes
            self._used = 0
        # What is skipped over reads as zeros and takes no room on disk.
        self._file.seek(self._page_at + self._used)
        pointers = []
        for part in parts:
            pointers.append(self._page_at + self._used)
            self._file.write(part)
            self._table[self._n_allocations] = (self._n_images, pointers[-1], len(part))
            self._n_allocations += 1
            self._used += len(part)
        row = self._rows[self._n_images]
        row["f0"] = (image.mode, image.width, image.height, pointers[0])
        row["f1"], row["f2"] = image.label, self._n_images
        if image.depth is not None:
            row["f3"] = (pointers[1], len(image.depth))
        self._crcs[self._n_images] = image.crc
        self._n_images += 1

    def finish(self) -> None:
        """Write the allocation table, the metadata and, last, the header."""
        table_at = self._page_at + self._page_bytes
        self._file.seek(table_at)
        self._file.write(self._table[: self._n_allocations].tobytes())
        header = np.zeros((), beton.HEADER)
        self._file.seek(beton.HEADER.itemsize)
        self._file.write(self._fields + self._rows[: self._n_images].tobytes())
        header["version"], header["page_size"] = beton.FORMAT_VERSION, self._page_bytes
        header["num_fields"] = len(self._fields) // beton.FIELD.itemsize
        header["num_samples"], header["alloc_table_ptr"] = self._n_images, table_at
        self._file.flush()
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._file.flush()


_NAME_BYTES: Final = 16


def _field_descriptions(names: tuple[str, ...]) -> bytes:
    fields = np.zeros(len(names), beton.FIELD)
    for field, name in zip(fields, names, strict=True):
        field["type_id"] = beton.TYPE_IDS[name]
        field["name"] = np.frombuffer(name.encode().ljust(_NAME_BYTES, b"\0"), np.uint8)
    return fields.tobytes()
