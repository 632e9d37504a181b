"""Read calcium imaging experiments from NWB-1 files with h5py alone: no AllenSDK.

What is kept, measured and in which order is what AllenSDK 2.16 gives; a test compares the two. Traces are
read some cells at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.nwb_images import stored_images
from mvkit.acquire.allen.nwb_tables import group, opening, whole_numbers
from mvkit.acquire.allen.ophys_folder import CELL_ID, OphysFolder, number_in_name
from mvkit.acquire.allen.readers import H5PY, SessionSource, file_source, h5py_origin
from mvkit.acquire.allen.session import AREA, UNIT_ID, SessionRecording, SessionRequest
from mvkit.acquire.allen.sweeps import Sweeps, mean_sweep_responses, order_sweeps
from mvkit.errors import DataError, UsageError

LOGGER = logging.getLogger(__name__)

#: Cells read at a time.
BLOCK = 16
_PIPELINE = "processing/brain_observatory_pipeline"
_FLUORESCENCE = f"{_PIPELINE}/Fluorescence"
_PRESENTATION = "stimulus/presentation"
_LOCATION = "general/optophysiology/imaging_plane_1/location"
_EXPERIMENT_ID = "general/session_id"
_CONTAINER_ID = "general/experiment_container_id"
#: Files of this pipeline and later keep demixed traces, and neuropil in a series of its own.
_DEMIXED_SINCE = 2


class OphysReader:
    """Reads the experiments of a folder.

    Parameters
    ----------
    folder
        Laid out as :mod:`mvkit.acquire.allen.ophys_folder` says.
    request
        What will be taken: experiments without the stimulus, or of other areas, are left out.
    """

    def __init__(self, folder: Path, request: SessionRequest) -> None:
        self._folder = OphysFolder(folder)
        self._request = request

    @property
    def name(self) -> str:
        """``h5py``."""
        return H5PY

    @property
    def origin(self) -> Mapping[str, object]:
        """The folder's name and the versions that read it."""
        return h5py_origin(self._folder.path)

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the experiments that showed the stimulus in the wanted areas, ascending by number.

        Raises
        ------
        UsageError
            If the folder is missing or holds none.
        DataError
            If two files are of one experiment, or one is unreadable and its name tells no number.
        """
        found: dict[int, Path] = {}
        for path in self._folder.experiment_files():
            experiment_id = self._wanted(path)
            if experiment_id is None:
                LOGGER.info("%s: other stimuli or another area, left out", path)
            elif experiment_id in found:
                raise DataError(f"experiment {experiment_id} is there twice: {found[experiment_id]}, {path}")
            elif not self._folder.is_failed(experiment_id):
                found[experiment_id] = path
        if not found:
            raise UsageError(
                f"--sessions-from {self._folder.path}: no imaging experiment with "
                f"'{self._request.stimulus}' in {', '.join(self._request.areas)}"
            )
        return tuple(file_source(number, found[number], self._folder.tables) for number in sorted(found))

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Read one experiment.

        Raises
        ------
        DataError
            If the file is damaged or lacks something.
        """
        if source.path is None:
            raise DataError(f"session {source.session_id}: no file")
        with opening(source.path) as file:
            check_experiment(file, source.session_id)
            sweeps = read_sweeps(file, request.stimulus)
            cells = whole_numbers(group(file, f"{_PIPELINE}/ImageSegmentation"), "cell_specimen_ids")
            area = _text(file, _LOCATION)
            if area not in request.areas:
                cells = cells[:0]
            blocks = [mean_sweep_responses(part, sweeps) for part in _traces(file, len(cells))]
            return finish(
                file,
                source,
                request,
                self._folder,
                sweeps=sweeps,
                cells=cells,
                area=area,
                means=np.concatenate([np.empty((len(sweeps.start), 0)), *blocks], axis=1),
            )

    def _wanted(self, path: Path) -> int | None:
        """Return the number of an experiment that is to be read, None for another one."""
        number = number_in_name(path)
        try:
            with opening(path) as file:
                shown = _presentation(file, self._request.stimulus)
                if shown is None or _text(file, _LOCATION) not in self._request.areas:
                    return None
                return int(_text(file, _EXPERIMENT_ID))
        except DataError:
            if number is None:
                raise
            # Reading it will fail, and tell so beside those that can be read.
            return number


def read_sweeps(file: Any, stimulus: str) -> Sweeps:
    """Return the presentations of a stimulus.

    Raises
    ------
    DataError
        If the experiment has none.
    """
    shown = _presentation(file, stimulus)
    if shown is None:
        raise DataError(f"no presentations of '{stimulus}'")
    frames = np.asarray(group(shown, "data")[...], dtype=np.float64).reshape(-1)
    limits = np.asarray(group(shown, "frame_duration")[...]).astype(np.int64)
    if limits.shape != (len(frames), 2):
        raise DataError(f"'{shown.name}': {len(frames)} frames, but durations of shape {limits.shape}")
    n_samples = group(file, f"{_FLUORESCENCE}/imaging_plane_1/timestamps").shape[0]
    return order_sweeps(frames, limits[:, 0], limits[:, 1], n_samples)


def finish(
    file: Any,
    source: SessionSource,
    request: SessionRequest,
    folder: OphysFolder,
    *,
    sweeps: Sweeps,
    cells: NDArray[np.int64],
    area: str,
    means: NDArray[np.float64],
) -> SessionRecording:
    """Return the recording of an experiment whose responses were measured.

    Parameters
    ----------
    file
        The open file, for images and names.
    source, request, folder
        The experiment, what is taken of it, and the tables beside it.
    sweeps
        Presentations.
    cells
        int64 (n_units,), their ids.
    area
        Where they lie.
    means
        float64 (n_presentations, n_units).

    Raises
    ------
    DataError
        If the file holds no images.
    """
    images = stored_images(file, request.stimulus, sweeps.shown.frame_ids)
    if images is None:
        raise DataError(f"it has no images 'stimulus/templates/{request.stimulus}_image_stack' of 8 bits")
    columns: dict[str, NDArray[Any]] = {
        UNIT_ID: cells,
        AREA: np.array([area] * len(cells), dtype=np.str_),
        CELL_ID: cells,
        **folder.metric_columns(cells),
    }
    container = _text(file, _CONTAINER_ID) if _CONTAINER_ID in file else ""
    name = "general/specimen_name"
    return SessionRecording(
        session_id=source.session_id,
        specimen_id=folder.specimen(source.session_id, cells, _text(file, name) if name in file else ""),
        frame_ids=sweeps.shown.frame_ids,
        responses=sweeps.arranged(means),
        present=sweeps.shown.present,
        unit_columns=columns,
        stimuli=images,
        provenance={
            "file": source.path.name if source.path else "",
            "experiment_container_id": int(container) if container.isdigit() else None,
            "presentation_samples": sweeps.length,
        },
    )


def check_experiment(file: Any, experiment_id: int) -> None:
    """Refuse the file of another experiment.

    Raises
    ------
    DataError
        Naming both.
    """
    found = int(_text(file, _EXPERIMENT_ID))
    if found != experiment_id:
        raise DataError(f"it is experiment {found}, not {experiment_id}")


def _presentation(file: Any, stimulus: str) -> Any:
    """Return the group of a stimulus, None if there is none."""
    names = (f"{_PRESENTATION}/{stimulus}", f"{_PRESENTATION}/{stimulus}_stimulus")
    return next((file[name] for name in names if name in file), None)


def _traces(file: Any, n_cells: int) -> Iterator[NDArray[Any]]:
    """Yield corrected fluorescence (some cells, n_samples) in the order of the file."""
    series = group(file, f"{_FLUORESCENCE}/imaging_plane_1")
    if _pipeline_version(file) >= _DEMIXED_SINCE:
        around = group(file, f"{_FLUORESCENCE}/imaging_plane_1_neuropil_response")
        signal = group(file, f"{_FLUORESCENCE}/imaging_plane_1_demixed_signal/data")
        neuropil, share = group(around, "data"), group(around, "r")[...]
    else:
        signal, neuropil = group(series, "data"), group(series, "neuropil_traces")
        share = group(series, "r")[...]
    expected = (signal.shape[0], group(series, "timestamps").shape[0])
    if not signal.shape == neuropil.shape == expected or len(share) != expected[0] or expected[0] < n_cells:
        raise DataError(
            f"traces {signal.shape}, neuropil {neuropil.shape} and {expected[1]} times do not fit {n_cells} "
            "cells: the file is cut short?"
        )
    # Rows of one chunk are unpacked together.
    step = max(BLOCK, signal.chunks[0] if signal.chunks else 0)
    for first in range(0, n_cells, step):
        part = slice(first, min(first + step, n_cells))
        yield signal[part] - neuropil[part] * share[part, None]


def _pipeline_version(file: Any) -> int:
    """Return the first number of the pipeline's version: it ends what the file says of its making."""
    name = "general/generated_by"
    if name not in file:
        return 0
    told = file[name][()]
    text = _decoded(told.reshape(-1)[-1]) if isinstance(told, np.ndarray) else _decoded(told)[-1:]
    try:
        return int(text.partition(".")[0])
    except ValueError as error:
        raise DataError(f"'{name}' ends with '{text}', expected a version") from error


def _text(file: Any, name: str) -> str:
    value = group(file, name)[()]
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    return _decoded(value)


def _decoded(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
