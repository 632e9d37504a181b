"""Neuropixels sessions in NWB files: which units are selected, and their spikes per time bin.

Only what is requested is read: tables of units and channels, the presentations of the stimulus, and the spike
times of one unit at a time. Units, counts and their order equal AllenSDK 2.16's; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.allen.folder import SessionFolder
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import AREA, UNIT_ID, SessionRecording, SessionSource
from mvkit.errors import DataError
from mvkit.neural.nwb import (
    Presentations,
    group,
    numbers,
    open_nwb,
    order_presentations,
    ragged_ends,
    stored_images,
    text,
    texts,
    truths,
    whole_numbers,
)

#: Kind of session in which the images of Brain Observatory 1.1 were shown.
SESSION_TYPE = "brain_observatory_1.1"
ELECTRODES = "general/extracellular_ephys/electrodes"
INVALID_TIMES = "intervals/invalid_times"

_SESSION_NAME = re.compile(r"(?:(?:ecephys_)?session_(\d+)|sub-[^_]+_ses-(\d+)(?:_[a-z+]+)?)")
#: Names of stimuli in older files, and of the column that holds the image shown.
_STIMULUS_NAMES = {"Natural Images": "natural_scenes"}
_FRAME_COLUMNS = ("frame", "Image", "image")
_STIMULUS_TAG = "stimulus"
_OUTSIDE = ("", "None")
_LIMITED = ("isi_violations", "amplitude_cutoff", "presence_ratio")
#: Further columns that are read where the file has them.
_FURTHER = ("firing_rate", "snr")


class NeuropixelsReader:
    """Reads the session files of a folder.

    Parameters
    ----------
    folder
        Laid out as :mod:`mvkit.allen.folder` says.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = SessionFolder(folder)

    @property
    def provenance(self) -> Mapping[str, object]:
        """The folder's name and the versions that read it."""
        return self._folder.provenance

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the sessions of the folder, ascending by number.

        Where ``sessions.csv`` has kinds, those of another kind than ``brain_observatory_1.1`` are left out.

        Raises
        ------
        UsageError
            If the folder is missing or holds no such session.
        DataError
            If two files are of one session, or one is unreadable and its name has no number.
        """

        def number(path: Path) -> int | None:
            name = _SESSION_NAME.fullmatch(path.stem)
            if name is not None:
                session_id = int(name.group(1) or name.group(2))
            else:
                with open_nwb(path) as file:
                    if "units" not in file and "intervals" not in file:
                        # Field potentials, under a name of somebody's own.
                        return None
                    session_id = _session_number(file)
            kind = self._folder.sessions.get(session_id, {}).get("session_type", SESSION_TYPE)
            return session_id if kind == SESSION_TYPE else None

        return self._folder.sources(
            number, self._folder.session_tables, requested=f"session of kind {SESSION_TYPE}"
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
        folder = self._folder
        with open_nwb(source.path) as file:
            session_id = _session_number(file)
            if session_id != source.session_id:
                raise DataError(f"it is session {session_id}, not {source.session_id}")
            shown = read_presentations(file, request.stimulus)
            units = choose_units(file, request, folder.channel_areas)
            responses = _count(file, units, shown, request)
            subject = "general/subject/subject_id"
            specimen_id = folder.session_specimen(session_id, text(file, subject) if subject in file else "")
            images = None
            if not folder.has_templates(request.stimulus):
                images = stored_images(file, request.stimulus, shown.frame_ids)
        metrics = folder.unit_metrics(source.path, session_id, units.columns[UNIT_ID])
        return SessionRecording(
            session_id=session_id,
            specimen_id=specimen_id,
            frame_ids=shown.frame_ids,
            responses=responses,
            present=shown.present,
            unit_columns={**units.columns, **metrics},
            stimuli=folder.templates(request.stimulus, shown.frame_ids) if images is None else images,
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
        names = [_STIMULUS_NAMES.get(str(one), str(one)) for one in texts(table, "stimulus_name")]
        rows = np.array([one == stimulus for one in names], dtype=bool)
        if not rows.any():
            continue
        column = next((column for column in _FRAME_COLUMNS if column in table), None)
        if column is None:
            raise DataError(f"'{table.name}' has no column '{_FRAME_COLUMNS[0]}'")
        start.append(numbers(table, "start_time")[rows])
        stop.append(numbers(table, "stop_time")[rows])
        frames.append(numbers(table, column)[rows])
    if not start:
        raise DataError(f"no presentations of '{stimulus}'")
    starts, stops = np.concatenate(start), np.concatenate(stop)
    masked = mask_overlaps(starts, stops, _invalid_intervals(file))
    try:
        return order_presentations(starts, np.concatenate(frames), masked)
    except DataError as error:
        raise DataError(f"'{stimulus}': {error}") from error


def choose_units(
    file: Any, request: SessionRequest, corrected_areas: Mapping[int, str] | None = None
) -> ChosenUnits:
    """Return the units of the requested areas that pass the limits.

    A unit is selected if its peak channel is valid and lies in a requested area, its quality is "good", and
    its three metrics are known and within the limits. Order: by probe, then position on it, vertical before
    horizontal; ties as in the file.

    Parameters
    ----------
    file
        Open HDF5 file.
    request
        Areas and limits.
    corrected_areas
        Area by channel, in place of the file's for channels in the brain.

    Raises
    ------
    DataError
        If the file lacks a column.
    """
    units, channels = group(file, "units"), _channels(file, corrected_areas or {})
    unit_ids = whole_numbers(units, "id")
    peak = whole_numbers(units, "peak_channel_id")
    row_of = {int(channel): row for row, channel in enumerate(channels["id"])}
    rows = np.array([row_of.get(int(channel), -1) for channel in peak], dtype=np.int64)
    metrics = {name: numbers(units, name) for name in _LIMITED}
    selected = (rows >= 0) & channels["usable"][rows] & np.isin(channels["area"][rows], request.areas)
    if "quality" in units:
        selected &= texts(units, "quality") == "good"
    # A comparison with NaN is false: unknown metrics fail, as in AllenSDK.
    selected &= metrics["isi_violations"] <= request.max_isi_violations
    selected &= metrics["amplitude_cutoff"] <= request.max_amplitude_cutoff
    selected &= metrics["presence_ratio"] >= request.min_presence_ratio
    chosen = np.flatnonzero(selected)
    channel = rows[chosen]
    # The last key of lexsort counts first.
    keys = (channels["horizontal"][channel], channels["vertical"][channel], channels["probe"][channel])
    order = np.lexsort(keys)
    chosen, channel = chosen[order], channel[order]
    columns: dict[str, NDArray[Any]] = {UNIT_ID: unit_ids[chosen], AREA: channels["area"][channel]}
    columns |= {name: values[chosen] for name, values in metrics.items()}
    columns |= {name: numbers(units, name)[chosen] for name in _FURTHER if name in units}
    return ChosenUnits(chosen, columns)


def _channels(file: Any, corrected_areas: Mapping[int, str]) -> dict[str, NDArray[Any]]:
    table = group(file, ELECTRODES)
    ids, location = whole_numbers(table, "id"), texts(table, "location")
    areas = [
        corrected_areas.get(int(channel), str(area)) for channel, area in zip(ids, location, strict=True)
    ]
    usable = ~np.isin(location, _OUTSIDE)
    if "valid_data" in table:
        usable &= truths(table, "valid_data")
    return {
        "id": ids,
        # "LGd-sh" is the shell of LGd: parts are beyond the accuracy of the annotation.
        "area": np.array([area.partition("-")[0] for area in areas], dtype=np.str_),
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
    of_screen = [_STIMULUS_TAG in part for part in np.split(tags, ends[:-1])] if len(ends) else []
    both = np.stack([numbers(table, "start_time"), numbers(table, "stop_time")], axis=1)
    invalid: NDArray[np.float64] = both[np.array(of_screen, dtype=bool)]
    return invalid


def mask_overlaps(
    start_s: NDArray[np.float64], stop_s: NDArray[np.float64], intervals_s: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which presentations overlap one of the intervals (n_intervals, 2); touching counts."""
    overlaps = np.zeros(len(start_s), dtype=np.bool_)
    for low, high in intervals_s:
        overlaps |= np.maximum(start_s, low) <= np.minimum(stop_s, high)
    return overlaps


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
    for index in np.argsort(units.rows, kind="stable"):
        row = units.rows[index]
        times = np.asarray(spikes[starts[row] : ends[row]], dtype=np.float64)
        if bool((np.diff(times) < 0).any()):
            times = np.sort(times)
        counts[shown.trial_index, shown.frame_index, :, index] = count_spikes(
            times, shown.onset, request.edges_s
        )
    return counts


def count_spikes(
    spike_s: NDArray[np.float64], onset_s: NDArray[np.float64], edges_s: NDArray[np.float64]
) -> NDArray[np.uint16]:
    """Count the spikes of a unit in every time bin of every presentation.

    Bins are closed at both ends, as in AllenSDK's ``presentationwise_spike_counts``, by which the published
    data were made: a spike exactly on an inner edge counts in both bins beside it. An edge is the double
    ``onset + edge``.

    Parameters
    ----------
    spike_s
        float64 (n_spikes,), ascending.
    onset_s
        float64 (n_presentations,).
    edges_s
        float64 (n_bins + 1,), after onset.

    Returns
    -------
    NDArray
        uint16 (n_presentations, n_bins).
    """
    edges = onset_s[:, None] + edges_s
    before = np.searchsorted(spike_s, edges, side="left")
    until = np.searchsorted(spike_s, edges, side="right")
    return (until[:, 1:] - before[:, :-1]).astype(np.uint16)


def _session_number(file: Any) -> int:
    for name in ("identifier", "general/session_id"):
        number = text(file, name) if name in file else ""
        if number.isdigit():
            return int(number)
    raise DataError("its 'identifier' is no number of a session")
