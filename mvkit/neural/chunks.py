"""Write a chunked HDF5 dataset whose chunks are compressed on all cores.

HDF5 compresses on one core; here threads do it (zlib frees the interpreter)
and hand HDF5 finished chunks, in a fixed order.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

GZIP_LEVEL = 4
Offset = tuple[int, ...]
_MOST_THREADS = 4
#: Chunks that may wait for a thread, or for their turn to be written.
MOST_WAITING = 2 * _MOST_THREADS


class ChunkWriter:
    """Fills a chunked dataset that was made with shuffle and gzip.

    Parameters
    ----------
    dataset
        h5py dataset.
    pool
        Threads that compress.
    strategy
        How zlib looks for repetitions; every choice gives the same format.

    Attributes
    ----------
    digests
        sha256 of the values of every chunk written, by the chunk's first index.
    """

    def __init__(
        self, dataset: Any, pool: ThreadPoolExecutor, *, strategy: int = zlib.Z_DEFAULT_STRATEGY
    ) -> None:
        self._dataset = dataset
        self._strategy = strategy
        self._pool = pool
        self.digests: dict[Offset, bytes] = {}

    def write(self, values: NDArray[Any], start: Offset) -> None:
        """Write a block whose corner lies on the chunk grid and which ends on it or at the edge.

        Parameters
        ----------
        values
            Block in the dataset's axis order and type; may be a transposed view.
        start
            Index of its first element.
        """
        chunk = self._dataset.chunks
        filler = self._dataset.fillvalue
        waiting: deque[tuple[Offset, Future[tuple[bytes, bytes]]]] = deque()
        for offset in grid(values.shape, chunk):
            part = values[chunk_slices(offset, values.shape, chunk)]
            job = self._pool.submit(_packed, part, chunk, filler, self._strategy)
            place = tuple(first + inner for first, inner in zip(start, offset, strict=True))
            waiting.append((place, job))
            if len(waiting) > MOST_WAITING:
                self._put(*waiting.popleft())
        while waiting:
            self._put(*waiting.popleft())

    def _put(self, offset: Offset, job: Future[tuple[bytes, bytes]]) -> None:
        packed, digest = job.result()
        self._dataset.id.write_direct_chunk(offset, packed)
        self.digests[offset] = digest


def compressing() -> ThreadPoolExecutor:
    """Return threads to compress with: as many as there are cores, up to four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(_MOST_THREADS, cores))


def grid(shape: Offset, chunk: Offset) -> Iterator[Offset]:
    """Yield the first index of every chunk, last axis fastest."""
    return product(*(range(0, size, step) for size, step in zip(shape, chunk, strict=True)))


def chunk_slices(offset: Offset, shape: Offset, chunk: Offset) -> tuple[slice, ...]:
    """Return where the chunk at ``offset`` lies, cut at the edge."""
    return tuple(
        slice(first, min(first + step, size)) for first, size, step in zip(offset, shape, chunk, strict=True)
    )


def digest_of(values: NDArray[Any]) -> bytes:
    """Return the sha256 of an array's values in C order."""
    data: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return hashlib.sha256(data).digest()


def _packed(part: NDArray[Any], chunk: Offset, filler: Any, strategy: int) -> tuple[bytes, bytes]:
    """Bytes of one chunk as HDF5's shuffle and gzip filters would make them, and its digest."""
    values = np.ascontiguousarray(part)
    digest = digest_of(values)
    if values.shape != chunk:
        # A chunk at the edge is stored whole.
        whole = np.full(chunk, filler, dtype=values.dtype)
        whole[tuple(slice(size) for size in values.shape)] = values
        values = whole
    data: Any = values.reshape(-1).view(np.uint8)
    if values.itemsize > 1:
        data = np.ascontiguousarray(data.reshape(-1, values.itemsize).T)
    return deflated(data, strategy), digest


def deflated(data: Any, strategy: int) -> bytes:
    """Return what HDF5's gzip filter would store for ``data``."""
    compressor = zlib.compressobj(GZIP_LEVEL, strategy=strategy)
    return compressor.compress(data) + compressor.flush()
