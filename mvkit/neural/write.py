"""Write a neural file from plain arrays: bring your own recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

import mvkit
from mvkit.atomic import replacing
from mvkit.errors import DataError
from mvkit.neural import layout
from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.recording import (
    Recording,
    area_sort_key,
    as_text,
    joined_column,
    plain_array,
    some,
    whole_numbers,
)

_OWN_COLUMNS = ("unit_id", "specimen_id", "visual_area", "n_trials")


def write_neural_file(
    path: str | Path,
    recordings: Sequence[Recording],
    *,
    stimuli: ArrayLike,
    units_of_measure: str,
    name: str | None = None,
    source: str | Mapping[str, object] = "",
    frame_ids: ArrayLike | None = None,
) -> Path:
    """Write recordings to a neural file that ``mvkit score --dataset PATH`` reads.

    Everything is checked before the file appears, and it appears whole or not
    at all. Values come back exactly as float32; values that float32 cannot
    hold are stored as float64. NaN marks a missing presentation. Recordings
    may differ in their number of trials; the file pads the shorter ones and
    reading takes the padding off again.

    Parameters
    ----------
    path
        File to write, for example ``my_recordings.h5``; replaced if it exists.
    recordings
        One per area and specimen, from :meth:`Recording.from_arrays`. Further
        columns may differ between recordings; missing entries become NaN or
        "". With a column ``reliability_mean`` (split-half reliability of each
        unit) the default selection applies its thresholds on opening;
        ``mvkit fetch reliability FILE`` measures it afterwards.
    stimuli
        uint8 (n_images, height, width), grey, in the order of the responses.
    units_of_measure
        Of the values, for example ``"spikes/s"`` or ``"dF/F"``.
    name
        Name of the dataset; default: the file's name without ending.
    source
        Where the values come from: text or a mapping; kept as provenance.
    frame_ids
        Whole numbers (n_images,), labels of the images; default 0, 1, ...

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        Naming the recording and the field that is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from mvkit.neural import Recording, write_neural_file
    >>> values = np.random.default_rng(0).poisson(5.0, size=(50, 118, 7))
    >>> mouse = Recording.from_arrays(values, unit_ids=range(7), area="VISp", specimen=1)
    >>> images = np.zeros((118, 64, 64), dtype=np.uint8)
    >>> path = write_neural_file(
    ...     "mine.h5", [mouse], stimuli=images, units_of_measure="spikes/s"
    ... )  # doctest: +SKIP
    """
    target = Path(path).expanduser()
    contents, ordered = describe(
        recordings,
        stimuli=stimuli,
        units_of_measure=units_of_measure,
        name=target.stem if name is None else name,
        source=source,
        frame_ids=frame_ids,
    )
    with replacing(target) as temporary, layout.creating(temporary, contents) as stored:
        for units, values in unit_blocks(contents, ordered):
            stored[:, :, units] = values
    return target


def describe(
    recordings: Sequence[Recording],
    *,
    stimuli: ArrayLike,
    units_of_measure: str,
    name: str,
    source: str | Mapping[str, object] = "",
    frame_ids: ArrayLike | None = None,
) -> tuple[NeuralFileContents, list[Recording]]:
    """Check recordings and return all of a neural file but the responses, and the order of recordings.

    Parameters and errors are those of :func:`write_neural_file`.
    """
    images = _checked_stimuli(stimuli)
    if not recordings:
        raise DataError("no recordings to write")
    units_of_measure = as_text(units_of_measure, "units_of_measure")
    if not units_of_measure.strip():
        raise DataError("units_of_measure is empty; say what the values are, for example 'spikes/s'")
    for recording in recordings:
        _check_recording(recording, len(images))
    ordered = sorted(recordings, key=lambda rec: (area_sort_key(rec.area), rec.specimen))
    _check_no_two_alike(ordered)
    wide = any(recording.responses.dtype == np.float64 for recording in ordered)
    contents = NeuralFileContents(
        dataset=as_text(name, "name"),
        stimuli=images,
        trials=np.arange(max(recording.n_trials for recording in ordered), dtype=np.int64),
        frame_ids=_checked_frame_ids(frame_ids, len(images)),
        time_s=None,
        unit_columns=_unit_columns(ordered),
        units_of_measure=units_of_measure,
        response_dtype=np.dtype(np.float64 if wide else np.float32),
        provenance={
            **(source if isinstance(source, Mapping) else {"source": source}),
            "written_by": f"mvkit {mvkit.__version__}",
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return contents, ordered


def unit_blocks(
    contents: NeuralFileContents, ordered: Sequence[Recording]
) -> Iterator[tuple[slice, NDArray[np.floating]]]:
    """Yield (units, values (n_trials, n_images, units)), a column of the file's chunks at a time."""
    starts = np.cumsum([0, *(recording.n_units for recording in ordered)]).tolist()
    width = layout.chunk_shape(contents)[-1]
    for first in range(0, contents.n_units, width):
        last = min(first + width, contents.n_units)
        values = np.full((*contents.shape[:2], last - first), np.nan, dtype=contents.response_dtype)
        for recording, start in zip(ordered, starts, strict=False):
            begin, end = max(first, start), min(last, start + recording.n_units)
            if begin < end:
                own = recording.responses[:, :, begin - start : end - start]
                values[: recording.n_trials, :, begin - first : end - first] = own
        yield slice(first, last), values


def _checked_stimuli(stimuli: ArrayLike) -> NDArray[np.uint8]:
    images = plain_array(stimuli, "stimuli")
    if images.dtype.kind == "f" and np.ma.is_masked(stimuli):
        raise DataError("stimuli have masked pixels; fill them, for every image was shown whole")
    if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape:
        raise DataError(
            f"stimuli must be uint8 (n_images, height, width), grey, not {images.dtype} {images.shape}"
        )
    return images


def _checked_frame_ids(frame_ids: ArrayLike | None, n_images: int) -> NDArray[np.int64]:
    if frame_ids is None:
        return np.arange(n_images, dtype=np.int64)
    ids = whole_numbers(frame_ids, "frame_ids")
    if ids.shape != (n_images,) or len(np.unique(ids)) != n_images:
        raise DataError(f"frame_ids must be {n_images} different whole numbers, one per stimulus")
    return ids


def _check_recording(recording: Recording, n_images: int) -> None:
    label = recording.label
    if not recording.area.strip():
        raise DataError(f"{label}: area is empty")
    if 0 in recording.responses.shape:
        raise DataError(f"{label}: values are empty: shape {recording.responses.shape}")
    if recording.n_images != n_images:
        raise DataError(f"{label}: values have {recording.n_images} images (second axis), stimuli {n_images}")
    if np.isinf(recording.responses).any():
        raise DataError(f"{label}: values hold infinity; mark missing presentations with NaN")
    silent = np.isnan(recording.responses).all(axis=(0, 1))
    if silent.any():
        raise DataError(
            f"{label}: values of unit {some(recording.unit_ids[silent])} are all NaN; leave it out"
        )
    for name, column in recording.units.items():
        if name in _OWN_COLUMNS:
            raise DataError(f"{label}: column '{name}' is written by mvkit itself; choose another name")
        if column.dtype.kind not in "fiubUO":
            raise DataError(f"{label}: column '{name}' has type {column.dtype}; use numbers or text")


def _check_no_two_alike(ordered: Sequence[Recording]) -> None:
    seen: set[tuple[str, int]] = set()
    for recording in ordered:
        if (recording.area, recording.specimen) in seen:
            raise DataError(f"{recording.label}: given twice; join the units of one specimen and area")
        seen.add((recording.area, recording.specimen))


def _unit_columns(ordered: Sequence[Recording]) -> dict[str, NDArray[np.generic]]:
    counts = [recording.n_units for recording in ordered]
    columns: dict[str, NDArray[np.generic]] = {
        "unit_id": np.concatenate([recording.unit_ids for recording in ordered]),
        "specimen_id": np.repeat(np.array([rec.specimen for rec in ordered], dtype=np.int64), counts),
        "visual_area": np.repeat(np.array([rec.area for rec in ordered], dtype=object), counts),
        "n_trials": np.repeat(np.array([rec.n_trials for rec in ordered], dtype=np.int64), counts),
    }
    for name in dict.fromkeys(name for recording in ordered for name in recording.units):
        columns[name] = joined_column(ordered, name)
    return columns
