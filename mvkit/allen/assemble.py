"""Assembles staged sessions into one neural file, laid out as those of the published recordings.

Units come session by session, ascending by number, each session's in its own order. Images that a session did
not show, and presentations that others have and it has not, are missing (NaN).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.allen.request import SessionRequest
from mvkit.allen.session import AREA, RUN_P, SELECTIVITY, UNIT_ID, SessionOutline, SessionRecording, Staging
from mvkit.errors import DataError
from mvkit.neural import neural_file as layout
from mvkit.neural.convert import verify
from mvkit.neural.neural_file import (
    LARGEST_COUNT,
    MISSING_COUNT,
    ChunkWriter,
    NeuralFileContents,
    compression_pool,
    open_neural_file,
)
from mvkit.neural.published import MEASURE

Progress = Callable[[int, int], None]

#: Columns in the order of the published recordings; others follow.
_FIRST = (UNIT_ID, "specimen_id", AREA, "session_id", SELECTIVITY, RUN_P, "n_trials")


def describe_sessions(
    outlines: Sequence[SessionOutline],
    staging: Staging,
    request: SessionRequest,
    *,
    provenance: Mapping[str, object],
) -> NeuralFileContents:
    """Return all of a neural file but the responses.

    Parameters
    ----------
    outlines
        Sessions, ascending by number.
    staging
        Where they and their images are stored.
    request
        What was read from them.
    provenance
        To be stored in the file.

    Raises
    ------
    DataError
        If no session has a unit, two have the same one, columns do not fit together, or images are gone.
    """
    if not any(outline.n_units for outline in outlines):
        raise DataError(
            f"no unit in any of {len(outlines)} session(s): {', '.join(request.areas)}\n"
            "choose other areas, or wider limits on the quality of units"
        )
    _check_duplicates(outlines)
    names: dict[int, str] = {}
    for outline in outlines:
        names |= outline.image_names
    frame_ids = np.array(sorted(names), dtype=np.int64)
    n_trials = max(outline.n_trials for outline in outlines)
    dtype, reason = _stored_type(outlines, request)
    return NeuralFileContents(
        dataset=request.name,
        frame_rate_hz=request.frame_rate_hz,
        field_of_view_deg=request.field_of_view_deg,
        stimuli=staging.images([names[frame] for frame in sorted(names)]),
        # Labels of the published recordings begin with 1.
        trials=np.arange(1, n_trials + 1, dtype=np.int64),
        frame_ids=frame_ids,
        time_s=request.centres_s if _has_time(outlines) else None,
        unit_columns=_columns(outlines, n_trials),
        units_of_measure=MEASURE[request.dataset],
        response_dtype=dtype,
        provenance={
            **provenance,
            "sessions": [outline.to_json() for outline in outlines],
            "stored_as": "uint8 counts" if dtype == np.uint8 else str(dtype),
            "remark": reason,
        },
    )


def assemble(
    target: Path,
    contents: NeuralFileContents,
    outlines: Sequence[SessionOutline],
    staging: Staging,
    *,
    request: SessionRequest,
    progress: Progress,
) -> None:
    """Write the neural file and read it back; memory is that of one session and one column of chunks.

    Parameters
    ----------
    target
        File to write; not atomically.
    contents
        From :func:`describe_sessions`, as are the further parameters.
    progress
        Called with units done and in all.

    Raises
    ------
    DataError
        If a staged session is damaged, or the file differs from what was to be written.
    OSError
        If the disk is full or fails.
    """
    with compression_pool() as pool:
        with layout.create_neural_file(target, contents) as stored:
            # Counts are mostly zero and otherwise without pattern, see mvkit.neural.convert.
            strategy = zlib.Z_RLE if contents.holds_counts else zlib.Z_DEFAULT_STRATEGY
            writer = ChunkWriter(stored, pool, strategy=strategy)
            sessions = (staging.load(outline.session_id) for outline in outlines if outline.n_units)
            for first, values in _blocks(contents, sessions, request):
                writer.write(values, (*(0 for _ in contents.shape[:-1]), first))
                progress(first + values.shape[-1], contents.n_units)
        with open_neural_file(target) as file:
            verify(file, replace(contents, provenance=file.contents.provenance), writer.digests, pool)


def _blocks(
    contents: NeuralFileContents, sessions: Iterator[SessionRecording], request: SessionRequest
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first unit, values), a column of the file's chunks at a time."""
    width = layout.chunk_shape(contents)[-1]
    filled, first = 0, 0
    values = _missing(contents, min(width, contents.n_units))
    for session in sessions:
        frames = np.searchsorted(contents.frame_ids, session.frame_ids)
        done = 0
        while done < session.n_units:
            n_units = min(values.shape[-1] - filled, session.n_units - done)
            part = _encode(session, slice(done, done + n_units), contents, request)
            values[: part.shape[0], frames, ..., filled : filled + n_units] = part
            done, filled = done + n_units, filled + n_units
            if filled == values.shape[-1]:
                yield first, values
                first, filled = first + filled, 0
                values = _missing(contents, min(width, contents.n_units - first))


def _missing(contents: NeuralFileContents, n_units: int) -> NDArray[Any]:
    filler = MISSING_COUNT if contents.holds_counts else np.nan
    return np.full((*contents.shape[:-1], n_units), filler, dtype=contents.response_dtype)


def _encode(
    session: SessionRecording, units: slice, contents: NeuralFileContents, request: SessionRequest
) -> NDArray[Any]:
    """Return some units' responses as they are stored."""
    measured = session.responses[..., units]
    if measured.dtype.kind == "f":
        return measured.astype(contents.response_dtype)
    absent = ~session.present.reshape(*session.present.shape, *(1 for _ in measured.shape[2:]))
    if contents.holds_counts:
        return np.where(absent, np.uint8(MISSING_COUNT), measured.astype(np.uint8))
    rates = measured * (1000.0 / request.bin_ms)
    return np.where(absent, np.nan, rates).astype(contents.response_dtype)


def _check_duplicates(outlines: Sequence[SessionOutline]) -> None:
    """Check that no cell was imaged in two experiments: the user has to choose one of them."""
    all_units = np.concatenate([outline.unit_columns[UNIT_ID] for outline in outlines])
    units, counts = np.unique(all_units, return_counts=True)
    if (counts > 1).any():
        unit = int(units[counts > 1][0])
        ids = [str(one.session_id) for one in outlines if unit in one.unit_columns[UNIT_ID]]
        raise DataError(
            f"unit {unit} is in sessions {', '.join(ids)}\n"
            f"leave all but one of them out: --exclude-sessions {','.join(ids[1:] or ids)}"
        )


def _stored_type(outlines: Sequence[SessionOutline], request: SessionRequest) -> tuple[np.dtype[Any], str]:
    """Return the type of the stored responses, and why it is not the usual one."""
    if not _has_time(outlines):
        return np.result_type(*(outline.dtype for outline in outlines)), ""
    largest = max(outline.largest for outline in outlines)
    if not request.holds_counts:
        return np.dtype(np.float32), f"bins of {request.bin_ms:g} ms: rates instead of counts"
    if largest > LARGEST_COUNT:
        return np.dtype(np.float32), f"{largest} spikes in a bin are no count to be stored: rates instead"
    return np.dtype(np.uint8), ""


def _has_time(outlines: Sequence[SessionOutline]) -> bool:
    kinds = {outline.dtype.kind for outline in outlines}
    if len(kinds) > 1:
        raise DataError("some sessions hold counts and others averaged responses")
    return kinds == {"u"}


def _columns(outlines: Sequence[SessionOutline], n_trials: int) -> dict[str, NDArray[Any]]:
    counts = [outline.n_units for outline in outlines]
    added: dict[str, NDArray[Any]] = {
        "specimen_id": np.repeat(np.array([one.specimen_id for one in outlines], dtype=np.int64), counts),
        "session_id": np.repeat(np.array([one.session_id for one in outlines], dtype=np.int64), counts),
        # Sessions with fewer trials are padded, as in the published recordings: all have as many.
        "n_trials": np.full(sum(counts), n_trials, dtype=np.int64),
    }
    names = dict.fromkeys(name for outline in outlines for name in outline.unit_columns)
    columns = {name: _concatenate(outlines, name) for name in names if name not in added} | added
    return {name: columns[name] for name in (*_FIRST, *names) if name in columns}


def _concatenate(outlines: Sequence[SessionOutline], name: str) -> NDArray[Any]:
    """Concatenate a column; sessions without it get NaN, or "" in a column of text."""
    having = [outline for outline in outlines if name in outline.unit_columns and outline.n_units]
    texts = {outline.unit_columns[name].dtype.kind == "U" for outline in having}
    if len(texts) > 1:
        raise DataError(f"unit column '{name}' is text in some sessions and numbers in others")
    missing = "" if texts == {True} else np.nan
    parts = [
        outline.unit_columns[name] if name in outline.unit_columns else np.full(outline.n_units, missing)
        for outline in outlines
        if outline.n_units
    ]
    column: NDArray[Any] = np.concatenate(parts)
    if column.dtype.kind in "bU":
        return column
    return column.astype(np.float64 if column.dtype.kind == "f" else np.int64)
