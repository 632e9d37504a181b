"""Open a neural file and hand out its parts, responses piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import layout
from mvkit.neural.layout import NeuralFileContents


@dataclass(frozen=True)
class OpenNeuralFile:
    """A neural file that is open for reading.

    Attributes
    ----------
    path
        The file.
    contents
        Everything but the responses.
    stored
        The ``responses`` dataset (h5py) as stored; index it and pass the result
        to :func:`mvkit.neural.layout.decode`.
    """

    path: Path
    contents: NeuralFileContents
    stored: Any

    def read(self, *selection: slice | NDArray[Any] | int) -> NDArray[Any]:
        """Return a decoded part of the responses; axes as in ``contents.dims``.

        Parameters
        ----------
        *selection
            One index per leading axis, as h5py takes them; none reads all.

        Returns
        -------
        NDArray
            float32 (from counts) or the stored float type; NaN = missing.
        """
        return layout.decode(self.stored[selection if selection else ...])


@contextmanager
def reading(path: Path) -> Iterator[OpenNeuralFile]:
    """Open a neural file of :mod:`mvkit.neural.layout`.

    Raises
    ------
    DataError
        When the file is missing, is not HDF5, is no neural file or is damaged.
    """
    import h5py

    if not path.is_file():
        raise DataError(f"{path}: no such neural file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({_first_line(error)})") from error
    with file:
        yield OpenNeuralFile(path=path, contents=_contents(path, file), stored=file[layout.RESPONSES])


def _contents(path: Path, file: Any) -> NeuralFileContents:
    if file.attrs.get("mvkit_format") != layout.FORMAT_NAME:
        raise DataError(
            f"{path}: not an mvkit neural file (root attribute mvkit_format is missing);"
            " write one with mvkit.neural.write_neural_file"
        )
    # netCDF writers store numeric attributes as arrays of one element.
    version = int(np.ravel(file.attrs.get("mvkit_format_version", 0))[0])
    if version > layout.FORMAT_VERSION:
        raise DataError(f"{path}: written by a newer mvkit (format {version}); update mvkit")
    for name in (layout.RESPONSES, layout.STIMULI, layout.TRIALS, layout.FRAMES):
        if name not in file:
            raise DataError(f"{path}: variable '{name}' is missing from the neural file")
    try:
        return _read_contents(file)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged neural file: {_first_line(error)}") from error


def _read_contents(file: Any) -> NeuralFileContents:
    responses = file[layout.RESPONSES]
    time_s = file[layout.TIME][...] if file.attrs["kind"] == layout.TIME_RESOLVED else None
    names = str(responses.attrs["coordinates"]).split()
    columns = {name: _column(file[name]) for name in names if file[name].ndim == 1}
    contents = NeuralFileContents(
        dataset=str(file.attrs["dataset"]),
        stimuli=file[layout.STIMULI][...],
        trials=file[layout.TRIALS][...],
        frame_ids=file[layout.FRAMES][...],
        time_s=time_s,
        unit_columns=columns,
        reliabilities={name: file[name][...] for name in names if file[name].ndim == 2},
        units_of_measure=str(responses.attrs["units_of_measure"]),
        response_dtype=responses.dtype,
        provenance=_json(file.attrs.get("provenance", "{}")),
    )
    if responses.shape != contents.shape:
        raise ValueError(f"responses have shape {responses.shape}, coordinates {contents.shape}")
    return contents


def _column(dataset: Any) -> NDArray[Any]:
    if dataset.dtype.kind == "O":
        return np.array(dataset.asstr()[...], dtype=str)
    if dataset.attrs.get("dtype") == "bool":
        return np.asarray(dataset[...], dtype=bool)
    return np.asarray(dataset[...])


def _json(text: object) -> Mapping[str, object]:
    document = json.loads(str(text))
    return document if isinstance(document, dict) else {"text": document}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
