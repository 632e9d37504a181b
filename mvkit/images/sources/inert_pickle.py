"""Read CIFAR's pickles without running anything that is in them.

A pickle may name any function of Python and have it called. Here the few
names that a pickled array needs stand for plain records, and every other name
is refused, so that a doctored file is an error and not a program.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

#: CIFAR-10's batches have 31 MB.
MOST_BYTES: Final = 256 * 1024 * 1024
_RECONSTRUCT = frozenset({"numpy.core.multiarray", "numpy._core.multiarray"})
_FROM_BUFFER = frozenset({"numpy.core.numeric", "numpy._core.numeric"})
#: A damaged pickle can fail in any of these ways.
_DAMAGE = (
    pickle.UnpicklingError,
    struct.error,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Array:
    """What the file says of an array."""

    def __init__(self, *state: Any) -> None:
        self.state = state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Type:
    """What the file says of an array's type: its code, as ``u1``."""

    def __init__(self, code: object = "", *rest: object) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: object) -> None:
        pass


# The pure Python machine: the one in C reserves memory as the file says before it looks at it.
class _Machine(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _Type
        if (module, name) == ("numpy", "ndarray") or (module in _RECONSTRUCT and name == "_reconstruct"):
            return lambda *arguments: _Array()
        if module in _FROM_BUFFER and name == "_frombuffer":
            # Protocol 5. In the order of an array's state: version, shape, type, by columns, content.
            return lambda content, kind, shape, order: _Array(1, shape, kind, order == "F", bytes(content))
        if (module, name) == ("_codecs", "encode"):
            # How Python 3 writes bytes for Python 2.
            return lambda text, coding: str(text).encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image file needs")


def load_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dict of plain values and uint8 arrays.

    Returns
    -------
    dict
        Keys as text. Arrays are :func:`array_of`'s to open.

    Raises
    ------
    DataError
        If the file is damaged, too large, or asks for anything else.
    """
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes are too many for a batch of CIFAR-10")
    try:
        with path.open("rb") as file:
            content = _Machine(file, encoding="bytes").load()
    except _DAMAGE as error:
        raise DataError(f"{path}: not a batch of CIFAR-10 ({error or type(error).__name__})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a batch of CIFAR-10 (holds a {type(content).__name__}, not a dict)")
    return {_text(key): value for key, value in content.items()}


def array_of(path: Path, value: object) -> NDArray[np.uint8]:
    """Return an array of bytes that :func:`load_pickle` found.

    Raises
    ------
    DataError
        If the value is no two-dimensional array of uint8.
    """
    if isinstance(value, _Array) and len(value.state) == 5:
        _, shape, kind, by_columns, content = value.state
        is_matrix = isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) for n in shape)
        is_bytes = isinstance(content, bytes) and isinstance(kind, _Type) and kind.code.lstrip("|") == "u1"
        if is_matrix and is_bytes and min(shape) > 0 and shape[0] * shape[1] == len(content):
            order: Any = "F" if by_columns else "C"
            return np.frombuffer(content, np.uint8).reshape(shape, order=order)
    raise DataError(f"{path}: its 'data' is no array of bytes with a row per image")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def texts(values: object) -> tuple[str, ...]:
    """Return a list of names as text; empty if it is no list."""
    return tuple(_text(value) for value in values) if isinstance(values, list) else ()
