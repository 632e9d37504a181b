"""Published recordings: the content of their pickles, and its conversion to that of a neural file.

A published recording is a dictionary of stimuli and an xarray DataArray. Only
its structure and small arrays are read; the responses stay in the file until
they are streamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import name_file_in_errors
from mvkit.neural import neural_file as layout
from mvkit.neural import pickle_arrays
from mvkit.neural.neural_file import NeuralFileContents
from mvkit.neural.pickle_arrays import ArrayRef, array_ref, exact_floats
from mvkit.pickle_reader import PickleFile, is_record, read_pickle

#: Published datasets: whether responses have a time axis, and what they measure.
HAS_TIME = {"neuropixels": True, "calcium": False}
MEASURE = {"neuropixels": "spikes/s", "calcium": "dF/F"}

# Words by which a dimension is recognised when it does not carry the published name.
_ROLES = {
    layout.TIME: ("time", "bin"),
    layout.UNITS: ("unit", "cell", "neuron"),
    layout.TRIALS: ("trial", "repeat", "presentation"),
    layout.FRAMES: ("frame", "image", "stim"),
}
_NUMBERED = ("unit_id", "specimen_id")
_VARIABLE = ("xarray.Variable", "xarray.IndexVariable")
_INDEX_ADAPTER = (
    "xarray.PandasIndexAdapter",
    "xarray.PandasIndexingAdapter",
    "xarray.PandasMultiIndexingAdapter",
)


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of the DataArray that is not an index.

    Attributes
    ----------
    dims
        Its dimensions.
    values
        Its numbers.
    """

    dims: tuple[str, ...]
    values: NDArray[Any]


@dataclass(frozen=True)
class PublishedRecording:
    """Content of a published pickle; the responses stay in the file.

    Attributes
    ----------
    source
        The pickle.
    stimuli
        uint8 (n_images, H, W).
    dims
        Dimension names of the responses, as written.
    responses
        Type, shape and position of the responses; axes as in ``dims``.
    labels
        Dimension -> its labels (length of the dimension,), for dimensions with a plain index.
    levels
        Dimension -> columns of its MultiIndex, one entry per label, in the order of its levels.
    coordinates
        Further coordinates, such as ``splithalf_r_mean``.
    """

    source: PickleFile
    stimuli: NDArray[Any]
    dims: tuple[str, ...]
    responses: ArrayRef
    labels: Mapping[str, NDArray[Any]]
    levels: Mapping[str, Mapping[str, NDArray[Any]]]
    coordinates: Mapping[str, Coordinate]

    def load_responses(self) -> NDArray[Any]:
        """Load all responses at once; for small files.

        Returns
        -------
        NDArray
            Of the shape and type of ``responses``, axes as in ``dims``.

        Raises
        ------
        DataError
            When they take more than 512 MiB.
        """
        return pickle_arrays.load(self.responses, PickleFile(self.source.path), "the responses")


def read_pickle_structure(path: Path) -> PublishedRecording:
    """Read a published pickle without running or importing anything it names.

    Parameters
    ----------
    path
        Pickle of protocol 2 to 5, plain or compressed by gzip or xz.

    Returns
    -------
    PublishedRecording
        Stimuli, labels and coordinates; the responses stay in the file.

    Raises
    ------
    DataError
        When the file is damaged, names anything a recording does not need, or
        is no dictionary of ``stimuli`` and ``neural_data``.
    """
    source = PickleFile(path)
    with name_file_in_errors(path):
        content = read_pickle(source)
        if not isinstance(content, dict) or not {"stimuli", "neural_data"} <= content.keys():
            raise DataError("not a published recording: expected a dictionary of 'stimuli' and 'neural_data'")
        array = _attributes(content["neural_data"], ("xarray.DataArray",), "'neural_data'")
        variable = _attributes(array.get("_variable"), _VARIABLE, "the responses")
        dims = _dims(variable, "the responses")
        responses = array_ref(variable.get("_data"), "the responses")
        if len(responses.shape) != len(dims) or len(set(dims)) < len(dims):
            raise DataError(f"the responses have shape {responses.shape} and dimensions {dims}")
        if isinstance(responses.data, list):
            raise DataError("the responses are Python objects, expected numbers")
        stimuli = pickle_arrays.load(array_ref(content["stimuli"], "'stimuli'"), source, "'stimuli'")
        sizes = dict(zip(dims, responses.shape, strict=True))
        labels, levels, coordinates = _read_coordinates(array.get("_coords"), source, sizes)
    return PublishedRecording(source, stimuli, dims, responses, labels, levels, coordinates)


def _read_coordinates(
    coords: object, source: PickleFile, sizes: Mapping[str, int]
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]], dict[str, Coordinate]]:
    """Labels of plain indexes, columns of MultiIndexes, and other coordinates; all must fit the responses."""
    labels: dict[str, NDArray[Any]] = {}
    levels: dict[str, dict[str, NDArray[Any]]] = {}
    others: dict[str, Coordinate] = {}
    if not isinstance(coords, dict):
        raise DataError("'neural_data' has no coordinates")
    for name, coordinate in coords.items():
        if not isinstance(name, str):
            raise DataError("a coordinate has a name that is not text")
        what = f"coordinate '{name}'"
        variable = _attributes(coordinate, _VARIABLE, what)
        dims, data = _dims(variable, what), variable.get("_data")
        if is_record(data, *_INDEX_ADAPTER):
            data = _attributes(data, _INDEX_ADAPTER, what).get("array")
        if pickle_arrays.is_multi_index(data):
            if dims != (name,):
                continue  # Newer xarray repeats the whole index under the name of each level.
            columns = levels[name] = pickle_arrays.level_columns(data, source, what)
        else:
            columns = {name: _values(data, source, what)}
            if dims == (name,):
                labels |= columns
            else:
                others[name] = Coordinate(dims, columns[name])
        expected = tuple(sizes.get(dim, -1) for dim in dims)
        for key, values in columns.items():
            if values.shape != expected:
                raise DataError(
                    f"'{key}' has shape {values.shape} along {dims}, which does not fit the responses"
                )
    return labels, levels, others


def _values(data: object, source: PickleFile, what: str) -> NDArray[Any]:
    if is_record(data, "pandas._new_Index"):
        return pickle_arrays.index_values(data, source, what)
    if pickle_arrays.is_array(data):
        ref = array_ref(data, what)
        if len(ref.shape) != 1:
            return pickle_arrays.load(ref, source, what)
    return pickle_arrays.column_values(data, source, what)


def _attributes(value: object, makers: tuple[str, ...], what: str) -> dict[Any, Any]:
    """Attributes of an object: a dictionary, or a pair of one and its slots."""
    if not is_record(value, *makers):
        raise DataError(f"{what} is not of a class that a published recording has there")
    states = value.state if isinstance(value.state, tuple) else (value.state,)
    attributes: dict[Any, Any] = {}
    for state in states:
        if isinstance(state, dict):
            attributes |= state
    if not attributes:
        raise DataError(f"{what} is empty")
    return attributes


def _dims(variable: Mapping[Any, Any], what: str) -> tuple[str, ...]:
    dims = variable.get("_dims")
    names = (dims,) if isinstance(dims, str) else dims
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{what} has no readable dimensions")
    return tuple(str(name) for name in names)


def axes_by_role(recording: PublishedRecording) -> dict[str, int]:
    """Return dimension of the neural file -> axis of the responses.

    Raises
    ------
    DataError
        When a dimension cannot be identified.
    """
    axes: dict[str, int] = {}
    for axis, name in enumerate(recording.dims):
        role = layout.UNITS if name in recording.levels else _role(name)
        if role is None or role in axes:
            raise DataError(
                f"dimensions {', '.join(recording.dims)}: cannot identify trials, images, time bins and units"
            )
        axes[role] = axis
    for role in (layout.TRIALS, layout.FRAMES, layout.UNITS):
        if role not in axes:
            raise DataError(f"dimensions {', '.join(recording.dims)}: none of them is '{role}'")
    return axes


def contents_of(recording: PublishedRecording, dataset: str, stored: np.dtype[Any]) -> NeuralFileContents:
    """Describe the neural file that a published recording is converted to.

    Parameters
    ----------
    recording
        Content of the pickle.
    dataset
        ``neuropixels`` or ``calcium``.
    stored
        Type to store responses in.

    Raises
    ------
    DataError
        When the recording is of the other dataset, or lacks labels or columns.
    """
    axes = axes_by_role(recording)
    if (layout.TIME in axes) != HAS_TIME[dataset]:
        other = next(name for name in HAS_TIME if name != dataset)
        has = "has a" if layout.TIME in axes else "has no"
        raise DataError(f"this recording {has} time axis, so it is not '{dataset}': is it '{other}'?")
    sizes = {role: recording.responses.shape[axis] for role, axis in axes.items()}
    frame_ids = _labels(recording, axes, layout.FRAMES)
    trials = _labels(recording, axes, layout.TRIALS)
    return NeuralFileContents(
        dataset=dataset,
        stimuli=_stimuli(recording.stimuli, frame_ids),
        trials=trials,
        frame_ids=frame_ids,
        time_s=_times(recording, axes) if layout.TIME in axes else None,
        unit_columns=_columns(recording, axes, n_trials=sizes[layout.TRIALS]),
        units_of_measure=MEASURE[dataset],
        response_dtype=stored,
        reliabilities=_reliabilities(recording, axes),
    )


def unused_coordinates(recording: PublishedRecording, contents: NeuralFileContents) -> list[str]:
    """Return names of coordinates that the neural file does not contain."""
    used = {*contents.unit_columns, *contents.reliabilities}
    return sorted(name for name in recording.coordinates if name not in used)


def _role(name: str) -> str | None:
    if name in _ROLES:
        return name
    return next((role for role, words in _ROLES.items() if any(word in name.lower() for word in words)), None)


def _labels(recording: PublishedRecording, axes: Mapping[str, int], role: str) -> NDArray[np.int64]:
    name, size = recording.dims[axes[role]], recording.responses.shape[axes[role]]
    labels = recording.labels.get(name)
    if labels is None:
        first = 1 if role == layout.TRIALS else 0
        return np.arange(first, first + size, dtype=np.int64)
    return _integers(labels, f"labels of '{name}'")


def _times(recording: PublishedRecording, axes: Mapping[str, int]) -> NDArray[np.float64]:
    name = recording.dims[axes[layout.TIME]]
    labels = recording.labels.get(name)
    if labels is None or labels.dtype.kind not in "iuf":
        raise DataError(f"'{name}' has no bin centres in seconds")
    times = labels.astype(np.float64)
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise DataError(f"bin centres in '{name}' do not increase")
    return times


def _stimuli(stimuli: NDArray[Any], frame_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    if stimuli.dtype != np.uint8 or stimuli.ndim != 3:
        raise DataError(
            f"'stimuli' is {stimuli.dtype} {stimuli.shape}, expected uint8 (images, height, width)"
        )
    n_stimuli = len(stimuli)
    if np.array_equal(frame_ids, np.arange(n_stimuli)):
        return stimuli
    # A frame's label is its row among all stimuli, also where there are responses to some of them only.
    if len(frame_ids) and frame_ids.min() >= 0 and frame_ids.max() < n_stimuli:
        return stimuli[frame_ids]
    if len(frame_ids) == n_stimuli:
        return stimuli
    raise DataError(f"{n_stimuli} stimuli, but responses to {len(frame_ids)} frames with labels outside them")


def _columns(
    recording: PublishedRecording, axes: Mapping[str, int], *, n_trials: int
) -> dict[str, NDArray[Any]]:
    name = recording.dims[axes[layout.UNITS]]
    columns = {key: _plain(column, key) for key, column in recording.levels.get(name, {}).items()}
    for key, coordinate in recording.coordinates.items():
        if coordinate.dims == (name,):
            columns.setdefault(key, _plain(coordinate.values, key))
    if "unit_id" not in columns and "cell_specimen_id" in columns:
        columns["unit_id"] = columns["cell_specimen_id"]
    for key in _NUMBERED:
        if key not in columns:
            raise DataError(f"the units have no '{key}': found {', '.join(columns) or 'no columns'}")
        columns[key] = _integers(columns[key], f"'{key}'")
    if columns.get("visual_area", np.empty(0)).dtype.kind != "U":
        raise DataError(f"the units have no 'visual_area': found {', '.join(columns)}")
    columns.setdefault("n_trials", np.full(len(columns["unit_id"]), n_trials, dtype=np.int64))
    return columns


def _reliabilities(recording: PublishedRecording, axes: Mapping[str, int]) -> dict[str, NDArray[np.float64]]:
    if layout.TIME not in axes:
        return {}
    time, units = (recording.dims[axes[role]] for role in (layout.TIME, layout.UNITS))
    reliabilities = {}
    for name, coordinate in recording.coordinates.items():
        if sorted(coordinate.dims) == sorted((time, units)) and coordinate.values.dtype.kind in "iuf":
            values = coordinate.values if coordinate.dims[0] == time else coordinate.values.T
            reliabilities[name] = values.astype(np.float64)
    return reliabilities


def _plain(column: NDArray[Any], name: str) -> NDArray[Any]:
    """The column in one of the types that a neural file holds."""
    if column.dtype.kind in "bU":
        return column
    if column.dtype.kind == "f":
        return column.astype(np.float64)
    if column.dtype.kind == "u" and len(column) and int(column.max()) >= 1 << 63:
        return exact_floats(column, f"'{name}'")
    return column.astype(np.int64)


def _integers(values: NDArray[Any], what: str) -> NDArray[np.int64]:
    if values.dtype.kind not in "iuf":
        raise DataError(f"{what} are not integers")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (np.abs(values) < 1 << 53).all()):
        raise DataError(f"{what} are missing or too large in places; every unit needs one")
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise DataError(f"{what} are not integers")
    return whole
