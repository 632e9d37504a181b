"""Read numpy's part of an inert pickle: types, arrays, scalars and the bytes beneath them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import pickle_names
from mvkit.neural.pickle_names import is_one_of
from mvkit.neural.pickle_source import BufferRef, PickleSource
from mvkit.neural.pickle_values import Record

_MOST_DIMENSIONS = 32
_LONGEST_AXIS = 1 << 40
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "O": (8,)}
_LONGEST_TEXT = 4096
_LAST_CHARACTER = 0x10FFFF
_TYPE_CODE = re.compile(r"[<>=|]?([biufOSU])([0-9]{0,5})")
_LATIN_1 = frozenset({"latin1", "latin-1"})


@dataclass(frozen=True)
class ArrayRef:
    """An array whose numbers still lie in the pickle.

    Attributes
    ----------
    dtype
        Type of one element, with its byte order.
    shape
        Sizes of the axes.
    memory_order
        Axis numbers as they lie in the file, slowest first: (0, 1, 2) is C
        order, (2, 1, 0) Fortran order.
    data
        The bytes, a reference to them, or the items of an object array.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    memory_order: tuple[int, ...]
    data: bytes | BufferRef | list[Any]

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Size of the elements in bytes."""
        return self.n_elements * self.dtype.itemsize


def is_array(value: object) -> bool:
    """Tell whether an inert value stands for a numpy array."""
    return isinstance(value, Record) and (
        is_one_of(value.maker, pickle_names.FROM_BUFFER) or is_one_of(value.maker, pickle_names.RECONSTRUCT)
    )


def array_ref(value: object, what: str) -> ArrayRef:
    """Describe the numpy array that an inert value stands for.

    Parameters
    ----------
    value
        Inert value.
    what
        Name for messages.

    Raises
    ------
    DataError
        When it is no array, or its shape, type and bytes disagree.
    """
    if isinstance(value, Record) and is_one_of(value.maker, pickle_names.FROM_BUFFER):
        return _checked(_from_buffer(value, what), what)
    if isinstance(value, Record) and is_one_of(value.maker, pickle_names.RECONSTRUCT):
        return _checked(_reconstructed(value, what), what)
    raise DataError(f"{what} is not a numpy array")


def load(ref: ArrayRef, source: PickleSource, what: str) -> NDArray[Any]:
    """Load a numeric or fixed-width text array into memory, in native byte order.

    Raises
    ------
    DataError
        When it holds Python objects or is too large to be loaded.
    """
    if isinstance(ref.data, list):
        raise DataError(f"{what} holds Python objects, expected numbers")
    if ref.n_elements == 0:
        if len(ref.shape) != 1:
            raise DataError(f"{what} is empty: its shape is {ref.shape}")
        return np.empty(0, dtype=ref.dtype.newbyteorder("="))
    data = load_bytes(ref.data, source, what)
    if len(data) != ref.n_bytes:
        raise DataError(f"{what} has {len(data)} bytes, its shape {ref.shape} needs {ref.n_bytes}")
    flat: NDArray[Any] = np.frombuffer(data, dtype=ref.dtype)
    if ref.dtype.kind == "b":
        flat = np.frombuffer(data, dtype=np.uint8) != 0
    if ref.dtype.kind == "U" and flat.view(f"{flat.dtype.str[0]}u4").max() > _LAST_CHARACTER:
        raise DataError(f"{what} holds characters that do not exist")
    in_memory = flat.reshape([ref.shape[axis] for axis in ref.memory_order])
    return in_memory.transpose(np.argsort(ref.memory_order)).astype(ref.dtype.newbyteorder("="), copy=False)


def load_bytes(data: bytes | BufferRef, source: PickleSource, what: str) -> bytes:
    """Return the bytes of a buffer, undoing protocol 2's detour through text."""
    if isinstance(data, bytes):
        return data
    source.spend(data.length, what)
    stored = source.read(data)
    return text_to_bytes(stored, what) if data.is_text else stored


def text_to_bytes(stored: bytes, what: str) -> bytes:
    """Turn UTF-8 text whose characters stand for bytes into those bytes."""
    try:
        return stored.decode("utf-8").encode("latin-1")
    except UnicodeError as error:
        raise DataError(f"{what}: text that does not stand for bytes ({error})") from error


def as_bytes(value: object, what: str) -> bytes | BufferRef:
    """Read an inert value as bytes, through the calls that older protocols wrap them in."""
    for _ in range(3):
        if isinstance(value, bytes) or (isinstance(value, BufferRef) and not value.is_text):
            return value
        if not isinstance(value, Record):
            break
        if is_one_of(value.maker, pickle_names.ENCODE):
            return _encoded(value.arguments, what)
        if not is_one_of(value.maker, pickle_names.BYTES_MAKER):
            break
        value = value.arguments[0] if value.arguments else b""
    raise DataError(f"{what} does not hold bytes")


def scalar(value: Record, source: PickleSource, what: str) -> object:
    """Read a numpy scalar (``numpy.core.multiarray.scalar``)."""
    if len(value.arguments) != 2:
        raise DataError(f"{what}: a numpy scalar of unknown form")
    dtype = as_dtype(value.arguments[0], what)
    data = as_bytes(value.arguments[1], what)
    if dtype.kind == "O" or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise DataError(f"{what}: a numpy scalar of unknown form")
    return load(ArrayRef(dtype, (1,), (0,), data), source, what)[0].item()


def as_dtype(value: object, what: str) -> np.dtype[Any]:
    """Read a numpy type: booleans, integers, floats, fixed-width text or objects.

    The type is rebuilt from its letter and size; its text is never given to numpy.
    """
    if not isinstance(value, Record) or not is_one_of(value.maker, pickle_names.DTYPE):
        raise DataError(f"{what} has no readable type")
    code = value.arguments[0] if value.arguments else None
    match = _TYPE_CODE.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        raise DataError(f"{what} has type {str(code)[:40]!r}; only numbers, truth values and text are read")
    letter, size = match[1], int(match[2] or (8 if match[1] == "O" else 0))
    if size not in _SIZES.get(letter, range(1, _LONGEST_TEXT + 1)):
        raise DataError(f"{what} has elements of type '{code}', which no recording uses")
    return np.dtype(f"{_byte_order(value, what)}{letter}{'' if letter == 'O' else size}")


def _byte_order(value: Record, what: str) -> str:
    if value.state is None:
        return "="
    state = value.state
    if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
        raise DataError(f"{what} has a type whose description is damaged")
    if any(part is not None for part in state[2:5]):
        raise DataError(f"{what} has a compound type; only plain numbers and text are read")
    return str(state[1])


def _from_buffer(value: Record, what: str) -> ArrayRef:
    if len(value.arguments) not in (4, 5):
        raise DataError(f"{what}: an array of unknown form")
    buffer, dtype, shape, order = value.arguments[:4]
    sizes = _shape(shape, what)
    if order == "K":
        return _transposed(value, sizes, what)
    return ArrayRef(
        as_dtype(dtype, what), sizes, _memory_order(len(sizes), order, what), as_bytes(buffer, what)
    )


def _transposed(value: Record, sizes: tuple[int, ...], what: str) -> ArrayRef:
    # numpy writes the shape as it lies in memory, and the axes to transpose it by.
    axes = value.arguments[4] if len(value.arguments) == 5 else None
    if not isinstance(axes, tuple) or not all(type(axis) is int for axis in axes):
        raise DataError(f"{what}: an array in an unknown axis order")
    if sorted(axes) != list(range(len(sizes))):
        raise DataError(f"{what}: an array in an unknown axis order")
    order = tuple(axes.index(axis) for axis in range(len(axes)))
    shape = tuple(sizes[axis] for axis in axes)
    return ArrayRef(as_dtype(value.arguments[1], what), shape, order, as_bytes(value.arguments[0], what))


def _reconstructed(value: Record, what: str) -> ArrayRef:
    maker = value.arguments[0] if value.arguments else None
    if not is_one_of(maker, pickle_names.ARRAY_CLASS):
        raise DataError(f"{what} is an array of an unknown class")
    state = value.state
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise DataError(f"{what}: an array without contents")
    shape, dtype, is_fortran, data = state[-4:]
    sizes = _shape(shape, what)
    order = _memory_order(len(sizes), "F" if is_fortran else "C", what)
    element = as_dtype(dtype, what)
    if element.kind == "O":
        if not isinstance(data, list):
            raise DataError(f"{what}: an object array without items")
        return ArrayRef(element, sizes, order, data)
    return ArrayRef(element, sizes, order, as_bytes(data, what))


def _checked(ref: ArrayRef, what: str) -> ArrayRef:
    needed = ref.n_bytes
    if isinstance(ref.data, list):
        needed, present = ref.n_elements, len(ref.data)
    elif isinstance(ref.data, bytes):
        present = len(ref.data)
    elif ref.data.is_text:
        # A character takes one or two bytes, so the number of bytes is known only roughly.
        present = needed if ref.data.length // 2 <= needed <= ref.data.length else ref.data.length
    else:
        present = ref.data.length
    if needed != present:
        raise DataError(
            f"{what} has {present} bytes, its shape {ref.shape} and type {ref.dtype} need {needed}"
        )
    return ref


def _shape(value: object, what: str) -> tuple[int, ...]:
    sizes = (value,) if type(value) is int else value
    if not isinstance(sizes, tuple) or len(sizes) > _MOST_DIMENSIONS:
        raise DataError(f"{what} has no readable shape")
    if not all(type(size) is int and 0 <= size <= _LONGEST_AXIS for size in sizes):
        raise DataError(f"{what} has no readable shape")
    return sizes


def _memory_order(n_axes: int, order: object, what: str) -> tuple[int, ...]:
    if order not in ("C", "F"):
        raise DataError(f"{what}: an array in an unknown axis order")
    return tuple(range(n_axes)) if order == "C" else tuple(reversed(range(n_axes)))


def _encoded(arguments: tuple[Any, ...], what: str) -> bytes | BufferRef:
    if len(arguments) != 2 or not isinstance(arguments[1], str) or arguments[1] not in _LATIN_1:
        raise DataError(f"{what}: bytes in an unknown encoding")
    text = arguments[0]
    if isinstance(text, BufferRef) and text.is_text:
        return text
    if not isinstance(text, str):
        raise DataError(f"{what}: bytes in an unknown encoding")
    return text_to_bytes(text.encode("utf-8", "surrogatepass"), what)
