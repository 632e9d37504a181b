"""Bytes of a pickle, plain or compressed: walked once for structure, streamed once for values.

Offsets always count bytes of the pickle itself, after decompression.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mvkit.errors import DataError

#: Longer buffers stay in the file and are referred to by offset and length.
LARGE_BUFFER = 64 * 1024
#: A compressed file cannot be sought, so buffers up to this much in all are kept while walking it.
KEPT_WHILE_WALKING = 256 * 1024 * 1024
#: Everything but the responses is loaded, and takes no more than this.
MOST_LOADED = 512 * 1024 * 1024

_WINDOW = 256 * 1024
_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz"}
_FOREIGN = {
    b"\x89HDF": "an HDF5 file, not a pickle",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first, or use gzip or xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first, or use gzip or xz",
}
#: What the decompressors raise on damaged or shortened input.
DECOMPRESSION_ERRORS = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class BufferRef:
    """Where a large buffer lies in the pickle.

    Attributes
    ----------
    offset, length
        Position and size in bytes.
    is_text
        Whether the bytes are UTF-8 text: protocol 2 writes binary data as text
        whose characters stand for one byte each (latin-1).
    """

    offset: int
    length: int
    is_text: bool = False


class PickleSource:
    """One pickle file.

    Parameters
    ----------
    path
        ``.pkl``, or the same compressed by gzip or xz; told apart by content.

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
        with path.open("rb") as file:
            head = file.read(512)
        self.compression = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        self._kept: dict[tuple[int, int], bytes] = {}
        self._unspent = MOST_LOADED
        #: Bytes of the pickle after decompression, known once it was walked to its end.
        self.length: int | None = self.size
        if self.compression is None:
            refuse_foreign(path, head)
        else:
            with self.opened() as file, self.damage_reported():
                refuse_foreign(path, file.read(512))

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return self.state[0]

    @property
    def size(self) -> int | None:
        """Bytes of the pickle; None for a compressed one, which says so only at its end."""
        return self.file_bytes if self.compression is None else None

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Yield the pickle's bytes from the start, decompressed."""
        with self.path.open("rb") as raw:
            if self.compression is None:
                yield raw
            else:
                with self.unpacked(raw) as file:
                    yield file

    def unpacked(self, raw: Any) -> Any:
        """Return a file that decompresses ``raw`` as it is read."""
        if self.compression == "gzip":
            return gzip.GzipFile(fileobj=raw, mode="rb")
        return lzma.LZMAFile(raw)

    @contextmanager
    def damage_reported(self) -> Iterator[None]:
        """Turn what decompressors raise into :class:`DataError`."""
        try:
            yield
        except DECOMPRESSION_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise DataError(
                f"{self.path}: damaged or incomplete {self.compression} file: {reason}"
            ) from error

    def ends_early(self, present: int, needed: int) -> DataError:
        """Build the error for a pickle that stops too soon."""
        return DataError(f"{self.path}: ends after {present} of at least {needed} bytes: download it again")

    def read(self, ref: BufferRef) -> bytes:
        """Return the bytes of one buffer as they lie in the pickle."""
        kept = self._kept.get((ref.offset, ref.length))
        if kept is not None:
            return kept
        with self.opened() as file, self.damage_reported():
            file.seek(ref.offset)
            data = file.read(ref.length)
        if len(data) < ref.length:
            raise self.ends_early(ref.offset + len(data), ref.offset + ref.length)
        return data

    def spend(self, amount: int, what: str) -> None:
        """Count ``amount`` bytes about to be loaded; raise :class:`DataError` when they are too many."""
        self._unspent -= amount
        if self._unspent < 0:
            raise DataError(
                f"{self.path}: {what} takes {amount:,} bytes; all but the responses may take {MOST_LOADED:,}"
            )

    def keep(self, ref: BufferRef, data: bytes) -> None:
        """Remember a buffer of a compressed file, so that it need not be unpacked again."""
        self._kept[ref.offset, ref.length] = data

    def forget(self) -> None:
        """Free all remembered buffers."""
        self._kept.clear()


class PickleWalker:
    """Reads a pickle from start to end in small pieces, passing over large buffers.

    Parameters
    ----------
    source
        The file.
    file
        Its opened bytes.
    """

    def __init__(self, source: PickleSource, file: IO[bytes]) -> None:
        self._source = source
        self._file: Any = file
        self._window = b""
        self._next = 0
        self._start = 0
        self._room = KEPT_WHILE_WALKING

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._start + self._next

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes, or raise :class:`DataError` at the end of the file."""
        end = self._next + count
        if end > len(self._window):
            self._refill(count)
            end = self._next + count
        piece = self._window[self._next : end]
        self._next = end
        return piece

    def take_line(self, limit: int) -> bytes:
        """Return the bytes before the next newline, which must come within ``limit`` bytes."""
        line = bytearray()
        while len(line) <= limit:
            byte = self.take(1)
            if byte == b"\n":
                return bytes(line)
            line += byte
        raise DataError(f"{self._source.path}: a name of more than {limit} bytes ends at {self.position}")

    def buffer(self, length: int, *, is_text: bool = False) -> bytes | BufferRef:
        """Return a small buffer itself, or pass over a large one and return where it lies."""
        self.require(length)
        if length <= LARGE_BUFFER:
            return self.take(length)
        ref = BufferRef(offset=self.position, length=length, is_text=is_text)
        self._pass_over(ref)
        return ref

    def require(self, length: int) -> None:
        """Raise :class:`DataError` when the file is known to hold fewer than ``length`` further bytes."""
        size = self._source.size
        if size is not None and self.position + length > size:
            raise self._source.ends_early(size, self.position + length)

    def require_end(self) -> None:
        """Raise :class:`DataError` when bytes follow the pickle."""
        if self._next < len(self._window) or self._file.read(1):
            raise DataError(
                f"{self._source.path}: bytes follow the pickle's end at {self.position}: download it again"
            )

    def _refill(self, count: int) -> None:
        rest = self._window[self._next :]
        self._start += self._next
        self._next = 0
        parts = [rest]
        have = len(rest)
        while have < count:
            piece = self._file.read(max(_WINDOW, count - have))
            if not piece:
                self._window = b"".join(parts)
                raise self._source.ends_early(self._start + have, self._start + count)
            parts.append(piece)
            have += len(piece)
        self._window = b"".join(parts)

    def _pass_over(self, ref: BufferRef) -> None:
        in_window = self._window[self._next : self._next + ref.length]
        end = ref.offset + ref.length
        if len(in_window) == ref.length:
            self._next += ref.length
        else:
            if self._source.size is None:
                self._read_through(ref, in_window)
            else:
                self._file.seek(end)
            self._window, self._next, self._start = b"", 0, end

    def _read_through(self, ref: BufferRef, begun: bytes) -> None:
        keep = ref.length <= self._room
        parts = [begun]
        have = len(begun)
        while have < ref.length:
            piece = self._file.read(min(1 << 20, ref.length - have))
            if not piece:
                raise self._source.ends_early(ref.offset + have, ref.offset + ref.length)
            have += len(piece)
            if keep:
                parts.append(piece)
        if keep:
            self._room -= ref.length
            self._source.keep(ref, b"".join(parts))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of every :class:`DataError` that lacks it."""
    try:
        yield
    except DataError as error:
        if str(path) not in str(error):
            error.args = (f"{path}: {error}",)
        raise


def file_state(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written to: its size, and when it was last changed (ns)."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def refuse_foreign(path: Path, head: bytes) -> None:
    """Raise :class:`DataError`, saying what it is, for a file that does not start as a pickle does."""
    if not head:
        raise DataError(f"{path}: the file is empty: download it again")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        words = " ".join(text[:200].decode("utf-8", "replace").split())
        raise DataError(f"{path}: is an HTML/XML error page, not data: {words[:120]}\ndownload it again")
    for magic, meaning in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {meaning}")
    if head[0] != 0x80:
        raise DataError(f"{path}: is no pickle of protocol 2 to 5 (starts with {head[:8]!r})")
