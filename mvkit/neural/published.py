"""Read the structure of a published recording: a dictionary of stimuli and an xarray DataArray.

Only the structure and the small arrays are read; the responses stay in the
file until they are streamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import pickle_arrays, pickle_columns, pickle_names
from mvkit.neural.pickle_arrays import ArrayRef
from mvkit.neural.pickle_machine import load_inert
from mvkit.neural.pickle_names import is_one_of
from mvkit.neural.pickle_source import PickleSource, naming
from mvkit.neural.pickle_values import Record


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of the DataArray that is not an index.

    Attributes
    ----------
    dims
        Dimensions it lies along.
    values
        Its numbers.
    """

    dims: tuple[str, ...]
    values: NDArray[Any]


@dataclass(frozen=True)
class PublishedRecording:
    """What a published pickle holds, responses still in the file.

    Attributes
    ----------
    source
        The pickle.
    stimuli
        uint8 (n_images, H, W).
    dims
        Dimension names of the responses, as written.
    responses
        Type, shape and place of the responses; axes as in ``dims``.
    labels
        Dimension -> its labels, for dimensions with a plain index.
    levels
        Dimension -> columns of its MultiIndex, in the order of its levels.
    coordinates
        Further coordinates, such as ``splithalf_r_mean``.
    """

    source: PickleSource
    stimuli: NDArray[Any]
    dims: tuple[str, ...]
    responses: ArrayRef
    labels: Mapping[str, NDArray[Any]]
    levels: Mapping[str, Mapping[str, NDArray[Any]]]
    coordinates: Mapping[str, Coordinate]

    def load_responses(self) -> NDArray[Any]:
        """Load all responses at once; for small files.

        Raises
        ------
        DataError
            When they take more than 512 MiB.
        """
        return pickle_arrays.load(self.responses, PickleSource(self.source.path), "the responses")


def read_pickle_structure(path: Path) -> PublishedRecording:
    """Read a published pickle without running or importing anything it names.

    Parameters
    ----------
    path
        Pickle of protocol 2 to 5, plain or compressed by gzip or xz.

    Raises
    ------
    DataError
        When the file is damaged, names anything a recording does not need, or
        is no dictionary of ``stimuli`` and ``neural_data``.
    """
    source = PickleSource(path)
    with naming(path):
        return _recording(load_inert(source), source)


def _recording(content: object, source: PickleSource) -> PublishedRecording:
    if not isinstance(content, dict) or not {"stimuli", "neural_data"} <= content.keys():
        raise DataError("not a published recording: expected a dictionary of 'stimuli' and 'neural_data'")
    array = _slots(content["neural_data"], pickle_names.DATA_ARRAY, "'neural_data'")
    variable = _slots(array.get("_variable"), pickle_names.VARIABLE, "the responses")
    dims = _dims(variable, "the responses")
    responses = pickle_arrays.array_ref(variable.get("_data"), "the responses")
    if len(responses.shape) != len(dims) or len(set(dims)) < len(dims):
        raise DataError(f"the responses have shape {responses.shape} and dimensions {dims}")
    if isinstance(responses.data, list):
        raise DataError("the responses are Python objects, expected numbers")
    stimuli_ref = pickle_arrays.array_ref(content["stimuli"], "'stimuli'")
    return _with_coordinates(
        array.get("_coords"),
        PublishedRecording(
            source=source,
            stimuli=pickle_arrays.load(stimuli_ref, source, "'stimuli'"),
            dims=dims,
            responses=responses,
            labels={},
            levels={},
            coordinates={},
        ),
    )


def _with_coordinates(coords: object, bare: PublishedRecording) -> PublishedRecording:
    if not isinstance(coords, dict):
        raise DataError("'neural_data' has no coordinates")
    labels: dict[str, NDArray[Any]] = {}
    levels: dict[str, dict[str, NDArray[Any]]] = {}
    others: dict[str, Coordinate] = {}
    sizes = dict(zip(bare.dims, bare.responses.shape, strict=True))
    for name, coordinate in coords.items():
        if not isinstance(name, str):
            raise DataError("a coordinate has a name that is not text")
        what = f"coordinate '{name}'"
        variable = _slots(coordinate, pickle_names.VARIABLE, what)
        dims, data = _dims(variable, what), variable.get("_data")
        if isinstance(data, Record) and is_one_of(data.maker, pickle_names.INDEX_ADAPTER):
            data = _slots(data, pickle_names.INDEX_ADAPTER, what).get("array")
        if pickle_columns.is_multi_index(data):
            # Newer xarray repeats the whole index under the name of each level.
            if dims == (name,):
                levels[name] = pickle_columns.level_columns(data, bare.source, what)
                _check_sizes(dict.fromkeys(levels[name], (name,)), levels[name], sizes)
        elif dims == (name,):
            labels[name] = _values(data, bare.source, what)
            _check_sizes({name: dims}, {name: labels[name]}, sizes)
        else:
            others[name] = Coordinate(dims, _values(data, bare.source, what))
            _check_sizes({name: dims}, {name: others[name].values}, sizes)
    return PublishedRecording(
        source=bare.source,
        stimuli=bare.stimuli,
        dims=bare.dims,
        responses=bare.responses,
        labels=labels,
        levels=levels,
        coordinates=others,
    )


def _check_sizes(
    dims: Mapping[str, tuple[str, ...]], values: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]
) -> None:
    for name, array in values.items():
        expected = tuple(sizes.get(dim, -1) for dim in dims[name])
        if array.shape != expected:
            raise DataError(
                f"'{name}' has shape {array.shape} along {dims[name]}, which does not fit the responses"
            )


def _values(data: object, source: PickleSource, what: str) -> NDArray[Any]:
    if isinstance(data, Record) and is_one_of(data.maker, pickle_names.NEW_INDEX):
        return pickle_columns.index_values(data, source, what)
    if not pickle_arrays.is_array(data):
        return pickle_columns.column_values(data, source, what)
    ref = pickle_arrays.array_ref(data, what)
    if len(ref.shape) == 1:
        return pickle_columns.column_values(data, source, what)
    return pickle_arrays.load(ref, source, what)


def _slots(value: object, places: frozenset[tuple[str, str]], what: str) -> dict[Any, Any]:
    """Attributes of an object: a dictionary, or a pair of one and its slots."""
    if not isinstance(value, Record) or not is_one_of(value.maker, places):
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
