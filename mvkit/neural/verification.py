"""Check a neural file just written by reading all of it back."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields

import numpy as np

from mvkit.errors import DataError
from mvkit.neural.chunks import MOST_WAITING, Offset, chunk_slices, digest_of, grid
from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.layout_reading import OpenNeuralFile

_ADVICE = "check disk and memory, and try again"


def verify(
    file: OpenNeuralFile,
    wanted: NeuralFileContents,
    digests: Mapping[Offset, bytes],
    pool: ThreadPoolExecutor,
) -> None:
    """Compare everything in a file with what was to be written.

    Parameters
    ----------
    file
        The file, opened anew.
    wanted
        Everything but the responses.
    digests
        sha256 of every chunk of the responses.
    pool
        Threads that compute digests.

    Raises
    ------
    DataError
        When something is absent, unreadable or different.
    """
    for item in fields(NeuralFileContents):
        written = getattr(file.contents, item.name)
        if item.name != "chunks" and not _equal(written, getattr(wanted, item.name)):
            raise DataError(f"{file.path}: '{item.name}' as written differs from the source; {_ADVICE}")
    stored = file.stored
    waiting: deque[tuple[Offset, Future[bytes]]] = deque()
    for offset in grid(stored.shape, stored.chunks):
        try:
            part = stored[chunk_slices(offset, stored.shape, stored.chunks)]
        except OSError as error:
            raise _different(file, offset) from error
        waiting.append((offset, pool.submit(digest_of, part)))
        if len(waiting) > MOST_WAITING:
            _compare(file, digests, *waiting.popleft())
    while waiting:
        _compare(file, digests, *waiting.popleft())


def _compare(
    file: OpenNeuralFile, digests: Mapping[Offset, bytes], offset: Offset, job: Future[bytes]
) -> None:
    if digests.get(offset) != job.result():
        raise _different(file, offset)


def _different(file: OpenNeuralFile, offset: Offset) -> DataError:
    place = ", ".join(f"{name} {first}" for name, first in zip(file.contents.dims, offset, strict=True))
    return DataError(
        f"{file.path}: responses as written differ from the source (from index {place}); {_ADVICE}"
    )


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.dtype.kind == "U":
            return np.array_equal(one, other)
        # Bit for bit, which also holds for NaN and needs no memory besides.
        return (one.dtype, one.shape, digest_of(one)) == (other.dtype, other.shape, digest_of(other))
    return one == other
