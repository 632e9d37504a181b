"""Is a ``.beton`` whole? Asked before every use, since FFCV's loader hangs or sees black where it is not.

:func:`check_complete` reads the header, the metadata and the allocation table
(64 bytes per image and less) and compares them with the file's size and the
sidecar. :func:`mvkit.images.beton_verify.verify_beton` reads every byte and decodes
every image.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.images import beton
from mvkit.images.beton_sidecar import Sidecar, read_sidecar

_AGAIN = "write it again with `mvkit prep`"


@dataclass(frozen=True)
class Structure:
    """Everything in a ``.beton`` but the pages.

    Attributes
    ----------
    path
        The file.
    n_images, page_bytes, table_at
        Of the header; ``table_at`` is where the allocation table begins.
    names
        The fields' names.
    rows
        Metadata (n_images,): columns f0, f1, ... in the order of ``names``.
    table
        Allocations: sample_id, ptr, size.
    sha256
        Over header, fields, metadata and table.
    """

    path: Path
    n_images: int
    page_bytes: int
    table_at: int
    names: tuple[str, ...]
    rows: NDArray[Any]
    table: NDArray[Any]
    sha256: str

    @property
    def has_depth(self) -> bool:
        """Whether there is a depth map for every image."""
        return beton.DEPTH in self.names

    def column(self, name: str) -> NDArray[Any]:
        """Return a field's metadata, (n_images,)."""
        column: NDArray[Any] = self.rows[f"f{self.names.index(name)}"]
        return column


def check_complete(path: Path) -> Sidecar:
    """Make sure that a ``.beton`` is whole and the one its sidecar describes; cheap.

    Returns
    -------
    Sidecar
        What is in the file.

    Raises
    ------
    DataError
        If it was cut, half written, replaced, or its metadata were changed. A changed pixel goes unseen
        here; :func:`mvkit.images.beton_verify.verify_beton` finds it.
    """
    sidecar = read_sidecar(path)
    size = _size(path)
    if size != sidecar.n_bytes:
        raise DataError(
            f"{path}: {size} bytes, but {sidecar.n_bytes} were written: cut short or half copied; {_AGAIN}"
        )
    structure = read_structure(path)
    if structure.sha256 != sidecar.structure_sha256:
        raise DataError(f"{path}: not the file that its .json describes, or damaged; {_AGAIN}")
    return sidecar


def read_structure(path: Path) -> Structure:
    """Read and check everything but the pages.

    Raises
    ------
    DataError
        If the header, the fields, the metadata, the pointers or the allocation table are not those of a
        finished file of mvkit.
    """
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(beton.HEADER.itemsize)
        if len(head) < beton.HEADER.itemsize:
            raise _damaged(path, f"{size} bytes are less than a header")
        header = np.frombuffer(head, beton.HEADER)[0]
        table_at, n_images = int(header["alloc_table_ptr"]), int(header["num_samples"])
        page_bytes, n_fields = int(header["page_size"]), int(header["num_fields"])
        if header["version"] != beton.FORMAT_VERSION:
            raise _damaged(path, f"version {header['version']} of the format, not {beton.FORMAT_VERSION}")
        if table_at == 0:
            raise _damaged(path, "its writer was stopped before the end")
        if page_bytes < 1 or page_bytes & (page_bytes - 1):
            raise _damaged(path, f"pages of {page_bytes} bytes")
        names, fields = _read_fields(path, file.read(n_fields * beton.FIELD.itemsize), n_fields)
        row = beton.metadata_row(has_depth=beton.DEPTH in names)
        start = beton.HEADER.itemsize + len(fields)
        if n_images < 1 or start + n_images * row.itemsize > table_at or table_at > size:
            raise _damaged(path, f"{n_images} images and a table at {table_at} do not fit {size} bytes")
        metadata = file.read(n_images * row.itemsize)
        file.seek(table_at)
        table = file.read()
    if len(table) % beton.ALLOCATION.itemsize:
        raise _damaged(path, "the allocation table is cut")
    structure = Structure(
        path=path,
        n_images=n_images,
        page_bytes=page_bytes,
        table_at=table_at,
        names=names,
        rows=np.frombuffer(metadata, row),
        table=np.frombuffer(table, beton.ALLOCATION),
        sha256=hashlib.sha256(head + fields + metadata + table).hexdigest(),
    )
    _check_pointers(structure, start + len(metadata))
    return structure


def _read_fields(path: Path, content: bytes, n_fields: int) -> tuple[tuple[str, ...], bytes]:
    if len(content) < n_fields * beton.FIELD.itemsize:
        raise _damaged(path, "the fields are cut")
    fields = np.frombuffer(content, beton.FIELD)
    names = tuple(field["name"].tobytes().split(b"\0")[0].decode("ascii", "replace") for field in fields)
    wanted = beton.field_names(has_depth=beton.DEPTH in names)
    if names != wanted or [beton.TYPE_IDS[name] for name in names] != fields["type_id"].tolist():
        raise DataError(
            f"{path}: fields {', '.join(names)}, not {', '.join(wanted)} as mvkit writes them; "
            "make it with `mvkit prep`"
        )
    return names, content


def _check_pointers(structure: Structure, pages_after: int) -> None:
    """Every image points to an allocation of its own, inside the pages, of the size it needs."""
    path, table = structure.path, structure.table
    per_image = 2 if structure.has_depth else 1
    if len(table) != per_image * structure.n_images:
        raise _damaged(path, f"{len(table)} allocations for {structure.n_images} images")
    starts, ends = table["ptr"], table["ptr"] + table["size"]
    # Unsigned sums may wrap around, hence the comparison of the ends with the starts.
    if (table["size"] < 1).any() or (starts < pages_after).any() or (ends < starts).any():
        raise _damaged(path, "an allocation lies outside the pages")
    if (ends > structure.table_at).any():
        raise _damaged(path, "an allocation lies outside the pages")
    if ((starts // structure.page_bytes) != ((ends - 1) // structure.page_bytes)).any():
        raise _damaged(path, "an allocation crosses a page")
    # mvkit writes images one after another, so pointers increase and belong to images 0, 1, 2, ...
    if (ends[:-1] > starts[1:]).any():
        raise _damaged(path, "two allocations overlap")
    if (table["sample_id"] != np.repeat(np.arange(structure.n_images), per_image)).any():
        raise _damaged(path, "the allocations are not those of images 0, 1, 2, ...")
    image = structure.column(beton.IMAGE)
    if (starts[::per_image] != image["data_ptr"]).any():
        raise _damaged(path, "an image points to nothing that was written for it")
    sizes = table["size"][::per_image]
    raw = image["mode"] == beton.RAW_MODE
    pixels = image["height"].astype(np.uint64) * image["width"].astype(np.uint64) * np.uint64(3)
    if (pixels < 1).any() or (sizes[raw] != pixels[raw]).any() or (image["mode"] > beton.RAW_MODE).any():
        raise _damaged(path, "an image's size does not fit its bytes")
    if structure.has_depth:
        depth = structure.column(beton.DEPTH)
        if (depth["ptr"] != starts[1::2]).any() or (depth["size"] != table["size"][1::2]).any():
            raise _damaged(path, "a depth map points to nothing that was written for it")
    if (structure.column(beton.INDEX) != np.arange(structure.n_images)).any():
        raise _damaged(path, "the images' numbers are not 0, 1, 2, ...")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; make it with `mvkit prep`") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: not a finished beton: {what}; {_AGAIN}")
