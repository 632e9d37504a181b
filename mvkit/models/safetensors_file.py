"""The safetensors format: tensors and text, nothing that could run.

A file is eight bytes (the length of the header, little-endian), the header (JSON: dtype, shape and place of
every tensor, and ``__metadata__``, texts by name), and the tensors' bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvkit.errors import CheckpointError
from mvkit.files import opening_as_text

SUFFIX = ".safetensors"

#: What to do about a file that cannot be read.
_FETCH_AGAIN = "copy or fetch it again"
_LENGTH_BYTES = 8
# The format's own bound on headers (its README, "Format"); more is refused before anything is allocated.
_LONGEST_HEADER = 100_000_000
# All that safetensors and torch's storages raise on damaged or foreign files.
_UNREADABLE = (
    SafetensorError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    MemoryError,
    OverflowError,
)
_Found = TypeVar("_Found")


def looks_like_safetensors(first_bytes: bytes) -> bool:
    """Tell by its first bytes whether a file is in this format (a possible length, then a brace)."""
    if len(first_bytes) <= _LENGTH_BYTES:
        return False
    (length,) = struct.unpack_from("<Q", first_bytes)
    return length <= _LONGEST_HEADER and first_bytes[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"


def read_safetensors(path: Path, *, remedy: str = _FETCH_AGAIN) -> Mapping[str, Tensor]:
    """Return the tensors of a file, on the CPU, in their own dtypes.

    Parameters
    ----------
    path
        A ``.safetensors`` file.
    remedy
        What to do about a damaged file, for messages.

    Returns
    -------
    dict
        Name -> tensor; the format keeps no order of its own.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another kind, or holds a dtype that torch lacks.
    """
    return _reading(path, remedy, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def read_metadata(path: Path, *, remedy: str = _FETCH_AGAIN) -> dict[str, str]:
    """Return the texts that a file says about itself; empty if it says nothing.

    Parameters
    ----------
    path, remedy
        As for :func:`read_safetensors`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another kind.
    """
    return _reading(path, remedy, lambda file: dict(file.metadata() or {}))


def _reading(path: Path, remedy: str, read: Callable[[Any], _Found]) -> _Found:
    try:
        with path.open("rb") as raw:
            raw.read(1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with opening_as_text(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            return read(file)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({reason[:160]})\n"
            f"the file is damaged, incomplete or of another kind; {remedy}"
        ) from None
