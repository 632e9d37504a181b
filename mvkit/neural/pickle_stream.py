"""Stream a pickle once from its first byte to its last: values out, sha256 of the file on the way."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural.pickle_arrays import ArrayRef
from mvkit.neural.pickle_source import BufferRef, PickleSource, file_state

BLOCK_BYTES = 4 * 1024 * 1024
_BLOCKS = 4
#: The system is asked to fetch this much ahead, so that disk and processor work at the same time.
_AHEAD_BYTES = 256 * 1024 * 1024


class HashedFile:
    """A raw file that is hashed by a second thread while it is read (hashing frees the interpreter).

    Parameters
    ----------
    raw
        File opened without buffering, at its start.
    pool
        One worker, so that blocks are hashed in order.
    """

    def __init__(self, raw: IO[bytes], pool: ThreadPoolExecutor) -> None:
        self._raw: Any = raw
        self._pool = pool
        self._hash = hashlib.sha256()
        # Blocks are handed out in turn and used again only after their hashing is done.
        self._blocks = [bytearray(BLOCK_BYTES) for _ in range(_BLOCKS)]
        self._pending: list[Future[None] | None] = [None] * _BLOCKS
        self._turn = 0
        self._spare = memoryview(b"")
        self._position = 0
        self._asked = 0

    def read_block(self, count: int) -> memoryview:
        """Return up to ``count`` (at most 4 MiB) next bytes, valid until three more blocks were read."""
        waiting = self._pending[self._turn]
        if waiting is not None:
            waiting.result()
        self._ask_ahead()
        view = memoryview(self._blocks[self._turn])[: min(count, BLOCK_BYTES)]
        have = 0
        while have < len(view):
            got = self._raw.readinto(view[have:])
            if not got:
                break
            have += got
        block = view[:have]
        self._position += have
        self._pending[self._turn] = self._pool.submit(self._hash.update, block)
        self._turn = (self._turn + 1) % _BLOCKS
        return block

    def _ask_ahead(self) -> None:
        end = self._position + _AHEAD_BYTES
        if hasattr(os, "posix_fadvise") and self._asked < end - _AHEAD_BYTES // 2:
            os.posix_fadvise(self._raw.fileno(), self._asked, end - self._asked, os.POSIX_FADV_WILLNEED)
            self._asked = end

    def read(self, count: int = -1) -> bytes:
        """Return up to ``count`` next bytes; decompressors read through this."""
        if count < 0:
            count = BLOCK_BYTES
        pieces = []
        while count > 0:
            if not len(self._spare):
                self._spare = self.read_block(BLOCK_BYTES)
                if not len(self._spare):
                    break
            pieces.append(bytes(self._spare[:count]))
            self._spare = self._spare[len(pieces[-1]) :]
            count -= len(pieces[-1])
        return b"".join(pieces)

    def digest(self) -> str:
        """Read to the end and return the sha256 of the whole file, in hexadecimal."""
        while len(self.read_block(BLOCK_BYTES)):
            pass
        for waiting in self._pending:
            if waiting is not None:
                waiting.result()
        return self._hash.hexdigest()


class PickleStream:
    """The bytes of a pickle from start to end, for one reading.

    Parameters
    ----------
    source
        The file.
    hashed
        Its raw bytes.
    unpacked
        Decompressed bytes of ``hashed``; None for a plain file.
    """

    def __init__(self, source: PickleSource, hashed: HashedFile, unpacked: IO[bytes] | None) -> None:
        self._source = source
        self._hashed = hashed
        self._unpacked = unpacked
        self.position = 0

    def read_block(self, count: int) -> memoryview:
        """Return the next ``count`` bytes (at most 4 MiB)."""
        try:
            block = self._hashed.read_block(count) if self._unpacked is None else self._unpack(count)
        except gzip.BadGzipFile:
            raise  # an OSError too, but about the contents
        except OSError as error:
            raise DataError(f"{self._source.path}: could not be read: {error.strerror or error}") from error
        self.position += len(block)
        if len(block) < count:
            raise self._source.ends_early(self.position, self.position + count - len(block))
        return block

    def _unpack(self, count: int) -> memoryview:
        parts = bytearray()
        while self._unpacked is not None and len(parts) < count:
            piece = self._unpacked.read(count - len(parts))
            if not piece:
                break
            parts += piece
        return memoryview(parts)

    def pass_over(self, end: int) -> None:
        """Read on to the offset ``end``."""
        while self.position < end:
            self.read_block(min(BLOCK_BYTES, end - self.position))

    def finish(self) -> str:
        """Read to the end, checking what compression keeps there; return the file's sha256."""
        while self._unpacked is not None and self._unpacked.read(BLOCK_BYTES):
            pass
        return self._hashed.digest()


@contextmanager
def streaming(source: PickleSource) -> Iterator[PickleStream]:
    """Open a pickle for one pass over all its bytes.

    Raises
    ------
    DataError
        When a compressed file is damaged, or the file changed since it was looked at.
    """
    with ThreadPoolExecutor(1) as pool, source.path.open("rb", buffering=0) as raw:
        hashed = HashedFile(raw, pool)
        with source.damage_reported():
            if source.compression is None:
                yield PickleStream(source, hashed, None)
            else:
                with source.unpacked(hashed) as unpacked:
                    yield PickleStream(source, hashed, unpacked)
    if file_state(source.path) != source.state:
        raise DataError(f"{source.path}: changed while it was being read; try again")


class ElementReader:
    """Hands out an array's elements in the order they lie in the pickle.

    Parameters
    ----------
    stream
        The pickle, not yet read past the array.
    ref
        The array.
    progress
        Called with the offset reached, in bytes.
    """

    def __init__(self, stream: PickleStream, ref: ArrayRef, progress: Callable[[int], None]) -> None:
        self._stream = stream
        self._dtype = ref.dtype
        self._progress = progress
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._rest = bytearray()
        self._data = ref.data
        if isinstance(ref.data, BufferRef):
            stream.pass_over(ref.data.offset)
        elif isinstance(ref.data, bytes):
            self._rest += ref.data
        self.most = BLOCK_BYTES // ref.dtype.itemsize

    def take(self, count: int) -> NDArray[Any]:
        """Return the next ``count`` elements (at most ``most``); valid until three more are taken."""
        needed = count * self._dtype.itemsize
        if isinstance(self._data, BufferRef) and not self._data.is_text:
            block = self._stream.read_block(needed)
        else:
            while len(self._rest) < needed:
                self._rest += self._more_text()
            block = memoryview(bytes(self._rest[:needed]))
            del self._rest[:needed]
        self._progress(self._stream.position)
        return np.frombuffer(block, dtype=self._dtype)

    def require_end(self) -> None:
        """Raise :class:`DataError` when bytes are left over."""
        try:
            self._rest += self._decoder.decode(b"", final=True).encode("latin-1")
        except UnicodeError as error:
            raise DataError(f"the responses are text that does not stand for bytes ({error})") from error
        left = len(self._rest)
        if isinstance(self._data, BufferRef):
            left += self._data.offset + self._data.length - self._stream.position
        if left:
            raise DataError(f"the responses have {left} bytes more than their shape needs")

    def _more_text(self) -> bytes:
        ref = self._data
        end = ref.offset + ref.length if isinstance(ref, BufferRef) else 0
        count = min(BLOCK_BYTES, end - self._stream.position)
        if count <= 0:
            raise DataError("the responses have fewer bytes than their shape needs")
        try:
            return self._decoder.decode(bytes(self._stream.read_block(count))).encode("latin-1")
        except UnicodeError as error:
            raise DataError(f"the responses are text that does not stand for bytes ({error})") from error
