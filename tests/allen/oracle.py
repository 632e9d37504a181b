"""Sessions as AllenSDK's own readers give them, for mvkit's to be compared with; AllenSDK environment only.

AllenSDK opens the files, chooses areas, orders the units, counts the spikes, corrects the traces and gives
the presentations. Which presentation is which trial, and what the tables of a folder add, is mvkit's own
code; so is the mean over a presentation of imaged cells (a test compares AllenSDK's ``NaturalScenes``).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from allensdk.brain_observatory.ecephys.ecephys_session import EcephysSession
from allensdk.core.brain_observatory_nwb_data_set import BrainObservatoryNwbDataSet

from mvkit.allen import sdk
from mvkit.allen.calcium import mean_sweep_responses, order_sweeps
from mvkit.allen.folder import SessionFolder
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import AREA, UNIT_ID, SessionRecording
from mvkit.neural.nwb import Presentations, open_nwb, order_presentations, stored_images, text

#: AllenSDK's own filters are asked for nothing: they take a limit of 0 for none, and cannot keep every unit.
_NO_LIMITS = {
    "amplitude_cutoff_maximum": None,
    "presence_ratio_minimum": None,
    "isi_violations_maximum": None,
}
#: Area of a unit: as corrected by the project's table of channels, else as the file says.
_AREA_COLUMNS = ("ecephys_structure_acronym", "structure_acronym")
_METRICS = ("isi_violations", "amplitude_cutoff", "presence_ratio", "firing_rate", "snr")


def read_session(path: Path, folder: Path, request: SessionRequest) -> SessionRecording:
    """Read a session file with ``EcephysSession.from_nwb_path``; tables and images are the folder's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = EcephysSession.from_nwb_path(str(path), api_kwargs=dict(_NO_LIMITS))
        return _session(session, path, SessionFolder(folder), request)


def read_cached_session(cache: Path, request: SessionRequest, session_id: int) -> SessionRecording:
    """Read a session of a whole project cache with ``EcephysProjectCache.get_session_data``."""
    project = sdk.neuropixels_cache(argparse.Namespace(cache=str(cache), address=""))
    path = Path(project.get_cache_path(None, project.SESSION_NWB_KEY, session_id, session_id))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = project.get_session_data(session_id, **_NO_LIMITS)
        return _session(session, path, SessionFolder(cache), request)


def read_experiment(path: Path, folder: Path, request: SessionRequest) -> SessionRecording:
    """Read an experiment with ``BrainObservatoryNwbDataSet``."""
    return _experiment(BrainObservatoryNwbDataSet(str(path)), path, SessionFolder(folder), request)


def read_cached_experiment(cache: Path, request: SessionRequest, experiment_id: int) -> SessionRecording:
    """Read an experiment of the cache with ``BrainObservatoryCache.get_ophys_experiment_data``."""
    observatory = sdk.calcium_cache(argparse.Namespace(cache=str(cache), address=""))
    path = Path(observatory.get_cache_path(None, observatory.EXPERIMENT_DATA_KEY, experiment_id))
    data = observatory.get_ophys_experiment_data(experiment_id)
    return _experiment(data, path, SessionFolder(cache), request)


def _session(session: Any, path: Path, folder: SessionFolder, request: SessionRequest) -> SessionRecording:
    # AllenSDK opens and reads the file anew for everything that is asked, unless it is kept open.
    session.api._nwbfile = session.api.nwbfile
    session_id = int(session.ecephys_session_id)
    units = _chosen_units(session.units, request)
    table, shown = _presentations(session.stimulus_presentations, request.stimulus)
    counts = np.zeros((shown.n_trials, len(shown.frame_ids), request.n_bins, len(units)), dtype=np.uint16)
    if len(units):
        counted = session.presentationwise_spike_counts(
            request.edges_s, table.index.values, units.index.values
        )
        counts[shown.trial_index, shown.frame_index] = counted.values
    columns = {
        UNIT_ID: units.index.to_numpy(dtype=np.int64),
        AREA: np.array([str(area) for area in units[AREA]], dtype=np.str_),
    }
    for name in _METRICS:
        # AllenSDK gives a metric that the file lacks as a column without values.
        if name in units.columns and (units[name].notna().any() or units.empty):
            columns[name] = units[name].to_numpy(dtype=np.float64)
    images = None
    if not folder.has_templates("natural_scenes"):
        with open_nwb(path) as file:
            images = stored_images(file, request.stimulus, shown.frame_ids)
    return SessionRecording(
        session_id=session_id,
        specimen_id=folder.session_specimen(session_id, str(session.api.get_metadata()["subject_id"])),
        frame_ids=shown.frame_ids,
        responses=counts,
        present=shown.present,
        unit_columns={**columns, **folder.unit_metrics(path, session_id, columns[UNIT_ID])},
        stimuli=folder.templates("natural_scenes", shown.frame_ids) if images is None else images,
    )


def _chosen_units(units: Any, request: SessionRequest) -> Any:
    area = next(column for column in _AREA_COLUMNS if column in units.columns)
    kept = (
        units[area].isin(request.areas)
        & (units["isi_violations"] <= request.max_isi_violations)
        & (units["amplitude_cutoff"] <= request.max_amplitude_cutoff)
        & (units["presence_ratio"] >= request.min_presence_ratio)
    )
    return units[kept].rename(columns={area: AREA})


def _presentations(table: Any, stimulus: str) -> tuple[Any, Presentations]:
    table = table[table["stimulus_name"] == stimulus]
    frames = np.array([_frame(value) for value in table["frame"]], dtype=np.float64)
    starts = table["start_time"].to_numpy(dtype=np.float64)
    shown = order_presentations(starts, frames, np.zeros(len(frames), dtype=np.bool_))
    kept = table[frames >= 0]
    return kept.iloc[np.argsort(kept["start_time"].to_numpy(dtype=np.float64), kind="stable")], shown


def _frame(value: object) -> float:
    """Return a frame's number; AllenSDK says "null" where there is none."""
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else np.nan


def _experiment(data: Any, path: Path, folder: SessionFolder, request: SessionRequest) -> SessionRecording:
    metadata, table = data.get_metadata(), data.get_stimulus_table(request.stimulus)
    sweeps = order_sweeps(
        table["frame"].to_numpy(dtype=np.float64),
        table["start"].to_numpy(dtype=np.int64),
        table["end"].to_numpy(dtype=np.int64),
        len(data.get_fluorescence_timestamps()),
    )
    area = str(metadata["targeted_structure"])
    cells = np.asarray(data.get_cell_specimen_ids(), dtype=np.int64)
    if area not in request.areas:
        cells = cells[:0]
    means = np.empty((len(sweeps.start), 0))
    if len(cells):
        means = mean_sweep_responses(data.get_corrected_fluorescence_traces(cells)[1], sweeps)
    with open_nwb(path) as file:
        animal = text(file, "general/specimen_name")
    number = int(metadata["ophys_experiment_id"])
    return SessionRecording(
        session_id=number,
        specimen_id=folder.experiment_specimen(number, cells, animal),
        frame_ids=sweeps.shown.frame_ids,
        responses=sweeps.by_trial(means),
        present=sweeps.shown.present,
        unit_columns={
            UNIT_ID: cells,
            AREA: np.array([area] * len(cells), dtype=np.str_),
            "cell_specimen_id": cells,
            **folder.cell_metrics(cells),
        },
        stimuli=data.get_stimulus_template(request.stimulus)[sweeps.shown.frame_ids],
    )
