"""Open a neural file and hand out its parts, responses piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural import layout
from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.netcdf import Packing, Variable, attribute_text, dimension_names, has_values, seconds

_PLAIN = Packing()
#: Columns that say which unit, animal and area: whole numbers, whole numbers, text.
IDENTITY_COLUMNS = ("unit_id", "specimen_id", "visual_area")
#: Further columns that are computed with.
_NUMBER_COLUMNS = ("n_trials", "reliability_mean", "reliability_std", "run_pval_ns", "p_run_mod_ns")


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
        The ``responses`` as stored, axes as in ``contents.dims``; index it and pass the result
        to :meth:`decode`.
    packing
        How stored responses become measured ones.
    """

    path: Path
    contents: NeuralFileContents
    stored: Any
    packing: Packing = _PLAIN

    def read(self, *selection: slice | NDArray[Any] | int) -> NDArray[Any]:
        """Return a decoded part of the responses; axes as in ``contents.dims``.

        Parameters
        ----------
        *selection
            One index per leading axis, as h5py takes them; none reads all.

        Returns
        -------
        NDArray
            float32 (from counts) or as :meth:`decode` gives it; NaN = missing.
        """
        return self.decode(self.stored[selection if selection else ...])

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the measured values of any part of ``stored``; NaN = missing.

        Counts of mvkit become float32, other packed numbers and integers float64; floats keep
        their type.
        """
        if self.contents.holds_counts:
            return layout.decode(stored)
        values = self.packing.decode(stored)
        if values.dtype.kind == "f" and values.dtype.itemsize in (4, 8):
            return values
        return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


@contextmanager
def reading(path: Path) -> Iterator[OpenNeuralFile]:
    """Open a neural file of :mod:`mvkit.neural.layout`, or one that another library saved again.

    Attributes and names of dimensions are heeded (:mod:`mvkit.neural.netcdf`).

    Raises
    ------
    DataError
        When the file is missing, is not HDF5, is no neural file, is damaged, or holds
        values that cannot be used; the message names variable and attribute.
    """
    import h5py

    if not path.is_file():
        raise DataError(f"{path}: no such neural file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if _begins_with(path, b"CDF"):
            raise DataError(
                f'{path}: netCDF-3, not HDF5; save it with to_netcdf(path, engine="h5netcdf")'
            ) from error
        raise DataError(f"{path}: not a readable HDF5 file ({_first_line(error)})") from error
    with file:
        _check_format(path, file)
        try:
            opened = _open_variables(path, file)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"{path}: damaged neural file: {_first_line(error)}") from error
        yield opened


def _check_format(path: Path, file: Any) -> None:
    if attribute_text(file, "mvkit_format") != layout.FORMAT_NAME:
        raise DataError(
            f"{path}: not an mvkit neural file (root attribute mvkit_format is missing);"
            " write one with mvkit.neural.write_neural_file"
        )
    # netCDF writers store numeric attributes as arrays of one element.
    version = int(np.ravel(file.attrs.get("mvkit_format_version", 0))[0])
    if version > layout.FORMAT_VERSION:
        raise DataError(f"{path}: written by a newer mvkit (format {version}); update mvkit")
    for name in (layout.RESPONSES, layout.STIMULI, layout.TRIALS, layout.FRAMES):
        if name not in file or not has_values(file[name]):
            raise DataError(f"{path}: variable '{name}' is missing from the neural file")


def _open_variables(path: Path, file: Any) -> OpenNeuralFile:
    def variable(name: str) -> Variable:
        return Variable(file[name], f"{path}: variable '{name}'")

    responses = variable(layout.RESPONSES)
    if not responses.is_number or responses.data.dtype.kind == "b":
        raise DataError(f"{responses.where}: has type {responses.data.dtype}, expected numbers")
    kind = attribute_text(file, "kind")
    is_timed = kind == layout.TIME_RESOLVED
    if kind not in (layout.TIME_RESOLVED, layout.AVERAGED) or (
        responses.dims is not None and (layout.TIME in responses.dims) != is_timed
    ):
        raise ValueError(f"kind is '{kind}', but responses has dimensions {responses.dims}")
    columns: dict[str, NDArray[Any]] = {}
    reliabilities: dict[str, NDArray[np.float64]] = {}
    for name in _names_over_units(file):
        found = variable(name)
        dims = found.named_dims
        n_dims = found.data.ndim if dims is None else len(dims)
        if n_dims == 1:
            columns[name] = _column(found, name)
        elif n_dims == 2 and is_timed:
            reliabilities[name] = _numbers(found, layout.TIME, layout.UNITS).astype(np.float64, copy=False)
    contents = NeuralFileContents(
        dataset=attribute_text(file, "dataset"),
        stimuli=_stimuli(variable(layout.STIMULI)),
        trials=_labels(variable(layout.TRIALS), layout.TRIALS),
        frame_ids=_labels(variable(layout.FRAMES), layout.FRAMES),
        time_s=_times(variable(layout.TIME)) if is_timed else None,
        unit_columns=columns,
        reliabilities=reliabilities,
        units_of_measure=_units_of_measure(responses),
        response_dtype=_response_dtype(responses),
        provenance=_json(attribute_text(file, "provenance") or "{}"),
    )
    stored = responses.in_order(*contents.dims)
    if stored.shape != contents.shape:
        raise ValueError(f"responses have shape {stored.shape}, coordinates {contents.shape}")
    return OpenNeuralFile(path=path, contents=contents, stored=stored, packing=responses.packing)


def _names_over_units(file: Any) -> list[str]:
    """Return the variables over units: those that are listed, then those that the dimensions tell.

    xarray lists coordinates that another library added elsewhere than mvkit does, or not at all.
    """
    listed = attribute_text(file[layout.RESPONSES], "coordinates").split()
    names = {name: None for name in listed if name in file or name in IDENTITY_COLUMNS}
    for name, data in file.items():
        if name in layout.OWN_NAMES or not hasattr(data, "dtype") or not has_values(data):
            names.pop(name, None)
        elif name not in names and "DIMENSION_LIST" in data.attrs:
            dims = dimension_names(data, name) or ()
            if dims[:1] == (layout.UNITS,) or set(dims) == {layout.TIME, layout.UNITS}:
                names[name] = None
    return list(names)


def _column(found: Variable, name: str) -> NDArray[Any]:
    if name == "visual_area" and not found.is_text:
        values = found.read(layout.UNITS)
        if values.dtype.kind != "U":
            raise DataError(f"{found.where}: holds numbers, expected names of areas as text")
        return values
    if name in ("unit_id", "specimen_id"):
        if found.is_text:
            raise DataError(f"{found.where}: holds text, expected whole numbers")
        return _whole(found, found.read(layout.UNITS))
    return _numbers(found, layout.UNITS) if name in _NUMBER_COLUMNS else found.read(layout.UNITS)


def _numbers(found: Variable, *dims: str) -> NDArray[Any]:
    if " since " in attribute_text(found.data, "units"):
        raise DataError(f"{found.where}: attribute 'units' makes dates of it, expected numbers")
    values = found.read(*dims)
    if values.dtype.kind not in "iufb":
        raise DataError(f"{found.where}: holds text, expected numbers")
    return values


def _whole(found: Variable, values: NDArray[Any]) -> NDArray[Any]:
    """Return ids as they are; refuse what is no whole number, or too large for its type or int64."""
    if values.dtype.kind not in "iuf":
        raise DataError(f"{found.where}: holds {values.dtype}, expected whole numbers")
    there = values[~np.isnan(values)]
    stored = found.data.dtype
    if values.dtype.kind == "f":
        limit = 1 << (np.finfo(stored).nmant + 1 if stored.kind == "f" and stored.itemsize < 8 else 53)
        odd = there[there != np.trunc(there)]
        if odd.size:
            raise DataError(f"{found.where}: {odd[0]!s} is no whole number")
        if there.size and np.abs(there).max() > limit:
            raise DataError(
                f"{found.where}: {stored} cannot hold every whole number above {limit}, "
                "so ids may have changed; save it as int64"
            )
    if values.dtype.kind == "u" and there.size and int(there.max()) >= 1 << 63:
        raise DataError(f"{found.where}: {there.max()} is too large for int64")
    return values


def _labels(found: Variable, dim: str) -> NDArray[np.int64]:
    values = _whole(found, _numbers(found, dim))
    if np.isnan(values).any():
        raise DataError(f"{found.where}: {int(np.isnan(values).sum())} labels are missing")
    return values.astype(np.int64, copy=False)


def _times(found: Variable) -> NDArray[np.float64]:
    if not has_values(found.data):
        raise DataError(f"{found.where}: has no bin centres in seconds")
    values = _numbers(found, layout.TIME).astype(np.float64, copy=False)
    kind = attribute_text(found.data, "dtype")
    # As "units" a time word makes time differences of numbers, which mvkit avoids; others may not.
    for attribute in () if kind.startswith("timedelta64") else ("units", "units_of_measure"):
        if units := attribute_text(found.data, attribute):
            values = seconds(values, units, attribute, found.where)
            break
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise DataError(f"{found.where}: bin centres are missing or do not increase")
    return values


def _stimuli(found: Variable) -> NDArray[np.uint8]:
    values = _numbers(found, layout.FRAMES, layout.HEIGHT, layout.WIDTH)
    if values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    if np.isnan(values).any():
        raise DataError(
            f"{found.where}: {int(np.isnan(values).sum())} pixels are missing (NaN or _FillValue)"
        )
    pixels = np.rint(values)
    # Packing rounds to a multiple of scale_factor, so that whole numbers come back near themselves.
    slack = min(abs(found.packing.scale) / 2, 0.25) if found.packing.is_scaled else 0.0
    if (np.abs(values - pixels) > slack).any() or (pixels < 0).any() or (pixels > 255).any():
        raise DataError(f"{found.where}: holds other values than grey levels 0 to 255 ({found.data.dtype})")
    grey: NDArray[np.uint8] = pixels.astype(np.uint8)
    return grey


def _units_of_measure(responses: Variable) -> str:
    text = attribute_text(responses.data, "units_of_measure")
    if not text:
        raise DataError(
            f"{responses.where}: attribute 'units_of_measure' is missing; "
            "computing in xarray drops attributes unless keep_attrs=True"
        )
    return text


def _response_dtype(responses: Variable) -> np.dtype[Any]:
    """Return uint8 for counts as mvkit packs them, else the type of the measured values."""
    dtype: np.dtype[Any] = responses.data.dtype.newbyteorder("=")
    packing = responses.packing
    if dtype.kind == "f" and not packing.is_scaled and dtype.itemsize in (4, 8):
        return dtype
    expected = replace(
        Packing(packing.where), missing=((layout.MISSING_COUNT, 0.0),), scale=float(layout.COUNT_SCALE)
    )
    return dtype if dtype == np.uint8 and packing == expected else np.dtype(np.float64)


def _json(text: str) -> Mapping[str, object]:
    document = json.loads(text)
    return document if isinstance(document, dict) else {"text": document}


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
