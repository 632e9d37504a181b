"""The electrode half of what touches AllenSDK; for its environment only (numpy 1.23, pandas 1.5).

AllenSDK opens the files, orders the units and counts the spikes; which presentation is which trial, and what
the tables of a folder add, is decided by the same code as for the h5py reader.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.folder import SESSION_TYPE, SessionFolder
from mvkit.acquire.allen.nwb_images import stored_images
from mvkit.acquire.allen.nwb_tables import opening
from mvkit.acquire.allen.presentations import Presentations, order_presentations
from mvkit.acquire.allen.sdk_names import (
    MANIFEST_NAME,
    EcephysProjectCache,
    EcephysProjectWarehouseApi,
    EcephysSession,
    RmaEngine,
)
from mvkit.acquire.allen.session import AREA, UNIT_ID, SessionRecording, SessionRequest
from mvkit.atomic import replacing
from mvkit.errors import DataError

#: AllenSDK's own filters are asked for nothing: they take a limit of 0 for none, and cannot keep every unit.
_NO_LIMITS = {
    "amplitude_cutoff_maximum": None,
    "presence_ratio_minimum": None,
    "isi_violations_maximum": None,
}
#: Area of a unit: as corrected by the project's table of channels, else as the file says.
_AREA_COLUMNS = ("ecephys_structure_acronym", "structure_acronym")
_KEPT_METRICS = ("isi_violations", "amplitude_cutoff", "presence_ratio", "firing_rate", "snr")


def read_file(path: Path, folder: Path, request: SessionRequest, session_id: int) -> SessionRecording:
    """Read a session file with ``EcephysSession.from_nwb_path``.

    Parameters
    ----------
    path
        The file.
    folder
        Where the tables and images are that the file lacks.
    request
        What to take.
    session_id
        Which session it must be.

    Raises
    ------
    DataError
        If it is another session, has no such stimulus, or an image is missing.
    """
    with _quiet():
        session = EcephysSession.from_nwb_path(str(path), api_kwargs=dict(_NO_LIMITS))
        return _recording(session, path, SessionFolder(folder), request, session_id)


def read_cached(
    cache: Path, request: SessionRequest, session_id: int, address: tuple[str, str] | None = None
) -> SessionRecording:
    """Read a session of the project cache with ``EcephysProjectCache.get_session_data``.

    Its file must be there; what AllenSDK's tables add is asked of the warehouse unless it is there too.

    Parameters
    ----------
    cache
        Folder of the cache.
    request
        What to take.
    session_id
        The session.
    address
        Scheme and host of a warehouse; None for the Allen Institute's.

    Raises
    ------
    DataError
        As :func:`read_file`.
    """
    project = _open_cache(cache, address)
    path = Path(project.get_cache_path(None, project.SESSION_NWB_KEY, session_id, session_id))
    if not path.is_file():
        # AllenSDK would now stream the file into place, where a kill leaves a torn one.
        raise DataError(f"{path}: not downloaded yet")
    keep_table(
        Path(project.get_cache_path(None, project.SESSION_ANALYSIS_METRICS_KEY, session_id, session_id)),
        lambda: project.fetch_api.get_unit_analysis_metrics(ecephys_session_ids=[session_id]),
    )
    with _quiet():
        session = project.get_session_data(session_id, **_NO_LIMITS)
        return _recording(session, path, SessionFolder(cache), request, session_id)


def list_cached(
    cache: Path, address: tuple[str, str] | None = None, *, links: bool = True
) -> list[dict[str, object]]:
    """Return the sessions with natural scenes that the warehouse offers; its tables are kept in the cache.

    Parameters
    ----------
    cache
        Folder of the cache.
    address
        As for :func:`read_cached`.
    links
        Ask where the files are that are not in the cache.

    Returns
    -------
    list
        Of ``session_id``, ``path`` (in the cache, there or not), ``url`` ("" unless asked) and
        ``published_at``, ascending.
    """
    project = _open_cache(cache, address)
    api = project.fetch_api
    for key, fetch in (
        (project.SESSIONS_KEY, api.get_sessions),
        (project.PROBES_KEY, api.get_probes),
        (project.CHANNELS_KEY, api.get_channels),
        (project.UNITS_KEY, api.get_units),
    ):
        keep_table(Path(project.get_cache_path(None, key)), fetch)
    table = project.get_session_table(suppress=[])
    if "has_nwb" in table.columns:
        table = table[table["has_nwb"].astype(bool)]
    table = table[table["session_type"] == SESSION_TYPE].sort_index()
    where = _links(cache, address)
    rows: list[dict[str, object]] = []
    for session_id, row in table.iterrows():
        path = Path(project.get_cache_path(None, project.SESSION_NWB_KEY, session_id, session_id))
        ask = links and not path.is_file()
        rows.append(
            {
                "session_id": int(session_id),
                "path": str(path),
                "url": str(where.get_session_data(session_id)) if ask else "",
                "published_at": str(row.get("published_at", "")),
            }
        )
    return rows


def scene_links(cache: Path, address: tuple[str, str] | None = None) -> list[dict[str, object]]:
    """Return ``frame``, ``path`` in the cache and ``url`` of the natural scenes that are not in the cache."""
    project = _open_cache(cache, address)
    api = _links(cache, address)
    frames = sorted(int(frame) for frame in api.stimulus_templates["scene_number"].dropna())
    paths = {frame: Path(project.get_cache_path(None, project.NATURAL_SCENE_KEY, frame)) for frame in frames}
    return [
        {"frame": frame, "path": str(path), "url": str(api.get_natural_scene_template(frame))}
        for frame, path in paths.items()
        if not path.is_file()
    ]


def keep_table(path: Path, fetch: Any) -> None:
    """Store a table in AllenSDK's cache unless it is there; AllenSDK itself leaves half of it if killed."""
    if not path.is_file():
        with replacing(path) as temporary:
            fetch().to_csv(temporary)


class _LinkEngine(RmaEngine):  # type: ignore[misc]
    """Asks the warehouse as AllenSDK does, but tells where files are instead of streaming them."""

    def stream(self, route: str) -> str:
        return f"{self.scheme}://{self.host}/{route.lstrip('/')}"


def _links(cache: Path, address: tuple[str, str] | None) -> Any:
    engine = _open_cache(cache, address).fetch_api.rma_engine
    return EcephysProjectWarehouseApi(_LinkEngine(scheme=engine.scheme, host=engine.host))


def _open_cache(cache: Path, address: tuple[str, str] | None) -> Any:
    scheme, host = address or (None, None)
    return EcephysProjectCache.from_warehouse(scheme=scheme, host=host, manifest=str(cache / MANIFEST_NAME))


def _recording(
    session: Any, path: Path, folder: SessionFolder, request: SessionRequest, session_id: int
) -> SessionRecording:
    _open_once(session)
    if session.ecephys_session_id != session_id:
        raise DataError(f"{path}: it is session {session.ecephys_session_id}, not {session_id}")
    units = _chosen_units(session.units, request)
    table, shown = _presentations(session.stimulus_presentations, request.stimulus)
    columns = _unit_columns(units)
    return SessionRecording(
        session_id=session_id,
        specimen_id=folder.specimen(session_id, str(session.api.get_metadata()["subject_id"])),
        frame_ids=shown.frame_ids,
        responses=_counts(session, table, shown, units, request),
        present=shown.present,
        unit_columns={**columns, **folder.metric_columns(path, session_id, columns[UNIT_ID])},
        stimuli=_images(path, folder, request, shown.frame_ids),
        provenance={"file": path.name},
    )


def _images(
    path: Path, folder: SessionFolder, request: SessionRequest, frame_ids: NDArray[np.int64]
) -> NDArray[np.uint8]:
    if not folder.has_templates:
        with opening(path) as file:
            images = stored_images(file, request.stimulus, frame_ids)
        if images is not None:
            return images
    return folder.templates(frame_ids)


def _open_once(session: Any) -> None:
    """Let a session keep its file open; AllenSDK opens and reads it anew for everything that is asked."""
    session.api._nwbfile = session.api.nwbfile


def _chosen_units(units: Any, request: SessionRequest) -> Any:
    area = next(column for column in _AREA_COLUMNS if column in units.columns)
    kept = (
        units[area].isin(request.areas)
        & (units["isi_violations"] <= request.isi_violations)
        & (units["amplitude_cutoff"] <= request.amplitude_cutoff)
        & (units["presence_ratio"] >= request.presence_ratio)
    )
    return units[kept].rename(columns={area: AREA})


def _unit_columns(units: Any) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {
        UNIT_ID: units.index.to_numpy(dtype=np.int64),
        AREA: np.array([str(area) for area in units[AREA]], dtype=np.str_),
    }
    for name in _KEPT_METRICS:
        # AllenSDK gives a metric that the file lacks as a column without values.
        if name in units.columns and (units[name].notna().any() or units.empty):
            columns[name] = units[name].to_numpy(dtype=np.float64)
    return columns


def _presentations(table: Any, stimulus: str) -> tuple[Any, Presentations]:
    table = table[table["stimulus_name"] == stimulus]
    if table.empty:
        raise DataError(f"no presentations of '{stimulus}'")
    if "frame" not in table.columns:
        raise DataError(f"the presentations of '{stimulus}' have no column 'frame'")
    frames = np.array([_frame(value) for value in table["frame"]], dtype=np.float64)
    starts = table["start_time"].to_numpy(dtype=np.float64)
    shown = order_presentations(starts, frames, np.zeros(len(frames), dtype=np.bool_))
    kept = table[frames >= 0]
    return kept.iloc[np.argsort(kept["start_time"].to_numpy(dtype=np.float64), kind="stable")], shown


def _frame(value: object) -> float:
    """Return a frame's number; AllenSDK says "null" where there is none."""
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else np.nan


def _counts(
    session: Any, table: Any, shown: Presentations, units: Any, request: SessionRequest
) -> NDArray[np.uint16]:
    shape = (shown.n_trials, len(shown.frame_ids), request.n_bins, len(units))
    counts = np.zeros(shape, dtype=np.uint16)
    if len(units):
        found = session.presentationwise_spike_counts(request.edges_s, table.index.values, units.index.values)
        counts[shown.trial_index, shown.frame_index] = found.values
    return counts


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence remarks about NWB namespaces and windows that overlap, which are no news to us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def describe() -> Mapping[str, object]:
    """Return the versions that read."""
    from mvkit.versions import installed_versions

    return {"versions": installed_versions("allensdk", "pynwb", "hdmf", "numpy")}
