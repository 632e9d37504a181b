"""Small recordings, pickled by the installed numpy, pandas and xarray as a user's re-save would be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.typing import NDArray

TIME = "time_relative_to_stimulus_onset"


@dataclass(frozen=True)
class Pickled:
    """A pickle and what it holds."""

    path: Path
    values: NDArray[Any]
    stimuli: NDArray[np.uint8]
    columns: dict[str, list[Any]]
    reliability: NDArray[np.float64] | None


@pytest.fixture
def pickled(tmp_path: Path) -> Callable[..., Pickled]:
    """Return a maker of pickled recordings; sizes leave partial chunks on every axis.

    ``order`` is C, F, or K for an array that is a transposed view; ``dims``
    reorders the dimensions; ``change`` edits the values before they are pickled.
    """

    def make(
        *,
        has_time: bool = True,
        protocol: int = 4,
        order: str = "C",
        dims: tuple[str, ...] = (),
        dtype: str = "f8",
        change: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
        name: str = "recording.pkl",
    ) -> Pickled:
        rng = np.random.default_rng(3)
        n_units, n_bins = 140, 7
        sizes = {"trials": 12, "frame_id": 4} | ({TIME: n_bins} if has_time else {}) | {"units": n_units}
        values = rng.poisson(2.0, tuple(sizes.values())) / 0.01
        if not has_time:
            values = rng.normal(size=tuple(sizes.values()))
        if np.dtype(dtype).kind == "f":
            values[5, 2, ..., 3:9] = np.nan
        values = change(values.astype(dtype))
        columns: dict[str, list[Any]] = {
            "unit_id" if has_time else "cell_specimen_id": list(range(900, 900 + n_units)),
            "specimen_id": [7 + unit // 50 for unit in range(n_units)],
            "visual_area": [["VISp", "VISam", None][unit % 3] for unit in range(n_units)],
            "run_pval_ns": [float(value) for value in rng.uniform(size=n_units)],
        }
        columns["run_pval_ns"][4] = np.nan
        index = pd.MultiIndex.from_arrays(list(columns.values()), names=list(columns))
        # Published files are of the time before xarray.Coordinates, which the oldest xarray lacks.
        has_coordinates = hasattr(xr, "Coordinates")
        coords = (
            xr.Coordinates.from_pandas_multiindex(index, "units") if has_coordinates else {"units": index}
        )
        array = xr.DataArray(values, dims=list(sizes), coords=coords)
        array = array.assign_coords(trials=np.arange(1, 13), frame_id=np.arange(4))
        reliability = None
        if has_time:
            reliability = rng.uniform(size=(n_bins, n_units))
            reliability[:, 2] = np.nan
            array = array.assign_coords({TIME: 0.005 + 0.01 * np.arange(n_bins)})
            array = array.assign_coords(splithalf_r_mean=((TIME, "units"), reliability))
        array = array.transpose(*(dims or array.dims))
        array.data = _laid_out(array.data, order)
        stimuli = rng.integers(0, 256, (4, 9, 11), dtype=np.uint8)
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"stimuli": stimuli, "neural_data": array}, protocol=protocol))
        return Pickled(path, values, stimuli, columns, reliability)

    return make


def _laid_out(values: NDArray[Any], order: str) -> NDArray[Any]:
    if order == "K":
        axes = (*range(1, values.ndim), 0)
        return np.ascontiguousarray(values.transpose(axes)).transpose(np.argsort(axes))
    return np.asarray(values, order=order)
