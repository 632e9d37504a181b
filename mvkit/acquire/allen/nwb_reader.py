"""Read Neuropixels sessions from NWB files with h5py alone: no AllenSDK.

Only what is asked for is read: tables of units and channels, the presentations of the stimulus, and the spike
times of one unit at a time. What is kept, counted and in which order is what AllenSDK 2.16 gives; a test
compares the two.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.folder import SESSION_TYPE, SessionFolder, number_in_name
from mvkit.acquire.allen.nwb_images import stored_images
from mvkit.acquire.allen.nwb_tables import (
    group,
    numbers,
    opening,
    ragged_ends,
    texts,
    truths,
    whole_numbers,
)
from mvkit.acquire.allen.presentations import Presentations, count_spikes, order_presentations, overlapping
from mvkit.acquire.allen.readers import H5PY, SessionSource, file_source, h5py_origin
from mvkit.acquire.allen.session import AREA, UNIT_ID, SessionRecording, SessionRequest
from mvkit.errors import DataError, UsageError

LOGGER = logging.getLogger(__name__)

ELECTRODES = "general/extracellular_ephys/electrodes"
INVALID_TIMES = "intervals/invalid_times"
#: Names of stimuli in older files, and of the column that holds the image shown.
_STIMULUS_NAMES = {"Natural Images": "natural_scenes"}
_FRAME_COLUMNS = ("frame", "Image", "image")
_STIMULUS_TAG = "stimulus"
_OUTSIDE = ("", "None")
_LIMITED = ("isi_violations", "amplitude_cutoff", "presence_ratio")
#: Further columns that are kept where the file has them.
_FURTHER = ("firing_rate", "snr")


class NwbReader:
    """Reads the session files of a folder.

    Parameters
    ----------
    folder
        Laid out as :mod:`mvkit.acquire.allen.folder` says.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = SessionFolder(folder)

    @property
    def name(self) -> str:
        """``h5py``."""
        return H5PY

    @property
    def origin(self) -> Mapping[str, object]:
        """The folder's name and the versions that read it."""
        return h5py_origin(self._folder.path)

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the sessions of the folder, ascending by number.

        Where ``sessions.csv`` tells kinds, those of another kind than ``brain_observatory_1.1`` are left out.

        Raises
        ------
        UsageError
            If the folder is missing or holds no session files.
        DataError
            If two files are of one session, or one is unreadable and its name tells no number.
        """
        rows = self._folder.rows()
        found: dict[int, Path] = {}
        for path in self._folder.session_files():
            number = number_in_name(path)
            session_id = _identifier(path) if number is None else number
            if rows.get(session_id, {}).get("session_type", SESSION_TYPE) != SESSION_TYPE:
                LOGGER.info("%s: not a %s session, left out", path, SESSION_TYPE)
                continue
            if session_id in found:
                raise DataError(f"session {session_id} is there twice: {found[session_id]} and {path}")
            found[session_id] = path
        if not found:
            raise UsageError(f"--sessions-from {self._folder.path}: no session of kind {SESSION_TYPE}")
        return tuple(
            file_source(number, found[number], self._folder.tables(found[number], number))
            for number in sorted(found)
        )

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Read one session.

        Raises
        ------
        DataError
            If the file is damaged or lacks something, or an image is missing.
        """
        if source.path is None:
            raise DataError(f"session {source.session_id}: no file")
        with opening(source.path) as file:
            session_id = int(_scalar(file, "identifier"))
            if session_id != source.session_id:
                raise DataError(f"it is session {session_id}, not {source.session_id}")
            shown = read_presentations(file, request.stimulus)
            units = choose_units(file, request)
            responses = _count(file, units, shown, request)
            subject = _subject(file)
            images = None
            if not self._folder.has_templates:
                images = stored_images(file, request.stimulus, shown.frame_ids)
        metrics = self._folder.metric_columns(source.path, session_id, units.columns[UNIT_ID])
        return SessionRecording(
            session_id=session_id,
            specimen_id=self._folder.specimen(session_id, subject),
            frame_ids=shown.frame_ids,
            responses=responses,
            present=shown.present,
            unit_columns={**units.columns, **metrics},
            stimuli=self._folder.templates(shown.frame_ids) if images is None else images,
            provenance={"file": source.path.name},
        )


@dataclass(frozen=True, eq=False)
class ChosenUnits:
    """Units to read: their rows in the table of units, and their columns, in AllenSDK's order."""

    rows: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]]


def read_presentations(file: Any, stimulus: str) -> Presentations:
    """Return the valid presentations of a stimulus.

    As in AllenSDK, a presentation that overlaps an invalid interval tagged ``stimulus`` was never made.

    Raises
    ------
    DataError
        If the session has none.
    """
    intervals = group(file, "intervals")
    start, stop, frames = [], [], []
    for name in intervals:
        if not name.endswith("_presentations"):
            continue
        table = intervals[name]
        names = texts(table, "stimulus_name")
        own = np.array([_STIMULUS_NAMES.get(str(text), str(text)) == stimulus for text in names], dtype=bool)
        if not own.any():
            continue
        column = next((column for column in _FRAME_COLUMNS if column in table), None)
        if column is None:
            raise DataError(f"'{table.name}' has no column '{_FRAME_COLUMNS[0]}'")
        start.append(numbers(table, "start_time")[own])
        stop.append(numbers(table, "stop_time")[own])
        frames.append(numbers(table, column)[own])
    if not start:
        raise DataError(f"no presentations of '{stimulus}'")
    starts, stops = np.concatenate(start), np.concatenate(stop)
    masked = overlapping(starts, stops, _invalid_intervals(file))
    try:
        return order_presentations(starts, np.concatenate(frames), masked)
    except DataError as error:
        raise DataError(f"'{stimulus}': {error}") from error


def choose_units(file: Any, request: SessionRequest) -> ChosenUnits:
    """Return the units of the wanted areas that pass the limits.

    A unit is kept if its peak channel is valid and lies in a wanted area, its quality is "good", and its
    three metrics are known and within the limits. Order: by probe, then position on it, vertical before
    horizontal; ties as in the file.

    Raises
    ------
    DataError
        If the file lacks a column.
    """
    units, channels = group(file, "units"), _channels(file)
    unit_ids = whole_numbers(units, "id")
    peak = whole_numbers(units, "peak_channel_id")
    row_of = {int(channel): row for row, channel in enumerate(channels["id"])}
    rows = np.array([row_of.get(int(channel), -1) for channel in peak], dtype=np.int64)
    metrics = {name: numbers(units, name) for name in _LIMITED}
    kept = (rows >= 0) & channels["usable"][rows] & np.isin(channels["area"][rows], request.areas)
    if "quality" in units:
        kept &= texts(units, "quality") == "good"
    # A comparison with NaN is false: unknown metrics fail, as in AllenSDK.
    kept &= metrics["isi_violations"] <= request.isi_violations
    kept &= metrics["amplitude_cutoff"] <= request.amplitude_cutoff
    kept &= metrics["presence_ratio"] >= request.presence_ratio
    chosen = np.flatnonzero(kept)
    where = rows[chosen]
    # The last key of lexsort counts first.
    keys = (channels["horizontal"][where], channels["vertical"][where], channels["probe"][where])
    order = np.lexsort(keys)
    chosen, where = chosen[order], where[order]
    columns: dict[str, NDArray[Any]] = {UNIT_ID: unit_ids[chosen], AREA: channels["area"][where]}
    columns |= {name: values[chosen] for name, values in metrics.items()}
    columns |= {name: numbers(units, name)[chosen] for name in _FURTHER if name in units}
    return ChosenUnits(chosen, columns)


def _channels(file: Any) -> dict[str, NDArray[Any]]:
    table = group(file, ELECTRODES)
    location = texts(table, "location")
    # "LGd-sh" is the shell of LGd: parts are beyond the accuracy of the annotation.
    area = np.array([text.partition("-")[0] for text in location], dtype=np.str_)
    usable = ~np.isin(location, _OUTSIDE)
    if "valid_data" in table:
        usable &= truths(table, "valid_data")
    return {
        "id": whole_numbers(table, "id"),
        "area": area,
        "usable": usable,
        "probe": texts(table, "group_name"),
        "vertical": numbers(table, "probe_vertical_position"),
        "horizontal": numbers(table, "probe_horizontal_position"),
    }


def _invalid_intervals(file: Any) -> NDArray[np.float64]:
    """Return intervals (n, 2) in seconds during which the screen failed."""
    if INVALID_TIMES not in file:
        return np.empty((0, 2))
    table = file[INVALID_TIMES]
    ends = ragged_ends(table, "tags")
    tags = texts(table, "tags")
    concern = [_STIMULUS_TAG in part for part in np.split(tags, ends[:-1])] if len(ends) else []
    both = np.stack([numbers(table, "start_time"), numbers(table, "stop_time")], axis=1)
    found: NDArray[np.float64] = both[np.array(concern, dtype=bool)]
    return found


def _count(
    file: Any, units: ChosenUnits, shown: Presentations, request: SessionRequest
) -> NDArray[np.uint16]:
    table = group(file, "units")
    ends = ragged_ends(table, "spike_times")
    starts = np.concatenate([[0], ends[:-1]])
    spikes = group(table, "spike_times")
    shape = (shown.n_trials, len(shown.frame_ids), request.n_bins, len(units.rows))
    counts = np.zeros(shape, dtype=np.uint16)
    # In the file's order, so that every chunk of spike times is read once.
    for place in np.argsort(units.rows, kind="stable"):
        row = units.rows[place]
        times = np.asarray(spikes[starts[row] : ends[row]], dtype=np.float64)
        if bool((np.diff(times) < 0).any()):
            times = np.sort(times)
        counts[shown.trial_index, shown.frame_index, :, place] = count_spikes(
            times, shown.onset_s, request.edges_s
        )
    return counts


def _identifier(path: Path) -> int:
    with opening(path) as file:
        return int(_scalar(file, "identifier"))


def _subject(file: Any) -> str:
    name = "general/subject/subject_id"
    return _scalar(file, name) if name in file else ""


def _scalar(file: Any, name: str) -> str:
    return str(group(file, name).asstr()[()])
