"""The ``.beton`` file as mvkit writes it: FFCV's format, version 2, and what its fields hold.

A file holds, in this order: a header, a descriptor for every field, a row of
metadata for every image, zeros up to a page boundary, pages with the images'
bytes (no image crosses a page), and the allocation table up to the end of the
file. All numbers are little-endian. Fields:

========  ===============  ====================================================
name      FFCV's type      content
========  ===============  ====================================================
image     RGBImageField    RGB, 8 bits; raw (height, width, 3) or one JPEG
label     IntField         position in the sidecar's ``classes``; -1 without labels
index     IntField         position in the file: 0 to ``n_images`` - 1
depth     BytesField       only of paired sources; see below
========  ===============  ====================================================

``depth`` has the height and width of its image, which may differ between
images. Its bytes are four ``uint16`` (height, width, bytes per pixel, greatest
value), then the pixels row by row: ``uint8`` or ``uint16``, as in the source.
Depth as the network's target is pixel / greatest value, as of torchvision's
``ToTensor``: :func:`unpack_depth`.

Nothing here needs FFCV itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

FORMAT_VERSION: Final = 2
IMAGE, LABEL, INDEX, DEPTH = "image", "label", "index", "depth"
NO_LABEL: Final = -1

#: ``mode`` of an image's metadata.
JPEG_MODE, RAW_MODE = 0, 1
#: The file stores an image's sides in 16 bits.
MOST_PX: Final = 65535

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "u1"), ("name", "u1", 16), ("arguments", "u1", (1024,))], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE_ROW = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
INT_ROW = np.dtype("<i8")
BYTES_ROW = np.dtype([("ptr", "<u8"), ("size", "<u8")])

#: FFCV's numbers of the field types, and the metadata of each.
TYPE_IDS: Final = {IMAGE: 2, LABEL: 1, INDEX: 1, DEPTH: 3}
_ROWS: Final = {IMAGE: IMAGE_ROW, LABEL: INT_ROW, INDEX: INT_ROW, DEPTH: BYTES_ROW}

_DEPTH_HEADER = np.dtype("<u2")
#: Bytes before the pixels of a depth map.
DEPTH_HEADER_BYTES: Final = 8


def field_names(*, has_depth: bool) -> tuple[str, ...]:
    """Return the fields of a file, in order."""
    return (IMAGE, LABEL, INDEX, DEPTH) if has_depth else (IMAGE, LABEL, INDEX)


def metadata_row(*, has_depth: bool) -> np.dtype[Any]:
    """Return the type of an image's row of metadata; columns ``f0``, ``f1``, ... in the fields' order."""
    return np.dtype([("", _ROWS[name]) for name in field_names(has_depth=has_depth)], align=True)


def pack_depth(depth: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return the bytes of a depth map.

    Parameters
    ----------
    depth
        uint8 or uint16 (height, width).
    """
    n_bytes = depth.dtype.itemsize
    greatest = int(np.iinfo(depth.dtype).max)
    header = np.array([*depth.shape, n_bytes, greatest], _DEPTH_HEADER)
    return header.tobytes() + np.ascontiguousarray(depth.astype(f"<u{n_bytes}")).tobytes()


def unpack_depth(content: bytes | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a depth map in [0, 1], float32 (height, width), from the bytes of the ``depth`` field.

    Raises
    ------
    DataError
        If the bytes are not those of a depth map.
    """
    data = np.frombuffer(content, np.uint8)
    if data.size >= DEPTH_HEADER_BYTES:
        height, width, n_bytes, greatest = map(int, data[:DEPTH_HEADER_BYTES].view(_DEPTH_HEADER))
        pixels = data[DEPTH_HEADER_BYTES:]
        if n_bytes in (1, 2) and greatest > 0 and pixels.size >= height * width * n_bytes > 0:
            values = pixels[: height * width * n_bytes].view(f"<u{n_bytes}").reshape(height, width)
            return values.astype(np.float32) / np.float32(greatest)
    raise DataError("these bytes hold no depth map; run `mvkit prep --verify FILE`")
