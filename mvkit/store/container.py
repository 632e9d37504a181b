"""Arrays and a JSON document in one run of bytes, ended by the sha256 of all before.

NumPy's own archives would do, but have no check over names and shapes, and reading a score's two dozen
columns from one takes several milliseconds: a sweep reads thousands. Here one digest covers every byte,
and reading an entry of 100 KB takes a fraction of a millisecond.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

#: Begins every entry; the number is to be raised when what follows is laid out differently.
MAGIC = b"mvkit kept 1\n"

_LENGTH = 8
_DIGEST = 32
#: Truth values, whole and real and complex numbers, bytes, text, dates.
_PLAIN = "biufcSUMm"


def packed(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, object]) -> bytes:
    """Return arrays and a document as bytes.

    Raises
    ------
    DataError
        If an array holds Python objects or records.
    """
    rows, parts = [], []
    for name, values in arrays.items():
        plain = np.asarray(values, order="C")
        if plain.dtype.kind not in _PLAIN:
            raise DataError(
                f"array '{name}' is {plain.dtype}, which cannot be kept: give numbers, or text as dtype U"
            )
        rows.append((name, plain.dtype.str, plain.shape))
        parts.append(plain.tobytes())
    header = json.dumps({"arrays": rows, "about": dict(about)}).encode()
    body = b"".join((MAGIC, len(header).to_bytes(_LENGTH, "little"), header, *parts))
    return body + hashlib.sha256(body).digest()


def unpacked(raw: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the document that :func:`packed` made bytes of.

    Raises
    ------
    ValueError
        If they are not what it made, to the last bit.
    """
    if not raw.startswith(MAGIC):
        raise ValueError("not an entry of this version")
    body = memoryview(raw)[:-_DIGEST]
    if hashlib.sha256(body).digest() != raw[-_DIGEST:]:
        raise ValueError("its content has changed")
    begin = len(MAGIC) + _LENGTH
    place = begin + int.from_bytes(raw[len(MAGIC) : begin], "little")
    header = json.loads(raw[begin:place])
    arrays = {}
    for name, text, shape in header["arrays"]:
        dtype = np.dtype(text)
        # Copied, so that arrays are aligned, can be written to and do not hold the whole entry.
        arrays[name] = np.ndarray(tuple(shape), dtype, buffer=body, offset=place).copy()
        place += dtype.itemsize * prod(shape)
    return arrays, header["about"]
