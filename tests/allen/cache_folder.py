"""Write made-up sessions as AllenSDK's project cache would lay them out; AllenSDK environment only."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nwb_files import METRICS, SAMPLING_HZ, channel_of, probe_ids, write_session
from PIL import Image
from sessions import Session, expected_counts, kept_units

AREAS = ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam")
SESSION_TYPE = "brain_observatory_1.1"


def write_folder(folder: Path, sessions: Sequence[Session], templates: np.ndarray) -> None:
    """Write session files, tables and templates in the layout of AllenSDK's project cache.

    Parameters
    ----------
    folder
        Where; made if missing.
    sessions
        What was recorded.
    templates
        uint8 (n_frames, height, width).
    """
    for session in sessions:
        write_session(session, session_path(folder, session))
        metrics = session_path(folder, session).with_name(
            f"session_{session.session_id}_analysis_metrics.csv"
        )
        _write_csv(metrics, analysis_rows(session))
    for name, rows in tables(sessions).items():
        _write_csv(folder / f"{name}.csv", rows)
    for number, image in enumerate(templates):
        path = folder / "natural_scene_templates" / f"natural_scene_{number}.tiff"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)


def session_path(folder: Path, session: Session) -> Path:
    """Return where a session's file lies in such a folder."""
    return folder / f"session_{session.session_id}" / f"session_{session.session_id}.nwb"


def write_truth(path: Path, session: Session, templates: np.ndarray) -> None:
    """Write what a reader must make of a session, as computed by comparing spikes with bins."""
    units = kept_units(session, AREAS)
    frames, present, counts = expected_counts(session, units)
    half_open = expected_counts(session, units, closed=False)[2]
    np.savez_compressed(
        path,
        session_id=np.int64(session.session_id),
        specimen_id=np.int64(session.specimen_id),
        frame_ids=frames,
        present=present,
        counts=counts,
        counts_half_open=half_open,
        unit_id=np.array([unit.unit_id for unit in units]),
        visual_area=np.array([unit.area for unit in units]),
        image_selectivity=np.array([unit.image_selectivity for unit in units]),
        p_running=np.array([unit.p_running for unit in units]),
        stimuli=templates[frames],
        **{name: np.array([getattr(unit, name) for unit in units]) for name in METRICS},
    )


def tables(sessions: Sequence[Session]) -> dict[str, list[dict[str, object]]]:
    """Return the rows of the project's tables, as the warehouse gives them."""
    return {
        "sessions": [row for session in sessions for row in _session_rows(session)],
        "probes": [row for session in sessions for row in _probe_rows(session)],
        "channels": [row for session in sessions for row in _channel_rows(session)],
        "units": [row for session in sessions for row in _unit_rows(session)],
    }


def analysis_rows(session: Session) -> list[dict[str, object]]:
    """Return the rows of a session's analysis metrics."""
    return [
        {
            "ecephys_unit_id": unit.unit_id,
            "image_selectivity_ns": unit.image_selectivity,
            "p_value_running_ns": unit.p_running,
        }
        for unit in session.units
    ]


def _session_rows(session: Session) -> list[dict[str, object]]:
    return [
        {
            "id": session.session_id,
            "published_at": "2019-10-03T00:00:00Z",
            "specimen_id": session.specimen_id,
            "session_type": SESSION_TYPE,
            "age_in_days": 100.0,
            "sex": "M",
            "genotype": "wt/wt",
            "has_nwb": True,
        }
    ]


def _probe_rows(session: Session) -> list[dict[str, object]]:
    return [
        {
            "id": probe_id,
            "ecephys_session_id": session.session_id,
            "name": name,
            "phase": "3a",
            "sampling_rate": SAMPLING_HZ,
            "lfp_sampling_rate": 2500.0,
            "lfp_temporal_subsampling_factor": 2.0,
            "has_lfp_data": False,
            "air_channel_index": 380,
            "surface_channel_index": 360,
        }
        for name, probe_id in probe_ids(session).items()
    ]


def _channel_rows(session: Session) -> list[dict[str, object]]:
    channels = {channel_of(session, unit): unit for unit in session.units}
    places = sorted({unit.area for unit in session.units} - {""})
    return [
        {
            "id": channel_id,
            "ecephys_probe_id": probe_ids(session)[unit.probe],
            "local_index": number,
            "probe_horizontal_position": unit.horizontal_um,
            "probe_vertical_position": unit.vertical_um,
            "anterior_posterior_ccf_coordinate": 1.0,
            "dorsal_ventral_ccf_coordinate": 2.0,
            "left_right_ccf_coordinate": 3.0,
            "ecephys_structure_id": 300 + places.index(unit.area) if unit.area else None,
            "ecephys_structure_acronym": unit.area or None,
        }
        for number, (channel_id, unit) in enumerate(sorted(channels.items()))
    ]


def _unit_rows(session: Session) -> list[dict[str, object]]:
    return [
        {
            "id": unit.unit_id,
            "ecephys_channel_id": channel_of(session, unit),
            "quality": unit.quality,
            "firing_rate": len(unit.spikes_s) / 100,
            **{name: None if np.isnan(getattr(unit, name)) else getattr(unit, name) for name in METRICS},
        }
        for unit in session.units
    ]


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
