"""Read columns of text that pandas 3 keeps in Arrow arrays.

Layout after the Arrow columnar format: a bitmap of present entries (or none),
offsets into the text (int32, or int64 for ``large_string``), and UTF-8 text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import pickle_arrays, pickle_names
from mvkit.neural.pickle_names import is_one_of
from mvkit.neural.pickle_source import PickleSource
from mvkit.neural.pickle_values import Record

_OFFSET_TYPES = {"string": "<i4", "utf8": "<i4", "large_string": "<i8", "large_utf8": "<i8"}


def arrow_text(value: object, source: PickleSource, what: str) -> NDArray[np.str_]:
    """Read an Arrow array of text, whole or in chunks; "" = missing."""
    if isinstance(value, Record) and is_one_of(value.maker, pickle_names.ARROW_CHUNKS):
        chunks = value.arguments[0] if value.arguments else None
        if not isinstance(chunks, list | tuple):
            raise _unreadable(what)
        texts = [text for chunk in chunks for text in _texts(chunk, source, what)]
    else:
        texts = _texts(value, source, what)
    return text_column(texts, source, what)


def text_column(texts: list[str], source: PickleSource, what: str) -> NDArray[np.str_]:
    """Return labels as an array of fixed width, refusing what no label is.

    Raises
    ------
    DataError
        For labels that are too long, or hold characters that HDF5 cannot store.
    """
    if any("\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text) for text in texts):
        raise DataError(f"{what} holds text that cannot be stored: zero bytes or lone surrogates")
    source.spend(4 * len(texts) * max((len(text) for text in texts), default=0), what)
    return np.array(texts, dtype=str)


def _texts(value: object, source: PickleSource, what: str) -> list[str]:
    type_, length, first, buffers = _parts(value, what)
    present, offsets, text = (_buffer(buffer, source, what) for buffer in buffers)
    if length == 0:
        return []
    ends = _offsets(offsets or b"", _OFFSET_TYPES[type_], (first, length), what)
    text = text or b""
    if int(ends[0]) < 0 or int(ends[-1]) > len(text) or (np.diff(ends) < 0).any():
        raise _unreadable(what)
    is_present = _present(present, first, length, what)
    try:
        return [
            text[begin:end].decode("utf-8") if here else ""
            for begin, end, here in zip(ends[:-1], ends[1:], is_present, strict=True)
        ]
    except UnicodeDecodeError as error:
        raise _unreadable(what) from error


def _parts(value: object, what: str) -> tuple[str, int, int, list[Any]]:
    if not isinstance(value, Record) or not is_one_of(value.maker, pickle_names.ARROW_ARRAY):
        raise _unreadable(what)
    fields = value.arguments[0] if len(value.arguments) == 1 else None
    if not isinstance(fields, tuple) or len(fields) < 5:
        raise _unreadable(what)
    type_, length, _, first, buffers = fields[:5]
    if not isinstance(type_, Record) or not is_one_of(type_.maker, pickle_names.ARROW_TYPE):
        raise _unreadable(what)
    alias = type_.arguments[0] if type_.arguments else None
    if not isinstance(alias, str) or alias not in _OFFSET_TYPES:
        raise DataError(f"{what} holds Arrow values of type {str(alias)[:40]!r}; only text is read")
    if not all(type(number) is int and 0 <= number < 1 << 40 for number in (length, first)):
        raise _unreadable(what)
    if not isinstance(buffers, list | tuple) or len(buffers) != 3:
        raise _unreadable(what)
    return alias, length, first, list(buffers)


def _buffer(value: object, source: PickleSource, what: str) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, Record) or not is_one_of(value.maker, pickle_names.ARROW_BUFFER):
        raise _unreadable(what)
    inner = value.arguments[0] if value.arguments else b""
    return pickle_arrays.load_bytes(pickle_arrays.as_bytes(inner, what), source, what)


def _offsets(data: bytes, type_: str, span: tuple[int, int], what: str) -> NDArray[Any]:
    first, length = span
    size = np.dtype(type_).itemsize
    if (first + length + 1) * size > len(data):
        raise _unreadable(what)
    return np.frombuffer(data, dtype=type_, count=length + 1, offset=first * size)


def _present(bitmap: bytes | None, first: int, length: int, what: str) -> NDArray[np.bool_]:
    if bitmap is None:
        return np.ones(length, dtype=bool)
    if first + length > 8 * len(bitmap):
        raise _unreadable(what)
    bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), bitorder="little")
    return bits[first : first + length].astype(bool)


def _unreadable(what: str) -> DataError:
    return DataError(f"{what} holds text in a form that is not read")
