"""Arrays in pickles: numpy's arrays and scalars, pandas' indexes and columns of text.

Small arrays are loaded. A large one stays in the file (:class:`ArrayRef`) and
is streamed from there, while the sha256 of the whole file is computed.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import itertools
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.pickle_reader import BufferRef, PickleFile, Record, file_state, is_named, is_record

BLOCK_BYTES = 4 * 1024 * 1024
_BLOCKS = 4

#: The system is asked to fetch this much ahead, so that disk and processor work at the same time.
_AHEAD_BYTES = 256 * 1024 * 1024
_MOST_DIMENSIONS = 32
_LONGEST_AXIS = 1 << 40
_LONGEST_RANGE = 10_000_000
_LONGEST_TEXT = 4096
_LAST_CHARACTER = 0x10FFFF
_BYTES_PER_TEXT = 64
_TYPE_CODE = re.compile(r"[<>=|]?([biufOSU])([0-9]{0,5})")
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "O": (8,)}
_ARRAY_CLASS = ("numpy.ndarray", "pandas.FrozenNDArray")
_PLAIN_INDEX = tuple(
    f"pandas.{kind}Index" for kind in ("", "Int64", "UInt64", "Float64", "Numeric", "Integer")
)
_STRING_ARRAY = ("pandas.StringArray", "pandas.StringArrayNumpySemantics")
_ARROW_STRING_ARRAY = ("pandas.ArrowStringArray", "pandas.ArrowStringArrayNumpySemantics")
_ARROW_OFFSETS = {"string": "<i4", "utf8": "<i4", "large_string": "<i8", "large_utf8": "<i8"}


@dataclass(frozen=True)
class ArrayRef:
    """An array whose numbers are still in the pickle.

    Attributes
    ----------
    dtype
        Type of one element, with its byte order.
    shape
        Sizes of the axes.
    memory_order
        Axis numbers in the order of the file, slowest first: (0, 1, 2) is C
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


def is_array(value: object) -> TypeGuard[Record]:
    """Whether an inert value stands for a numpy array."""
    return is_record(value, "numpy._reconstruct", "numpy._frombuffer")


def is_multi_index(value: object) -> bool:
    """Whether an inert value stands for a pandas MultiIndex."""
    return is_record(value, "pandas._new_Index") and is_named(_first(value.arguments), "pandas.MultiIndex")


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
    data: Any
    axes: Any = None
    if is_record(value, "numpy._frombuffer") and len(value.arguments) in (4, 5):
        data, dtype, shape, order = value.arguments[:4]
        if order == "K" and len(value.arguments) == 5:
            # numpy writes the shape in memory order, and the axes to transpose it by.
            axes = value.arguments[4]
    elif is_record(value, "numpy._reconstruct") and is_named(_first(value.arguments), *_ARRAY_CLASS):
        if not isinstance(value.state, tuple) or len(value.state) not in (4, 5):
            raise DataError(f"{what}: an array without contents")
        shape, dtype, is_fortran, data = value.state[-4:]
        order = "F" if is_fortran else "C"
    else:
        raise DataError(f"{what} is not a numpy array")
    sizes = (shape,) if type(shape) is int else shape
    if not _is_integers(sizes) or len(sizes) > _MOST_DIMENSIONS or max(sizes, default=0) > _LONGEST_AXIS:
        raise DataError(f"{what} has no readable shape")
    memory_order = tuple(range(len(sizes)))
    if _is_integers(axes) and sorted(axes) == list(memory_order):
        memory_order, sizes = tuple(map(axes.index, memory_order)), tuple(sizes[axis] for axis in axes)
    elif order == "F":
        memory_order = memory_order[::-1]
    elif order != "C":
        raise DataError(f"{what}: an array in an unknown axis order")
    ref = ArrayRef(as_dtype(dtype, what), sizes, memory_order, data)
    needed = ref.n_elements if ref.dtype.kind == "O" else ref.n_bytes
    match data:
        case bytes() | list() if isinstance(data, list) == (ref.dtype.kind == "O"):
            least = present = len(data)
        case BufferRef(length=present, coding="bytes" | "latin-1") if ref.dtype.kind != "O":
            # A character of protocol 2's text takes one or two bytes.
            least = present if data.coding == "bytes" else present // 2
        case _:
            raise DataError(f"{what} does not hold bytes")
    if not least <= needed <= present:
        raise DataError(f"{what} has {present} bytes, its shape {sizes} and type {ref.dtype} need {needed}")
    return ref


def as_dtype(value: object, what: str) -> np.dtype[Any]:
    """Read a numpy type: booleans, integers, floats, fixed-width text or objects.

    The type is rebuilt from its letter and size; its text is never given to numpy.
    """
    if not is_record(value, "numpy.dtype"):
        raise DataError(f"{what} has no readable type")
    code = _text(_first(value.arguments))
    match = _TYPE_CODE.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        raise DataError(f"{what} has type {str(code)[:40]!r}; only numbers, truth values and text are read")
    letter, size = match[1], int(match[2] or (8 if match[1] == "O" else 0))
    if size not in _SIZES.get(letter, range(1, _LONGEST_TEXT + 1)):
        raise DataError(f"{what} has elements of type '{code}', which no recording uses")
    state = (3, "=", None, None, None) if value.state is None else value.state
    if not isinstance(state, tuple) or len(state) < 5 or _text(state[1]) not in ("<", ">", "=", "|"):
        raise DataError(f"{what} has a type whose description is damaged")
    if any(part is not None for part in state[2:5]):
        raise DataError(f"{what} has a compound type; only plain numbers and text are read")
    return np.dtype(f"{_text(state[1])}{letter}{'' if letter == 'O' else size}")


def _is_integers(value: object) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and item >= 0 for item in value)


def load(ref: ArrayRef, source: PickleFile, what: str) -> NDArray[Any]:
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
    data = source.load(ref.data, what)
    if len(data) != ref.n_bytes:
        raise DataError(f"{what} has {len(data)} bytes, its shape {ref.shape} needs {ref.n_bytes}")
    flat: NDArray[Any] = np.frombuffer(data, dtype=ref.dtype)
    if ref.dtype.kind == "b":
        flat = np.frombuffer(data, dtype=np.uint8) != 0
    if ref.dtype.kind == "U" and flat.view(f"{flat.dtype.str[0]}u4").max() > _LAST_CHARACTER:
        raise DataError(f"{what} holds characters that do not exist")
    in_memory = flat.reshape([ref.shape[axis] for axis in ref.memory_order])
    return in_memory.transpose(np.argsort(ref.memory_order)).astype(ref.dtype.newbyteorder("="), copy=False)


def index_values(value: object, source: PickleFile, what: str) -> NDArray[Any]:
    """Read the labels of a plain pandas index.

    Returns
    -------
    NDArray
        One-dimensional: numbers, truth values, or text ("" = missing).
    """
    maker, contents = _index(value, what)
    if is_named(maker, *_PLAIN_INDEX):
        return column_values(contents.get("data"), source, what)
    if not is_named(maker, "pandas.RangeIndex"):
        raise DataError(f"{what} has labels of a class that is not read")
    start, stop, step = (contents.get(key) for key in ("start", "stop", "step"))
    if not (type(start) is int and type(stop) is int and type(step) is int) or step == 0:
        raise DataError(f"{what} has a range that is not made of integers")
    if max(abs(start), abs(stop)) > 1 << 62 or (stop - start) // step > _LONGEST_RANGE:
        raise DataError(f"{what} has a range of more than {_LONGEST_RANGE:,} labels")
    return np.array(range(start, stop, step), dtype=np.int64)


def level_columns(value: object, source: PickleFile, what: str) -> dict[str, NDArray[Any]]:
    """Read a pandas MultiIndex as columns, in the order of its levels.

    Returns
    -------
    dict
        Name -> one value per row. A missing entry (code -1) is NaN among
        numbers (integers become float64 then) and "" among text.
    """
    _, contents = _index(value, what)
    names = _items(contents.get("names"), f"names of {what}")
    levels = _items(contents.get("levels"), f"levels of {what}")
    codes = _items(contents.get("codes", contents.get("labels")), f"codes of {what}")
    if not len(names) == len(levels) == len(codes):
        raise DataError(f"{what} has {len(levels)} levels, {len(codes)} columns and {len(names)} names")
    columns: dict[str, NDArray[Any]] = {}
    for name, level, code in zip(names, levels, codes, strict=True):
        if not isinstance(name, str) or name in columns:
            raise DataError(f"{what} has a level without a name of its own: {str(name)[:40]!r}")
        column = f"level '{name}' of {what}"
        labels = index_values(level, source, column)
        numbers = load(array_ref(code, column), source, column)
        source.spend(labels.dtype.itemsize * len(numbers), column)
        columns[name] = _take(labels, numbers, column)
    if len({len(column) for column in columns.values()}) > 1:
        raise DataError(f"{what} has columns of different lengths")
    return columns


def _take(labels: NDArray[Any], codes: NDArray[Any], what: str) -> NDArray[Any]:
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise DataError(f"{what} has codes that are not integers")
    if len(codes) and not (int(codes.min()) >= -1 and int(codes.max()) < len(labels)):
        raise DataError(f"{what} has codes outside its {len(labels)} labels")
    filled = labels
    if (codes == -1).any():
        is_text = labels.dtype.kind == "U"
        filled = np.append(labels, "") if is_text else np.append(exact_floats(labels, what), np.nan)
    values: NDArray[Any] = filled[codes]  # code -1 is the entry appended
    return values


def column_values(value: object, source: PickleFile, what: str) -> NDArray[Any]:
    """Read a one-dimensional array: numbers, truth values, or text in any of pandas' forms."""
    if is_record(value, *_ARROW_STRING_ARRAY):
        state = value.state if isinstance(value.state, dict) else {}
        return _text_array(
            _arrow_texts(state.get("_pa_array", state.get("_data")), source, what), source, what
        )
    if isinstance(value, Record) and any(
        is_named(part, *_STRING_ARRAY) for part in (value.maker, *value.arguments)
    ):
        parts = value.state if isinstance(value.state, tuple) else ()
        value = next((part for part in parts if is_array(part)), None)
    if not is_array(value):
        raise DataError(f"{what} is stored in a form that is not read")
    ref = array_ref(value, what)
    if len(ref.shape) != 1:
        raise DataError(f"{what} has {len(ref.shape)} dimensions, expected one")
    if isinstance(ref.data, list):
        return _from_objects(ref.data, source, what)
    values = load(ref, source, what)
    if values.dtype.kind in "SU":
        return _text_array([str(_text(item)) for item in values.tolist()], source, what)
    return values


def _from_objects(items: list[Any], source: PickleFile, what: str) -> NDArray[Any]:
    plain = [_plain(item, source, what) for item in items]
    kinds = {type(item) for item in plain}
    if kinds <= {str, type(None)}:
        return _text_array([str(item or "") for item in plain], source, what)
    if str in kinds:
        raise DataError(f"{what} mixes text and numbers")
    source.spend(8 * len(items), what)
    if kinds == {bool}:
        return np.array(plain, dtype=bool)
    if kinds == {int} and all(abs(item) < 1 << 63 for item in plain if isinstance(item, int)):
        return np.array(plain, dtype=np.int64)
    try:
        floats = np.array([np.nan if item is None else item for item in plain], dtype=np.float64)
    except OverflowError as error:
        raise DataError(f"{what} has an integer too large to be stored") from error
    if any(isinstance(item, int) and int(value) != item for item, value in zip(plain, floats, strict=True)):
        raise DataError(f"{what} has an integer too large to be stored beside fractions")
    return floats


def _plain(item: object, source: PickleFile, what: str) -> str | int | float | None:
    if is_record(item, "numpy.scalar"):
        dtype, data = as_dtype(_first(item.arguments), what), item.arguments[-1]
        if dtype.kind == "O" or not isinstance(data, bytes) or len(data) != dtype.itemsize:
            raise DataError(f"{what}: a numpy scalar of unknown form")
        item = load(ArrayRef(dtype, (1,), (0,), data), source, what)[0].item()
    item = _text(item)
    if is_named(item, "pandas.NA") or (isinstance(item, float) and math.isnan(item)):
        return None
    if not isinstance(item, str | int | float | None):
        raise DataError(f"{what} holds something that is neither text nor a number")
    return item


def exact_floats(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """Convert numbers to float64, or raise when that would change one."""
    floats = values.astype(np.float64)
    if values.dtype.kind in "iu" and not all(int(a) == int(b) for a, b in zip(floats, values, strict=True)):
        raise DataError(f"{what} has integers too large to be stored beside missing entries")
    return floats


def _index(value: object, what: str) -> tuple[object, dict[Any, Any]]:
    if is_record(value, "pandas._new_Index") and len(value.arguments) == 2:
        maker, contents = value.arguments
        if isinstance(contents, dict):
            return maker, contents
    raise DataError(f"{what} has no readable labels")


def _items(value: object, what: str) -> list[Any]:
    if is_record(value, "pandas.FrozenList"):
        value = _first(value.arguments)
    if not isinstance(value, list | tuple):
        raise DataError(f"{what} are not a list")
    return list(value)


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else None


def _text(value: object) -> object:
    """Text as it is, and bytes as Python 2 wrote text."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _text_array(texts: list[str], source: PickleFile, what: str) -> NDArray[np.str_]:
    """Labels as an array of fixed width, refusing what HDF5 cannot store."""
    if any("\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text) for text in texts):
        raise DataError(f"{what} holds text that cannot be stored: zero bytes or lone surrogates")
    source.spend(4 * len(texts) * max((len(text) for text in texts), default=0), what)
    return np.array(texts, dtype=str)


def _arrow_texts(value: object, source: PickleFile, what: str) -> list[str]:
    """Read text that pandas 3 stores as an Arrow array, whole or in chunks; "" = missing.

    An array has a bitmap of present entries (or none), offsets into its text, and UTF-8 text.
    """
    chunks: Any = _first(value.arguments) if is_record(value, "pyarrow.chunked_array") else [value]
    texts: list[str] = []
    try:
        for chunk in chunks:
            kind, length, _, first, parts, *_ = chunk.arguments[0]
            offset_type = np.dtype(_ARROW_OFFSETS[kind.arguments[0]])
            source.spend(_BYTES_PER_TEXT * length, what)
            if min(length, first) < 0:
                raise ValueError
            buffers = [part.arguments[0] if is_record(part, "pyarrow.py_buffer") else part for part in parts]
            bitmap, offsets, text = (source.load(buffer or b"", what) for buffer in buffers)
            if length == 0:
                continue
            ends = np.frombuffer(offsets, offset_type, length + 1, offset=first * offset_type.itemsize)
            if int(ends[0]) < 0 or int(ends[-1]) > len(text) or (np.diff(ends) < 0).any():
                raise ValueError
            present = np.frombuffer(bitmap or b"\xff" * (first + length), np.uint8)
            is_present = np.unpackbits(present, bitorder="little")[first : first + length]
            texts += [
                text[begin:end].decode("utf-8") if known else ""
                for begin, end, known in zip(ends[:-1], ends[1:], is_present, strict=True)
            ]
    # Inert data of any other form.
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{what} holds Arrow values in a form that is not read; only text is") from error
    return texts


@contextmanager
def open_stream(
    source: PickleFile, ref: ArrayRef, progress: Callable[[int, int], None]
) -> Iterator[ArrayStream]:
    """Open a pickle for one pass over all its bytes, and stream one of its arrays.

    Parameters
    ----------
    source, ref
        The pickle, and the array in it.
    progress
        Called with the bytes of the pickle done, and in all.

    Raises
    ------
    DataError
        When a compressed file is damaged, or the file changed since it was opened.
    """
    with ThreadPoolExecutor(1) as pool, source.path.open("rb", buffering=0) as raw:
        hashed = _HashedFile(raw, pool)
        with source.decompress(hashed) as file:
            yield ArrayStream(source, ref, progress, (hashed, file))
    if file_state(source.path) != source.state:
        raise DataError(f"{source.path}: changed while it was being read; try again")


class ArrayStream:
    """One pass over a pickle's bytes, which returns an array's elements in the order of the file.

    Made by :func:`open_stream`.
    """

    def __init__(
        self, source: PickleFile, ref: ArrayRef, progress: Callable[[int, int], None], files: tuple[Any, Any]
    ) -> None:
        self._source = source
        self._dtype = ref.dtype
        self._progress = progress
        self._hashed, self._file = files
        self._position = 0
        self._buffer = ref.data if isinstance(ref.data, BufferRef) else BufferRef(0, 0)
        self._end = self._buffer.offset + self._buffer.length
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decoded = bytearray(ref.data if isinstance(ref.data, bytes) else b"")
        #: Elements that may be taken at a time.
        self.most = BLOCK_BYTES // ref.dtype.itemsize
        while self._position < self._buffer.offset:
            self._read(min(BLOCK_BYTES, self._buffer.offset - self._position))

    def take(self, count: int) -> NDArray[Any]:
        """Return the next ``count`` elements (at most ``most``); valid until three more are taken."""
        needed = count * self._dtype.itemsize
        if self._buffer.length and self._buffer.coding == "bytes":
            block = self._read(needed)
        else:
            while len(self._decoded) < needed:
                if self._position >= self._end:
                    raise DataError("the responses have fewer bytes than their shape needs")
                self._decode(min(BLOCK_BYTES, self._end - self._position))
            block = memoryview(bytes(self._decoded[:needed]))
            del self._decoded[:needed]
        self._progress(self._position, self._source.length or 0)
        return np.frombuffer(block, dtype=self._dtype)

    def finish(self) -> str:
        """Read to the file's end, checking what compression keeps there; return the file's sha256.

        Raises
        ------
        DataError
            When the array has bytes that its shape does not need, or the file is damaged.
        """
        left = self._end - self._position
        self._decode(0)
        if left > 0 or self._decoded:
            raise DataError(
                f"the responses have {left + len(self._decoded)} bytes more than their shape needs"
            )
        while self._file is not self._hashed and self._file.read(BLOCK_BYTES):
            pass
        sha256: str = self._hashed.digest()
        self._progress(self._source.length or 0, self._source.length or 0)
        return sha256

    def _read(self, count: int) -> memoryview:
        try:
            is_plain = self._file is self._hashed
            block = memoryview(self._hashed.read_block(count) if is_plain else self._file.read(count))
        except gzip.BadGzipFile:
            raise  # an OSError too, but about the contents
        except OSError as error:
            raise self._source.unreadable(error) from error
        self._position += len(block)
        if len(block) < count:
            raise self._source.ends_early(self._position, self._position + count - len(block))
        return block

    def _decode(self, count: int) -> None:
        """Decode the next ``count`` bytes of text that stands for bytes; 0 at its end."""
        try:
            data = bytes(self._read(count)) if count else b""
            self._decoded += self._decoder.decode(data, final=not count).encode("latin-1")
        except UnicodeError as error:
            raise DataError(f"the responses are text that does not stand for bytes ({error})") from error


class _HashedFile:
    """A raw file that is hashed by a second thread while it is read (hashing frees the interpreter)."""

    def __init__(self, raw: IO[bytes], pool: ThreadPoolExecutor) -> None:
        self._raw: Any = raw
        self._pool = pool
        self._hash = hashlib.sha256()
        # Blocks are handed out in turn and used again only after their hashing is done.
        self._blocks = itertools.cycle([memoryview(bytearray(BLOCK_BYTES)) for _ in range(_BLOCKS)])
        self._hashing: deque[Future[None]] = deque()
        self._spare = memoryview(b"")
        self._position = 0
        self._asked = 0

    def read_block(self, count: int) -> memoryview:
        """Return up to ``count`` (at most 4 MiB) next bytes, valid until three more blocks were read."""
        if len(self._hashing) == _BLOCKS:
            self._hashing.popleft().result()
        self._ask_ahead()
        view = next(self._blocks)[:count]
        have = 0
        while have < len(view) and (got := self._raw.readinto(view[have:])):
            have += got
        self._position += have
        self._hashing.append(self._pool.submit(self._hash.update, view[:have]))
        return view[:have]

    def _ask_ahead(self) -> None:
        end = self._position + _AHEAD_BYTES
        if hasattr(os, "posix_fadvise") and self._asked < end - _AHEAD_BYTES // 2:
            os.posix_fadvise(self._raw.fileno(), self._asked, end - self._asked, os.POSIX_FADV_WILLNEED)
            self._asked = end

    def read(self, count: int) -> bytes:
        """Return at least one and at most ``count`` next bytes; decompressors read through this."""
        if not self._spare:
            self._spare = self.read_block(BLOCK_BYTES)
        piece = bytes(self._spare[:count])
        self._spare = self._spare[count:]
        return piece

    def digest(self) -> str:
        """Read to the end and return the sha256 of the whole file, in hexadecimal."""
        while self.read_block(BLOCK_BYTES):
            pass
        for job in self._hashing:
            job.result()
        return self._hash.hexdigest()
