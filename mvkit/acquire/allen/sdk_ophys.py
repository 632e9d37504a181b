"""The imaging half of what touches AllenSDK; like :mod:`mvkit.acquire.allen.sdk`, for its environment only.

AllenSDK opens the files, corrects the traces and tells the presentations; the mean of each is taken by the
same code as for the h5py reader. AllenSDK's own (``NaturalScenes.mean_sweep_response``) keeps every sweep of
every cell in tables of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.nwb_tables import opening
from mvkit.acquire.allen.ophys_folder import OphysFolder
from mvkit.acquire.allen.ophys_reader import BLOCK, check_experiment, finish
from mvkit.acquire.allen.readers import SessionSource
from mvkit.acquire.allen.sdk_names import (
    MANIFEST_NAME,
    BrainObservatoryCache,
    BrainObservatoryNwbDataSet,
    json_utilities,
)
from mvkit.acquire.allen.session import SessionRecording, SessionRequest
from mvkit.acquire.allen.sweeps import Sweeps, mean_sweep_responses, order_sweeps
from mvkit.atomic import replacing
from mvkit.errors import DataError

_FILE_TYPE = "NWBOphys"


def read_file(path: Path, folder: Path, request: SessionRequest, experiment_id: int) -> SessionRecording:
    """Read an experiment with ``BrainObservatoryNwbDataSet``.

    Parameters
    ----------
    path
        The file.
    folder
        Where the tables of cells and experiments are.
    request
        What to take.
    experiment_id
        Which experiment it must be.

    Raises
    ------
    DataError
        If the file is damaged, is another experiment, or has no such stimulus.
    """
    with opening(path) as file:
        check_experiment(file, experiment_id)
        return _recording(BrainObservatoryNwbDataSet(str(path)), file, path, folder, request, experiment_id)


def read_cached(
    cache: Path, request: SessionRequest, experiment_id: int, address: tuple[str, str] | None = None
) -> SessionRecording:
    """Read an experiment of AllenSDK's cache with ``BrainObservatoryCache.get_ophys_experiment_data``.

    Its file must be there.

    Parameters
    ----------
    cache
        Folder of the cache.
    request
        What to take.
    experiment_id
        The experiment.
    address
        Scheme and host of a warehouse; None for the Allen Institute's.

    Raises
    ------
    DataError
        As :func:`read_file`.
    """
    observatory = _open_cache(cache, address)
    path = _path(observatory, experiment_id)
    if not path.is_file():
        # AllenSDK would now download into place, where a kill leaves a torn file.
        raise DataError(f"{path}: not downloaded yet")
    with opening(path) as file:
        check_experiment(file, experiment_id)
        data = observatory.get_ophys_experiment_data(experiment_id)
        return _recording(data, file, path, cache, request, experiment_id)


def list_cached(
    cache: Path, address: tuple[str, str] | None, *, stimulus: str, areas: list[str]
) -> list[dict[str, object]]:
    """Return the experiments with a stimulus that the warehouse offers; its tables are kept in the cache.

    Parameters
    ----------
    cache
        Folder of the cache.
    address
        As for :func:`read_cached`.
    stimulus, areas
        What must have been shown, and where imaged.

    Returns
    -------
    list
        Of ``session_id``, ``path`` (in the cache, there or not), ``url`` and ``published_at``, ascending.
    """
    observatory = _open_cache(cache, address)
    api = observatory.api
    _keep(_table(observatory, observatory.CELL_SPECIMENS_KEY), lambda: list(api.get_cell_metrics()))
    path = _table(observatory, observatory.EXPERIMENTS_KEY)
    _keep(path, api.get_ophys_experiments)
    # get_ophys_experiments of the cache asks the network about eye tracking each time, even offline.
    rows = api.filter_ophys_experiments(
        json_utilities.read(str(path)), targeted_structures=areas, stimuli=[stimulus]
    )
    return [
        {
            "session_id": int(row["id"]),
            "path": str(_path(observatory, int(row["id"]))),
            "url": _link(api, row),
            "published_at": str(row.get("published_at") or ""),
        }
        for row in sorted(rows, key=lambda row: int(row["id"]))
    ]


def _recording(
    data: Any, file: Any, path: Path, folder: Path, request: SessionRequest, experiment_id: int
) -> SessionRecording:
    table = data.get_stimulus_table(request.stimulus)
    n_samples = len(data.get_fluorescence_timestamps())
    sweeps = order_sweeps(
        table["frame"].to_numpy(dtype=np.float64),
        table["start"].to_numpy(dtype=np.int64),
        table["end"].to_numpy(dtype=np.int64),
        n_samples,
    )
    area = str(data.get_metadata()["targeted_structure"])
    cells = np.asarray(data.get_cell_specimen_ids(), dtype=np.int64)
    if area not in request.areas:
        cells = cells[:0]
    means = [np.empty((len(sweeps.start), 0)), *_means(data, cells, sweeps, n_samples)]
    return finish(
        file,
        SessionSource(experiment_id, path),
        request,
        OphysFolder(folder),
        sweeps=sweeps,
        cells=cells,
        area=area,
        means=np.concatenate(means, axis=1),
    )


def _means(
    data: Any, cells: NDArray[np.int64], sweeps: Sweeps, n_samples: int
) -> Iterator[NDArray[np.float64]]:
    for first in range(0, len(cells), BLOCK):
        _, traces = data.get_corrected_fluorescence_traces(cells[first : first + BLOCK])
        if traces.shape[1] != n_samples:
            raise DataError(f"traces of {traces.shape[1]} samples, but {n_samples} times")
        yield mean_sweep_responses(traces, sweeps)


def _open_cache(cache: Path, address: tuple[str, str] | None) -> Any:
    base = "://".join(address) if address else None
    return BrainObservatoryCache(manifest_file=str(cache / MANIFEST_NAME), base_uri=base)


def _path(observatory: Any, experiment_id: int) -> Path:
    return Path(observatory.get_cache_path(None, observatory.EXPERIMENT_DATA_KEY, experiment_id))


def _table(observatory: Any, key: str) -> Path:
    return Path(observatory.get_cache_path(None, key))


def _keep(path: Path, fetch: Callable[[], Any]) -> None:
    """Store a table in AllenSDK's cache unless it is there; AllenSDK itself leaves half of it if killed."""
    if not path.is_file():
        with replacing(path) as temporary:
            json_utilities.write(str(temporary), fetch())


def _link(api: Any, row: dict[str, Any]) -> str:
    for one in row.get("well_known_files") or ():
        if (one.get("well_known_file_type") or {}).get("name") == _FILE_TYPE and one.get("download_link"):
            return f"{api.api_url}{one['download_link']}"
    return ""
