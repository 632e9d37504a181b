"""Write responses chunk by chunk, compressed on all cores, and check them by reading back.

HDF5 compresses on one core; here chunks are compressed by threads (zlib frees
the interpreter) and handed to HDF5 finished, in a fixed order.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural.layout import GZIP_LEVEL, MISSING_COUNT
from mvkit.neural.layout_reading import OpenNeuralFile

Offset = tuple[int, ...]
_MOST_THREADS = 4


@dataclass
class ChunkDigests:
    """sha256 of every chunk's stored values, for comparison with what is read back."""

    by_offset: dict[Offset, bytes] = field(default_factory=dict)


class ChunkWriter:
    """Fills a chunked, shuffled, gzip-compressed dataset.

    Parameters
    ----------
    dataset
        h5py dataset as :func:`mvkit.neural.layout.creating` yields it.
    pool
        Threads that compress.
    """

    def __init__(self, dataset: Any, pool: ThreadPoolExecutor) -> None:
        self._dataset = dataset
        self._pool = pool
        self.digests = ChunkDigests()
        missing = MISSING_COUNT if dataset.dtype == np.uint8 else np.nan
        self._filler = np.array(missing, dtype=dataset.dtype)

    def write(self, values: NDArray[Any], start: Offset) -> None:
        """Write a block whose corner lies on the chunk grid and which ends on it or at the edge.

        Parameters
        ----------
        values
            Block in the dataset's axis order and type; may be a transposed view.
        start
            Index of its first element.
        """
        chunks = self._dataset.chunks
        waiting: deque[tuple[Offset, Future[tuple[bytes, bytes]]]] = deque()
        for offset in grid(values.shape, chunks):
            part = values[_slices(offset, values.shape, chunks)]
            job = self._pool.submit(_packed, part, chunks, self._filler)
            place = tuple(first + inner for first, inner in zip(start, offset, strict=True))
            waiting.append((place, job))
            if len(waiting) > 2 * _MOST_THREADS:
                self._put(*waiting.popleft())
        while waiting:
            self._put(*waiting.popleft())

    def _put(self, offset: Offset, job: Future[tuple[bytes, bytes]]) -> None:
        packed, digest = job.result()
        self._dataset.id.write_direct_chunk(offset, packed)
        self.digests.by_offset[offset] = digest


def compressing() -> ThreadPoolExecutor:
    """Return threads to compress with: as many as there are cores, up to four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(_MOST_THREADS, cores))


def verify(file: OpenNeuralFile, digests: ChunkDigests, pool: ThreadPoolExecutor) -> None:
    """Read all responses back and compare them with what was converted.

    Raises
    ------
    DataError
        When a chunk is absent, unreadable or different.
    """
    stored = file.stored
    waiting: deque[tuple[Offset, Future[bytes]]] = deque()
    for offset in grid(stored.shape, stored.chunks):
        try:
            part = stored[_slices(offset, stored.shape, stored.chunks)]
        except OSError as error:
            raise _different(file, offset) from error
        waiting.append((offset, pool.submit(_digest, part)))
        if len(waiting) > 2 * _MOST_THREADS:
            _compare(file, digests, *waiting.popleft())
    while waiting:
        _compare(file, digests, *waiting.popleft())


def grid(shape: Offset, chunks: Offset) -> Iterator[Offset]:
    """Yield the first index of every chunk, last axis fastest."""
    return product(*(range(0, size, chunk) for size, chunk in zip(shape, chunks, strict=True)))


def _slices(offset: Offset, shape: Offset, chunks: Offset) -> tuple[slice, ...]:
    return tuple(
        slice(first, min(first + chunk, size))
        for first, size, chunk in zip(offset, shape, chunks, strict=True)
    )


def _packed(part: NDArray[Any], chunk: Offset, filler: NDArray[Any]) -> tuple[bytes, bytes]:
    """Bytes of one chunk as HDF5's shuffle and gzip filters would make them, and its digest."""
    values = np.ascontiguousarray(part)
    digest = _digest(values)
    if values.shape != chunk:
        # A chunk at the edge is stored whole.
        whole = np.full(chunk, filler)
        whole[tuple(slice(size) for size in values.shape)] = values
        values = whole
    data: Any = values.reshape(-1).view(np.uint8)
    if values.itemsize > 1:
        data = np.ascontiguousarray(data.reshape(-1, values.itemsize).T)
    return zlib.compress(data, GZIP_LEVEL), digest


def _digest(values: NDArray[Any]) -> bytes:
    data: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return hashlib.sha256(data).digest()


def _compare(file: OpenNeuralFile, digests: ChunkDigests, offset: Offset, job: Future[bytes]) -> None:
    if digests.by_offset.get(offset) != job.result():
        raise _different(file, offset)


def _different(file: OpenNeuralFile, offset: Offset) -> DataError:
    place = ", ".join(f"{name} {first}" for name, first in zip(file.contents.dims, offset, strict=True))
    return DataError(
        f"{file.path}: what was written differs from the source (from {place});"
        " check disk and memory, and try again"
    )
