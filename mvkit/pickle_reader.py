"""Read a pickle without running it.

The reader follows the instructions of a pickle (protocols 2 to 5; Python's
``pickletools`` documents them), but where Python would import a class it makes
a :class:`Name`, and where Python would call one it makes a :class:`Record`:
plain data, which :mod:`mvkit.neural.pickle_arrays` turns into arrays. Names
outside the allow-list are refused, because data has no use for them and a
harmful pickle does. Any refusal of the file is a :class:`DataError`.

Memory is bounded for any file: buffers and texts above 64 kB stay in
the file and become a :class:`BufferRef`. Offsets always count bytes of the
pickle itself, after decompression.
"""

from __future__ import annotations

import gzip
import lzma
import os
import pickletools
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeGuard

from mvkit.errors import DataError
from mvkit.files import check_unpacked

#: A published recording takes about 2,000 instructions, a batch of CIFAR-10 about 40,000.
MOST_INSTRUCTIONS = 1_000_000
#: Bytes of small buffers and texts held in memory, in all.
MOST_SMALL_BYTES = 64 * 1024 * 1024
#: Longer buffers and texts stay in the file.
LARGE_BUFFER = 64 * 1024
#: A compressed file cannot be sought, so buffers up to this much in all are cached on the first pass.
MOST_CACHED = 256 * 1024 * 1024
#: Everything but the responses is loaded, and takes no more than this.
MOST_LOADED = 512 * 1024 * 1024

#: Names that a pickle may have: modules of numpy 1.13 to 2.4, pandas 0.25 to 3.1, xarray 0.15 to 2026.9 and
#: pyarrow (text of pandas 3), and the names in them.
_NAMES = {
    "numpy": "ndarray dtype",
    "numpy.core.multiarray numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric numpy._core.numeric": "_frombuffer",
    "pandas": "Index RangeIndex MultiIndex StringDtype NA",
    "pandas.core.indexes.base": "_new_Index Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.indexes.multi": "MultiIndex",
    "pandas.core.indexes.numeric": "Int64Index UInt64Index Float64Index NumericIndex IntegerIndex",
    "pandas.core.indexes.frozen": "FrozenList FrozenNDArray",
    "pandas.core.arrays.string_ pandas.arrays": "StringDtype StringArray StringArrayNumpySemantics",
    "pandas.core.arrays.string_arrow pandas.arrays": "ArrowStringArray ArrowStringArrayNumpySemantics",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.missing": "NA",
    "pyarrow.lib": "_restore_array chunked_array type_for_alias py_buffer",
    "xarray.core.dataarray": "DataArray",
    "xarray.core.variable": "Variable IndexVariable",
    "xarray.core.indexes": "PandasIndex PandasMultiIndex",
    "xarray.core.indexing": "PandasIndexAdapter PandasIndexingAdapter PandasMultiIndexingAdapter",
    "builtins __builtin__": "bytes bytearray dict slice range xrange",
    "_codecs": "encode",
    "collections": "OrderedDict",
}
#: Full name -> package and name, by which a :class:`Name` goes.
ALLOWED = {
    f"{module}.{name}": f"{module.partition('.')[0]}.{name}"
    for modules, names in _NAMES.items()
    for module in modules.split()
    for name in names.split()
}
_BYTES = tuple(label for label in ALLOWED if label.endswith((".bytes", ".bytearray", ".encode")))
_DICTIONARY = tuple(label for label in ALLOWED if label.endswith((".dict", ".OrderedDict")))

_LONGEST_INTEGER = 32
_LONGEST_NAME = 255
_BYTES_PER_PAIR = 64
_PIECE = 1024 * 1024
_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz"}
_OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file, not a pickle",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first, or use gzip or xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first, or use gzip or xz",
}


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names, as a label (``pandas.Index``); never imported."""

    label: str


@dataclass(slots=True, eq=False)
class Record:
    """A call of ``maker`` with ``arguments``, and the ``state`` of the object it would have made."""

    maker: Name
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, slots=True)
class BufferRef:
    """Position of a large buffer in the pickle.

    Attributes
    ----------
    offset, length
        Position and size in bytes.
    coding
        ``bytes``; ``text`` (UTF-8); or ``latin-1``: protocol 2 writes binary data as
        UTF-8 text whose characters stand for one byte each.
    """

    offset: int
    length: int
    coding: str = "bytes"


def is_named(value: object, *labels: str) -> TypeGuard[Name]:
    """Whether ``value`` is a :class:`Name` with one of these labels."""
    return isinstance(value, Name) and value.label in labels


def is_record(value: object, *labels: str) -> TypeGuard[Record]:
    """Whether ``value`` is a :class:`Record` whose maker has one of these labels."""
    return isinstance(value, Record) and value.maker.label in labels


class PickleFile:
    """One pickle on disk.

    Parameters
    ----------
    path
        ``.pkl``, or the same compressed by gzip or xz; recognised by content.

    Attributes
    ----------
    state
        Size of the file, and time of its last change.
    compression
        ``gzip``, ``xz`` or None.
    length
        Bytes of the pickle after decompression; None until a compressed one was read to its end.
    cache
        Offset -> large buffer of a compressed file, so that it need not be unpacked again.

    Raises
    ------
    DataError
        When the file is missing, empty, a web page, or some other kind of file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        self.path = path
        self.state = file_state(path)
        self.compression: str | None = None
        self.cache: dict[int, bytes] = {}
        self._unspent = MOST_LOADED
        with self.open() as file:
            head = file.read(512)
        self.compression = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        self.length = self.state[0] if self.compression is None else None
        with self.open() as file:
            _check_is_pickle(path, file.read(512))

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Yield the pickle's bytes from the start, decompressed."""
        try:
            with self.path.open("rb") as raw, self.decompress(raw) as file:
                yield file
        except OSError as error:
            raise self.unreadable(error) from error

    @contextmanager
    def decompress(self, raw: Any) -> Iterator[Any]:
        """Yield a file that decompresses ``raw`` as it is read; damage is a :class:`DataError`."""
        try:
            if self.compression is None:
                yield raw
            else:
                with gzip.GzipFile(fileobj=raw) if self.compression == "gzip" else lzma.LZMAFile(raw) as file:
                    yield file
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
            reason = str(error) or type(error).__name__
            raise DataError(
                f"{self.path}: damaged or incomplete {self.compression} file: {reason}"
            ) from error

    def load(self, data: bytes | BufferRef, what: str) -> bytes:
        """Return a buffer in memory; raise :class:`DataError` when its bytes are missing or too many."""
        self.spend(len(data) if isinstance(data, bytes) else data.length, what)
        if isinstance(data, bytes):
            return data
        stored = self.cache.get(data.offset)
        if stored is None:
            with self.open() as file:
                file.seek(data.offset)
                stored = file.read(data.length)
        if len(stored) < data.length:
            raise self.ends_early(data.offset + len(stored), data.offset + data.length)
        try:
            return stored if data.coding == "bytes" else stored.decode("utf-8").encode("latin-1")
        except UnicodeError as error:
            raise DataError(f"{what}: text that does not stand for bytes ({error})") from error

    def spend(self, amount: int, what: str) -> None:
        """Count ``amount`` bytes about to be loaded; raise :class:`DataError` when they are too many."""
        self._unspent -= amount
        if self._unspent < 0:
            raise DataError(
                f"{self.path}: {what} takes {amount:,} bytes; all but the responses may take {MOST_LOADED:,}"
            )

    def unreadable(self, error: OSError) -> DataError:
        """Build the error for a disk or a permission that fails."""
        return DataError(f"{self.path}: could not be read: {error.strerror or error}")

    def ends_early(self, present: int, needed: int) -> DataError:
        """Build the error for a pickle that stops too soon."""
        return DataError(f"{self.path}: ends after {present} of at least {needed} bytes: download it again")


def read_pickle(source: PickleFile) -> Any:
    """Follow a pickle's instructions and return the inert form of its one object.

    Returns
    -------
    object
        None, bool, int, float, str, bytes, tuple, list (also for a set), dict,
        :class:`BufferRef` (a buffer or text above 64 kB), :class:`Name` or :class:`Record`.

    Raises
    ------
    DataError
        When the pickle names anything outside the allow-list, is damaged,
        cut short, followed by more bytes, or too large.
    """
    with source.open() as file:
        machine = Machine(source, file)
        value = machine.run()
        if file.read(1):
            raise DataError(
                f"{source.path}: bytes follow the pickle's end at {machine.position}: download it again"
            )
        source.length = machine.position
        return value


class Machine:
    """A pickle's stack, marks and memo; every access is checked, and nothing is imported or called."""

    def __init__(self, source: PickleFile, file: IO[bytes]) -> None:
        self.source = source
        self.file = file
        self.position = 0
        self.at, self.code = 0, b""  # of the present instruction
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.small_bytes = 0
        self.cacheable = MOST_CACHED

    @property
    def most_instructions(self) -> int:
        """How many instructions are followed."""
        return MOST_INSTRUCTIONS

    @property
    def instructions(self) -> Mapping[bytes, tuple[str, Callable[..., None]]]:
        """Instruction -> form of its operand, and what it does."""
        return INSTRUCTIONS

    def run(self) -> Any:
        instructions = self.instructions
        for _ in range(self.most_instructions):
            self.at = self.position
            self.code = self.take(1)
            if self.code == b".":
                return self.pop()
            if self.code not in instructions:
                why = next((why for codes, why in _REFUSED.items() if self.code in codes), _UNKNOWN)
                raise self.refusal(f"instruction {self.code!r}: {why}")
            form, step = instructions[self.code]
            step(self, *struct.unpack(form, self.take(struct.calcsize(form))))
        raise self.refusal(f"more than {self.most_instructions:,} instructions: no data that mvkit reads")

    def refusal(self, what: str) -> DataError:
        name = _OPCODES.get(self.code.decode("latin-1"), "unknown")
        return DataError(f"{self.source.path}: refused at byte {self.at}: {what} ({name})")

    # Bytes of the file

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        self.position += len(data)
        if len(data) < count:
            raise self.source.ends_early(self.position, self.position - len(data) + count)
        return data

    def require(self, length: int) -> None:
        if self.source.length is not None and self.position + length > self.source.length:
            raise self.source.ends_early(self.source.length, self.position + length)

    def count_bytes(self, amount: int) -> None:
        self.small_bytes += amount
        if self.small_bytes > MOST_SMALL_BYTES:
            raise self.refusal(f"more than {MOST_SMALL_BYTES:,} bytes of texts and small buffers")

    def buffer(self, length: int, coding: str) -> bytes | BufferRef:
        if length < 0:
            raise self.refusal("a negative length")
        self.require(length)
        if length <= LARGE_BUFFER:
            self.count_bytes(length)
            return self.take(length)
        ref = BufferRef(self.position, length, coding)
        if self.source.compression is None:
            self.position = self.file.seek(length, os.SEEK_CUR)
            return ref
        check_unpacked(length, self.source.state[0], f"{self.source.path}: an array")
        pieces = []
        for start in range(0, length, _PIECE):
            piece = self.take(min(_PIECE, length - start))
            if length <= self.cacheable:
                pieces.append(piece)
        if pieces:
            self.cacheable -= length
            self.source.cache[ref.offset] = b"".join(pieces)
        return ref

    def line(self) -> str:
        data = self.file.readline(_LONGEST_NAME + 1)
        self.position += len(data)
        if not data.endswith(b"\n"):
            if len(data) > _LONGEST_NAME:
                raise self.refusal(f"a name of more than {_LONGEST_NAME} bytes")
            raise self.source.ends_early(self.position, self.position + 1)
        try:
            return data[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.refusal("a name that is not UTF-8") from error

    # Stream and plain values

    def protocol(self, version: int) -> None:
        if not 2 <= version <= 5:
            raise self.refusal(f"pickle protocol {version}; 2 to 5 are known")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def data(self, length: int) -> None:
        self.push(self.buffer(length, "bytes"))

    def text(self, length: int) -> None:
        value: Any = self.buffer(length, "text")
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise self.refusal(f"text that is not UTF-8 ({error.reason})") from error
        self.push(value)

    def integer(self, length: int) -> None:
        if not 0 <= length <= _LONGEST_INTEGER:
            raise self.refusal(f"an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    # Stack and memo

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.refusal("an instruction that needs a value, and there is none")
        return self.stack.pop()

    def top(self) -> Any:
        self.push(self.pop())
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.refusal("an instruction that needs a mark, and there is none")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def discard(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def memoize(self, key: int) -> None:
        self.memo[key] = self.top()

    def from_memo(self, key: int) -> None:
        if key not in self.memo:
            raise self.refusal(f"memo {key}, which was never stored")
        self.push(self.memo[key])

    # Containers

    def group(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise self.refusal("items for something that is not a list")
        target.extend(items)

    def fill(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict):
            raise self.refusal("keys for something that is not a dictionary")
        if len(items) % 2:
            raise self.refusal("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, bytes):
                key = key.decode("latin-1")  # Python 2 wrote plain text this way
            # Hashing a tuple walks all it holds, which a harmful file makes endless.
            if not isinstance(key, str | int | float | None):
                raise self.refusal("a dictionary key that is neither text nor a number")
            target[key] = value

    def fill_one(self) -> None:
        value = self.pop()
        self.fill([self.pop(), value])

    # Names and records

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.refusal("a class name that is not text")
        label = ALLOWED.get(f"{module}.{name}")
        if label is None:
            raise self.refusal(f"it names {module[:80]}.{name[:80]}, which no data needs; nothing was run")
        self.push(Name(label))

    def stack_name(self) -> None:
        name = self.pop()
        self.name(self.pop(), name)

    def call(self, maker: Any, arguments: Any) -> None:
        if not isinstance(maker, Name):
            raise self.refusal("a call of something that is not a class or function")
        if not isinstance(arguments, tuple):
            raise self.refusal("a call whose arguments are not a tuple")
        if is_named(maker, *_BYTES):
            self.push(self.new_bytes(arguments))
        elif is_named(maker, *_DICTIONARY):
            self.push({})
            self.fill_pairs(arguments)
        else:
            self.push(Record(maker, arguments))

    def new_bytes(self, arguments: tuple[Any, ...]) -> bytes | BufferRef:
        match arguments:
            case ():
                return b""
            case (bytes() as data,):
                return data
            case (BufferRef(coding="bytes" | "latin-1") as ref,):
                return ref
            case (BufferRef(coding="text") as ref, "latin1" | "latin-1"):
                return replace(ref, coding="latin-1")
            case (str() as text, "latin1" | "latin-1") if max(text, default="") < "\u0100":
                self.count_bytes(len(text))
                return text.encode("latin-1")
        raise self.refusal("bytes in an unknown form")

    def fill_pairs(self, arguments: tuple[Any, ...]) -> None:
        pairs = arguments[0] if len(arguments) == 1 else None if arguments else ()
        if not isinstance(pairs, list | tuple):
            raise self.refusal("a mapping made from something that is not a list of pairs")
        # One list may be named many times, and each time costs a copy.
        self.count_bytes(len(pairs) * _BYTES_PER_PAIR)
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise self.refusal("a mapping made from something that is not a list of pairs")
            self.fill(list(pair))

    def reduce(self) -> None:
        arguments = self.pop()
        self.call(self.pop(), arguments)

    def reduce_with_keywords(self) -> None:
        if self.pop():
            raise self.refusal("a call with keyword arguments")
        self.reduce()

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if not isinstance(target, Record):
            raise self.refusal("state for something that is not an object")
        if target.state is not None:
            raise self.refusal("an object that is filled twice")
        target.state = state


_OPCODES = {opcode.code: opcode.name for opcode in pickletools.opcodes}
_UNKNOWN = "pickle protocols 2 to 5 do not write it"
_REFUSED = {
    b"PQ": "a persistent id, which only the program that wrote it can resolve",
    b"\x82\x83\x84": "an extension code, which only the program that wrote it can resolve",
    b"\x97\x98": "a buffer outside the file",
}
#: Instruction -> form of its operand, and what it does. A set is read as a list.
INSTRUCTIONS: dict[bytes, tuple[str, Callable[..., None]]] = {
    bytes([code]): (form, step) for codes, form, step in (
        (b"\x80", "B", Machine.protocol), (b"\x95", "<Q", Machine.require),
        # plain values
        (b"N", "", lambda m: m.stack.append(None)),
        (b"\x88", "", lambda m: m.stack.append(True)), (b"\x89", "", lambda m: m.stack.append(False)),
        (b"K", "B", Machine.push), (b"M", "<H", Machine.push), (b"J", "<i", Machine.push),
        (b"G", ">d", Machine.push), (b"\x8a", "B", Machine.integer), (b"\x8b", "<i", Machine.integer),
        (b"\x8c", "B", Machine.text), (b"X", "<I", Machine.text), (b"\x8d", "<Q", Machine.text),
        (b"UC", "B", Machine.data), (b"T", "<i", Machine.data), (b"B", "<I", Machine.data),
        (b"\x8e\x96", "<Q", Machine.data),
        # stack and memo
        (b"(", "", lambda m: m.marks.append(len(m.stack))), (b"0", "", Machine.discard),
        (b"1", "", lambda m: m.pop_to_mark().clear()), (b"2", "", lambda m: m.push(m.top())),
        (b"\x94", "", lambda m: m.memoize(len(m.memo))),
        (b"q", "B", Machine.memoize), (b"r", "<I", Machine.memoize),
        (b"h", "B", Machine.from_memo), (b"j", "<I", Machine.from_memo),
        # containers
        (b")", "", lambda m: m.push(())), (b"\x85", "", lambda m: m.group(1)),
        (b"\x86", "", lambda m: m.group(2)), (b"\x87", "", lambda m: m.group(3)),
        (b"t", "", lambda m: m.push(tuple(m.pop_to_mark()))),
        (b"]\x8f", "", lambda m: m.push([])), (b"\x91", "", lambda m: m.push(m.pop_to_mark())),
        (b"a", "", lambda m: m.extend([m.pop()])), (b"e\x90", "", lambda m: m.extend(m.pop_to_mark())),
        (b"}", "", lambda m: m.push({})),
        (b"s", "", Machine.fill_one), (b"u", "", lambda m: m.fill(m.pop_to_mark())),
        # names and records
        (b"c", "", lambda m: m.name(m.line(), m.line())), (b"\x93", "", Machine.stack_name),
        (b"R\x81", "", Machine.reduce), (b"\x92", "", Machine.reduce_with_keywords),
        (b"b", "", Machine.build),
    ) for code in codes
}  # fmt: skip


def file_state(path: Path) -> tuple[int, int]:
    """Return size and time of the last change (ns) of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _check_is_pickle(path: Path, head: bytes) -> None:
    if not head:
        raise DataError(f"{path}: the file is empty: download it again")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        words = " ".join(text[:200].decode("utf-8", "replace").split())
        raise DataError(f"{path}: is an HTML/XML error page, not data: {words[:120]}\ndownload it again")
    for magic, meaning in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {meaning}")
    if head[0] != 0x80:
        raise DataError(f"{path}: is no pickle of protocol 2 to 5 (starts with {head[:8]!r})")
