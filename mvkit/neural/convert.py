"""Convert a published pickle to a neural file: one pass over the responses, bounded memory, verified.

Responses go from their order in the pickle into chunks of the neural
file, slab by slab: whole chunks along the pickle's slowest axis, ten trials of
the published files, or 128 units when the array is in Fortran order. Every
stored number is decoded again and compared with the measured one, and the whole
file is read back, so that a conversion cannot change a value.
"""

from __future__ import annotations

import datetime
import logging
import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit import files
from mvkit.errors import DataError, unknown_name
from mvkit.neural import neural_file as layout
from mvkit.neural import published
from mvkit.neural.neural_file import (
    LARGEST_COUNT,
    MISSING_COUNT,
    MOST_WAITING,
    ChunkWriter,
    NeuralFileContents,
    Offset,
    OpenNeuralFile,
    chunk_grid,
    chunk_slices,
    compression_pool,
    digest_of,
    open_neural_file,
)
from mvkit.neural.pickle_arrays import ArrayStream, open_stream
from mvkit.neural.published import PublishedRecording, read_pickle_structure

LOGGER = logging.getLogger(__name__)

#: Stored responses in memory; chunks become thinner when a slab of the usual ones takes more.
MOST_SLAB_BYTES = 256 * 1024 * 1024

#: One spike in a bin of 10 ms, in spikes/s, is 1 / 0.01.
BIN_S = 0.01

# Blocks of this many elements stay in a core's cache through all steps.
_STEP = 32 * 1024
_ADVICE = "check disk and memory, and try again"


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion.

    Attributes
    ----------
    dataset
        ``neuropixels`` or ``calcium``.
    source, source_sha256, source_bytes
        The pickle on disk.
    target
        The neural file.
    n_trials, n_images, n_bins, n_units
        Sizes; n_bins is None without a time axis.
    stored_as
        ``uint8 counts``, ``float32`` or ``float64``.
    note
        Why responses could not be stored as counts; empty otherwise.
    missing_fraction
        Share of responses that are missing (NaN).
    seconds
        Time taken.
    """

    dataset: str
    source: Path
    source_sha256: str
    source_bytes: int
    target: Path
    n_trials: int
    n_images: int
    n_bins: int | None
    n_units: int
    stored_as: str
    note: str
    missing_fraction: float
    seconds: float


def convert_pickle(
    source: Path,
    target: Path,
    *,
    dataset: str,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a published pickle to a neural file.

    Nothing that the pickle names is run or imported. Neuropixels rates become
    uint8 spike counts if every one is exactly a whole count per 10 ms bin, and
    are otherwise stored as floats, as calcium responses always are. The file is
    read back and compared with the source before it appears.

    Parameters
    ----------
    source
        ``.pkl``, ``.pkl.gz`` or ``.pkl.xz``.
    target
        Neural file to create or replace.
    dataset
        ``neuropixels`` (trials, images, time bins, units; spikes/s) or
        ``calcium`` (trials, images, units; dF/F).
    progress
        Called with bytes of the (decompressed) pickle done and in all.

    Returns
    -------
    ConversionReport

    Raises
    ------
    UsageError
        For an unknown dataset.
    DataError
        When the pickle is damaged, cut short, harmful, or of the other
        dataset; or when the neural file cannot be written or differs from it.
    """
    if dataset not in published.HAS_TIME:
        raise unknown_name("published dataset", dataset, published.HAS_TIME)
    recording = read_pickle_structure(source)
    note = ""
    with files.name_file_in_errors(source):
        if dataset == "neuropixels":
            try:
                return _convert(recording, target, dataset, CountEncoder(), note, progress)
            except NotCountsError as error:
                note = str(error)
                LOGGER.warning("%s: %s; responses are stored as floats", source, note)
        floats = FloatEncoder(recording.responses.dtype)
        return _convert(recording, target, dataset, floats, note, progress)


def _convert(
    recording: PublishedRecording,
    target: Path,
    dataset: str,
    encoder: CountEncoder | FloatEncoder,
    note: str,
    progress: Callable[[int, int], None] | None,
) -> ConversionReport:
    began = time.monotonic()
    source = recording.source
    contents = published.contents_of(recording, dataset, encoder.dtype)
    contents = replace(contents, chunks=_chunks(recording, contents))
    source.cache.clear()
    with files.replacing(target) as temporary, compression_pool() as pool:
        try:
            with (
                open_stream(source, recording.responses, progress or (lambda done, total: None)) as stream,
                layout.create_neural_file(temporary, contents) as stored,
            ):
                # Counts are mostly zero and otherwise without pattern. Looking for runs only took
                # 225 MB/s where zlib's usual search took 88, and the result was 12 % smaller.
                strategy = zlib.Z_RLE if contents.holds_counts else zlib.Z_DEFAULT_STRATEGY
                writer = ChunkWriter(stored, pool, strategy=strategy)
                _write_responses(stream, recording, contents, encoder, writer)
                provenance = _provenance(recording, contents, encoder, note, stream.finish())
                layout.record_provenance(stored, provenance)
            del stream  # and its blocks, before the file is read back
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{target}: not written ({reason}); is the disk full?") from error
        with open_neural_file(temporary) as file:
            verify(file, replace(contents, provenance=provenance), writer.digests, pool)
    return ConversionReport(
        dataset=dataset,
        source=source.path,
        source_sha256=str(provenance["source_sha256"]),
        source_bytes=source.state[0],
        target=target,
        n_trials=len(contents.trials),
        n_images=len(contents.frame_ids),
        n_bins=None if contents.time_s is None else len(contents.time_s),
        n_units=contents.n_units,
        stored_as=str(provenance["stored_as"]),
        note=note,
        missing_fraction=encoder.n_missing / recording.responses.n_elements,
        seconds=time.monotonic() - began,
    )


def _chunks(recording: PublishedRecording, contents: NeuralFileContents) -> tuple[int, ...]:
    """Choose chunks so that a slab of them fits into memory."""
    shape, to_target = _memory_axes(recording, contents)
    if 0 in shape:
        raise DataError(f"the responses are empty: their shape is {recording.responses.shape}")
    slow = to_target.index(0)
    row_bytes = math.prod(shape[1:]) * contents.response_dtype.itemsize
    if row_bytes > MOST_SLAB_BYTES:
        raise DataError(
            f"one entry along '{contents.dims[slow]}' takes {row_bytes:,} bytes, more than fits in memory"
        )
    chunk = list(layout.chunk_shape(contents))
    chunk[slow] = max(1, min(chunk[slow], MOST_SLAB_BYTES // row_bytes))
    return tuple(chunk)


def _memory_axes(
    recording: PublishedRecording, contents: NeuralFileContents
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the axes in the pickle, slowest first, and their permutation to those of the neural file."""
    axes = published.axes_by_role(recording)
    order = recording.responses.memory_order
    shape = tuple(recording.responses.shape[axis] for axis in order)
    return shape, tuple(order.index(axes[role]) for role in contents.dims)


def _write_responses(
    stream: ArrayStream,
    recording: PublishedRecording,
    contents: NeuralFileContents,
    encoder: CountEncoder | FloatEncoder,
    writer: ChunkWriter,
) -> None:
    """Read, encode and write all responses once."""
    shape, to_target = _memory_axes(recording, contents)
    slow = to_target.index(0)
    rows = layout.chunk_shape(contents)[slow]
    slab = np.empty((min(rows, shape[0]), *shape[1:]), dtype=encoder.dtype)
    for first in range(0, shape[0], rows):
        part = slab[: min(rows, shape[0] - first)]
        flat = part.reshape(-1)
        done = 0
        while done < len(flat):
            count = min(stream.most, len(flat) - done)
            encoder.encode(stream.take(count), flat[done : done + count])
            done += count
        start = tuple(first if axis == slow else 0 for axis in range(len(shape)))
        writer.write(part.transpose(to_target), start)


def _provenance(
    recording: PublishedRecording,
    contents: NeuralFileContents,
    encoder: CountEncoder | FloatEncoder,
    note: str,
    sha256: str,
) -> dict[str, object]:
    from mvkit import __version__

    return {
        "source": recording.source.path.name,
        "source_sha256": sha256,
        "source_bytes": recording.source.state[0],
        # Unlike the file's, the same whether it is compressed or not.
        "pickle_bytes": recording.source.length,
        "source_dims": list(recording.dims),
        "source_dtype": str(recording.responses.dtype),
        "stored_as": "uint8 counts" if contents.holds_counts else str(encoder.dtype),
        "remark": note,
        "unused_coordinates": published.unused_coordinates(recording, contents),
        "converted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mvkit_version": __version__,
    }


class NotCountsError(DataError):
    """A response is no whole number of spikes per 10 ms bin."""


class CountEncoder:
    """Stores rates as counts: uint8 k for exactly k / 0.01 spikes/s, 255 for NaN."""

    def __init__(self) -> None:
        self.dtype = np.dtype(np.uint8)
        self.n_missing = 0
        self._rates = np.arange(LARGEST_COUNT + 2) / BIN_S
        self._rates[MISSING_COUNT] = np.nan  # never equal to a rate, so 255 is never taken for a count
        self._scaled = np.empty(_STEP)
        self._decoded = np.empty(_STEP)
        self._equal = np.empty(_STEP, dtype=bool)

    def encode(self, measured: NDArray[Any], stored: NDArray[Any]) -> None:
        """Fill ``stored`` uint8 (n,) from ``measured`` (n,), in spikes/s.

        Raises
        ------
        NotCountsError
            When a value is neither NaN nor exactly k / 0.01 with k from 0 to 254.
        """
        # NaN and rates beyond the range make arbitrary counts, which differ in the comparison.
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(measured), _STEP):
                part = measured[start : start + _STEP]
                self._encode_step(part, stored[start : start + _STEP])

    def _encode_step(self, part: NDArray[Any], stored: NDArray[Any]) -> None:
        scaled, decoded, equal = (work[: len(part)] for work in (self._scaled, self._decoded, self._equal))
        np.multiply(part, BIN_S, out=scaled)
        np.add(scaled, 0.5, out=scaled)
        np.copyto(stored, scaled, casting="unsafe")
        np.take(self._rates, stored, out=decoded, mode="clip")
        np.equal(decoded, part, out=equal)
        if equal.all():
            return
        differing = np.flatnonzero(np.logical_not(equal))
        is_missing = np.isnan(part[differing])
        if not is_missing.all():
            first = float(part[differing[np.argmin(is_missing)]])
            raise NotCountsError(f"{first!r} spikes/s is no whole number (0 to 254) of spikes per 10 ms bin")
        stored[differing] = MISSING_COUNT
        self.n_missing += len(differing)


class FloatEncoder:
    """Stores values as they are, in float32 or float64, NaN for the missing.

    Parameters
    ----------
    source_dtype
        Type of the measured values; integers are stored as float64 if that is exact.
    """

    def __init__(self, source_dtype: np.dtype[Any]) -> None:
        small = source_dtype.kind == "f" and source_dtype.itemsize <= 4
        self.dtype = np.dtype(np.float32 if small else np.float64)
        self.n_missing = 0

    def encode(self, measured: NDArray[Any], stored: NDArray[Any]) -> None:
        """Fill ``stored`` (n,) from ``measured`` (n,).

        Raises
        ------
        DataError
            When an integer is too large for float64.
        """
        for start in range(0, len(measured), _STEP):
            part, target = measured[start : start + _STEP], stored[start : start + _STEP]
            np.copyto(target, part, casting="unsafe")
            self.n_missing += int(np.count_nonzero(target != target))
            if measured.dtype.kind != "f" and not np.array_equal(target.astype(measured.dtype), part):
                raise DataError("the responses are integers too large to be stored without loss")


def verify(
    file: OpenNeuralFile,
    expected: NeuralFileContents,
    digests: Mapping[Offset, bytes],
    pool: ThreadPoolExecutor,
) -> None:
    """Compare everything in a written file with its source.

    Parameters
    ----------
    file
        The file, opened anew.
    expected
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
        if item.name != "chunks" and not _equal(written, getattr(expected, item.name)):
            raise DataError(f"{file.path}: '{item.name}' as written differs from the source; {_ADVICE}")
    stored = file.stored
    waiting: deque[tuple[Offset, Future[bytes]]] = deque()

    def compare_first() -> None:
        offset, digest = waiting.popleft()
        if digests.get(offset) != digest.result():
            raise _different(file, offset)

    for offset in chunk_grid(stored.shape, stored.chunks):
        try:
            part = stored[chunk_slices(offset, stored.shape, stored.chunks)]
        except OSError as error:
            raise _different(file, offset) from error
        waiting.append((offset, pool.submit(digest_of, part)))
        if len(waiting) > MOST_WAITING:
            compare_first()
    while waiting:
        compare_first()


def _different(file: OpenNeuralFile, offset: Offset) -> DataError:
    index = ", ".join(f"{name} {first}" for name, first in zip(file.contents.dims, offset, strict=True))
    return DataError(
        f"{file.path}: responses as written differ from the source (from index {index}); {_ADVICE}"
    )


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.dtype.kind == "U":
            return np.array_equal(one, other)
        # Bit for bit, also for NaN.
        return (one.dtype, one.shape, digest_of(one)) == (other.dtype, other.shape, digest_of(other))
    return one == other
