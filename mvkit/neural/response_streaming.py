"""Bring responses from the order they lie in a pickle into chunks of the neural file, slab by slab.

A slab spans whole chunks along the pickle's slowest axis: ten trials of the
published files, or 128 units when the array is in Fortran order. Only one is
held in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mvkit.errors import DataError
from mvkit.neural.chunks import ChunkWriter
from mvkit.neural.layout import NeuralFileContents, chunk_shape
from mvkit.neural.pickle_stream import ElementReader
from mvkit.neural.published import PublishedRecording
from mvkit.neural.published_contents import axes_by_role
from mvkit.neural.response_encoding import Encoder

#: Stored responses held in memory; chunks become thinner when a slab of the usual ones takes more.
MOST_HELD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class StreamPlan:
    """How responses go from pickle to neural file.

    Attributes
    ----------
    contents
        The neural file, with the chunk to use.
    shape
        Sizes of the axes as they lie in the pickle, slowest first.
    to_target
        Transposes that order to the neural file's.
    rows
        Entries of the slowest axis in a slab.
    """

    contents: NeuralFileContents
    shape: tuple[int, ...]
    to_target: tuple[int, ...]
    rows: int


def plan_stream(recording: PublishedRecording, contents: NeuralFileContents) -> StreamPlan:
    """Choose slabs and chunks for one recording.

    Raises
    ------
    DataError
        When a single entry of the slowest axis takes more memory than may be held.
    """
    axes = axes_by_role(recording)
    order = recording.responses.memory_order
    to_target = tuple(order.index(axes[role]) for role in contents.dims)
    shape = tuple(recording.responses.shape[axis] for axis in order)
    slow = to_target.index(0)
    row_bytes = math.prod(shape[1:]) * contents.response_dtype.itemsize
    if row_bytes > MOST_HELD_BYTES:
        raise DataError(
            f"one entry along '{contents.dims[slow]}' takes {row_bytes:,} bytes, more than can be held"
        )
    chunk = list(chunk_shape(contents))
    chunk[slow] = max(1, min(chunk[slow], MOST_HELD_BYTES // row_bytes))
    return StreamPlan(
        contents=replace(contents, chunks=tuple(chunk)), shape=shape, to_target=to_target, rows=chunk[slow]
    )


def stream_responses(
    elements: ElementReader,
    plan: StreamPlan,
    encoder: Encoder,
    writer: ChunkWriter,
) -> None:
    """Read, encode and write all responses once."""
    slab = np.empty((min(plan.rows, plan.shape[0]), *plan.shape[1:]), dtype=encoder.dtype)
    slow = plan.to_target.index(0)
    for first in range(0, plan.shape[0], plan.rows):
        part = slab[: min(plan.rows, plan.shape[0] - first)]
        flat = part.reshape(-1)
        done = 0
        while done < len(flat):
            count = min(elements.most, len(flat) - done)
            encoder.encode(elements.take(count), flat[done : done + count])
            done += count
        start = tuple(first if axis == slow else 0 for axis in range(len(plan.shape)))
        writer.write(part.transpose(plan.to_target), start)
    elements.require_end()
