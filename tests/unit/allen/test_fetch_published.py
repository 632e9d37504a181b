"""Sessions assembled here, and a published pickle of the same recordings converted: the same dataset."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import mvkit
from mvkit.allen.fetch import fetch_sessions
from mvkit.allen.request import SessionRequest
from mvkit.fetch.run import FetchRequest
from mvkit.neural import convert_pickle, open_neural_file
from mvkit.pipeline.reliability import measure_reliability

TIME = "time_relative_to_stimulus_onset"
SESSIONS = (7101, 7102, 7103)


@pytest.fixture(scope="module")
def converted(allen_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The truth as xarray and pandas would have pickled it, converted, with reliabilities measured."""
    truths = [np.load(allen_files / f"truth_{number}.npz") for number in SESSIONS]
    rates = np.full((50, 12, 25, sum(len(truth["unit_id"]) for truth in truths)), np.nan)
    first = 0
    for truth in truths:
        last = first + len(truth["unit_id"])
        n_trials = len(truth["present"])
        rates[:n_trials, ..., first:last] = truth["counts"] / 0.01
        rates[:n_trials, ..., first:last][~truth["present"]] = np.nan
        first = last
    columns = {
        "unit_id": np.concatenate([truth["unit_id"] for truth in truths]),
        "specimen_id": np.concatenate([np.full(len(t["unit_id"]), int(t["specimen_id"])) for t in truths]),
        "visual_area": np.concatenate([truth["visual_area"] for truth in truths]).astype(object),
        "image_selectivity_ns": np.concatenate([truth["image_selectivity"] for truth in truths]),
        "run_pval_ns": np.concatenate([truth["p_running"] for truth in truths]),
    }
    index = pd.MultiIndex.from_arrays(list(columns.values()), names=list(columns))
    edges = np.arange(26) / 100
    array = xr.DataArray(
        rates,
        dims=["trials", "frame_id", TIME, "units"],
        coords=xr.Coordinates.from_pandas_multiindex(index, "units"),
    ).assign_coords(
        # Centres as AllenSDK's presentationwise_spike_counts labels its bins.
        {"trials": np.arange(1, 51), "frame_id": np.arange(12), TIME: edges[:-1] + np.diff(edges) / 2}
    )
    folder = tmp_path_factory.mktemp("published")
    source = folder / "recording.pkl"
    source.write_bytes(pickle.dumps({"stimuli": truths[0]["stimuli"], "neural_data": array}))
    convert_pickle(source, folder / "neuropixels.h5", dataset="neuropixels")
    measure_reliability(folder / "neuropixels.h5")
    return folder / "neuropixels.h5"


@pytest.fixture(scope="module")
def assembled(allen_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file made from the sessions."""
    home = FetchRequest(tmp_path_factory.mktemp("home"))
    report = fetch_sessions(SessionRequest(folder=allen_files), home, measure=measure_reliability)
    return report.files[-1].path


def test_the_files_hold_the_same(converted: Path, assembled: Path) -> None:
    with open_neural_file(converted) as one, open_neural_file(assembled) as other:
        assert np.array_equal(one.stored[...], other.stored[...]) and one.stored.dtype == other.stored.dtype
        assert one.contents.dims == other.contents.dims
        for name in ("stimuli", "trials", "frame_ids", "time_s"):
            assert np.array_equal(getattr(one.contents, name), getattr(other.contents, name)), name
        for name, column in one.contents.unit_columns.items():
            made = other.contents.unit_columns[name]
            equal_nan = column.dtype.kind == "f"
            assert made.dtype.kind == column.dtype.kind, name
            assert np.array_equal(made, column, equal_nan=equal_nan), name
        for name, values in one.contents.reliabilities.items():
            assert np.array_equal(values, other.contents.reliabilities[name], equal_nan=True), name


@pytest.mark.parametrize("selection", ["code", "none"])
def test_users_open_the_same_dataset(converted: Path, assembled: Path, selection: str) -> None:
    one = mvkit.open_dataset(converted, selection=selection)
    other = mvkit.open_dataset(assembled, selection=selection)
    assert len(one.recordings) == len(other.recordings) > 4
    for left, right in zip(one.recordings, other.recordings, strict=True):
        assert (left.area, left.specimen, left.time_bins) == (right.area, right.specimen, right.time_bins)
        assert np.array_equal(left.unit_ids, right.unit_ids)
        assert np.array_equal(left.responses, right.responses, equal_nan=True)
