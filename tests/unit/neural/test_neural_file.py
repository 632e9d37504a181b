"""The neural file: what xarray makes of it, and what is refused when writing and reading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from mvkit.errors import DataError
from mvkit.neural import (
    NeuralDataset,
    NeuralFileContents,
    create_neural_file,
    neural_file,
    open_dataset,
    open_neural_file,
)
from mvkit.neural.neural_file import chunk_shape, decode, read_unit_columns


@pytest.fixture
def contents() -> NeuralFileContents:
    """Counts of 3 trials, 4 images, 2 bins and 5 units."""
    return NeuralFileContents(
        dataset="mine",
        stimuli=np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2),
        trials=np.array([4, 5, 6]),
        frame_ids=np.array([10, 11, 12, 13]),
        time_s=np.array([0.005, 0.015]),
        unit_columns={
            "unit_id": np.arange(5),
            "visual_area": np.array(["VISp", "", "é", "a longer text", "VISl"]),
            "p": np.array([0.5, np.nan, 1.0, 0.0, -1.0]),
            "kept": np.array([True, False, True, True, False]),
        },
        units_of_measure="spikes/s",
        response_dtype=np.dtype(np.uint8),
        reliabilities={"splithalf_r_mean": np.arange(10.0).reshape(2, 5)},
        provenance={"by": "hand", "steps": [1, 2]},
    )


def write(path: Path, contents: NeuralFileContents) -> Any:
    stored = np.random.default_rng(0).integers(0, 256, contents.shape).astype(contents.response_dtype)
    with create_neural_file(path, contents) as responses:
        responses[...] = stored
    return stored


def test_xarray_decodes_counts_to_rates(tmp_path: Path, contents: NeuralFileContents) -> None:
    stored = write(tmp_path / "a.h5", contents)
    with xr.open_dataset(tmp_path / "a.h5", engine="h5netcdf") as dataset:
        wanted = np.where(stored == 255, np.nan, stored / 0.01)
        np.testing.assert_array_equal(dataset["responses"].values, wanted)
        assert dataset["responses"].dtype == np.float32
        time = dataset["time_relative_to_stimulus_onset"]
        assert time.dtype == np.float64
        assert time.values.tolist() == [0.005, 0.015]
        assert set(dataset["responses"].coords) == {
            *("trials", "frame_id", "time_relative_to_stimulus_onset"),
            *("unit_id", "visual_area", "p", "kept", "splithalf_r_mean"),
        }
        assert dataset["visual_area"].values.tolist() == ["VISp", "", "é", "a longer text", "VISl"]
        assert dataset["kept"].dtype == bool
        assert dataset["kept"].values.tolist() == [True, False, True, True, False]
        np.testing.assert_array_equal(dataset["p"].values, contents.unit_columns["p"])
        assert dataset["stimuli"].dtype == np.uint8
        assert dataset.attrs["kind"] == "time_resolved"


def test_what_is_written_is_read_again(tmp_path: Path, contents: NeuralFileContents) -> None:
    stored = write(tmp_path / "a.h5", contents)
    with open_neural_file(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.read(), decode(stored))
        np.testing.assert_array_equal(file.read(slice(1, 3), 2), decode(stored)[1:3, 2])
        assert file.contents.provenance == {"by": "hand", "steps": [1, 2]}
        assert file.contents.dims == contents.dims
        for name, column in contents.unit_columns.items():
            np.testing.assert_array_equal(file.contents.unit_columns[name], column)
        np.testing.assert_array_equal(file.contents.stimuli, contents.stimuli)
        np.testing.assert_array_equal(file.contents.frame_ids, contents.frame_ids)


def test_units_are_counted_without_reading_images(
    tmp_path: Path, contents: NeuralFileContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.h5", contents)
    monkeypatch.setattr(neural_file, "_stimuli", None)
    columns = read_unit_columns(tmp_path / "a.h5")
    assert list(columns) == list(contents.unit_columns)
    for name, column in contents.unit_columns.items():
        np.testing.assert_array_equal(columns[name], column)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["kind"] = "averaged"
    with pytest.raises(DataError, match="damaged neural file: kind is 'averaged'"):
        read_unit_columns(tmp_path / "a.h5")


def test_averaged_floats_have_no_time(tmp_path: Path, contents: NeuralFileContents) -> None:
    averaged = replace(contents, time_s=None, reliabilities={}, response_dtype=np.dtype("f4"))
    stored = write(tmp_path / "a.h5", averaged)
    with xr.open_dataset(tmp_path / "a.h5", engine="h5netcdf") as dataset:
        assert dataset["responses"].dims == ("trials", "frame_id", "units")
        np.testing.assert_array_equal(dataset["responses"].values, stored)
        assert dataset.attrs["kind"] == "averaged"


def test_unwritten_responses_read_as_missing(tmp_path: Path, contents: NeuralFileContents) -> None:
    for dtype in ("u1", "f4", "f8"):
        with create_neural_file(tmp_path / "a.h5", replace(contents, response_dtype=np.dtype(dtype))):
            pass
        with open_neural_file(tmp_path / "a.h5") as file:
            assert np.isnan(file.read()).all()


def test_chunks_follow_the_published_sizes(contents: NeuralFileContents) -> None:
    big = replace(
        contents,
        trials=np.arange(50),
        frame_ids=np.arange(118),
        time_s=np.arange(25) / 100,
        unit_columns={"unit_id": np.arange(300)},
    )
    assert chunk_shape(big) == (10, 118, 5, 128)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trials": np.arange(0)}, "empty"),
        ({"frame_ids": np.arange(3)}, "4 stimuli but responses to 3"),
        ({"stimuli": np.zeros((4, 3, 2))}, "uint8"),
        ({"response_dtype": np.dtype("i4")}, "cannot be stored"),
        ({"unit_columns": {"unit_id": np.arange(5), "p": np.arange(4)}}, "column 'p' has shape"),
        ({"unit_columns": {"a b": np.arange(5)}}, "cannot be stored under that name"),
        ({"unit_columns": {"responses": np.arange(5)}}, "cannot be stored under that name"),
        ({"unit_columns": {"a": np.array(["x\0y"] * 5)}}, "zero bytes"),
        ({"reliabilities": {"r": np.zeros((5, 2))}}, "column 'r' has shape"),
        ({"time_s": None}, "expected|need responses with a time axis"),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    tmp_path: Path, contents: NeuralFileContents, change: dict[str, Any], reason: str
) -> None:
    with (
        pytest.raises(DataError, match=reason),
        create_neural_file(tmp_path / "a.h5", replace(contents, **change)),
    ):
        pass
    assert not (tmp_path / "a.h5").exists()


def test_other_files_are_refused(tmp_path: Path, contents: NeuralFileContents) -> None:
    path = tmp_path / "a.h5"

    def refused(reason: str) -> None:
        with pytest.raises(DataError, match=reason), open_neural_file(path):
            pass

    refused("no such neural file")
    path.write_bytes(b"not HDF5 at all")
    refused("not a readable HDF5 file")
    with h5py.File(path, "w") as file:
        file["responses"] = np.zeros(3)
    refused("not an mvkit neural file")
    for change, reason in {
        "version": "newer mvkit",
        "stimuli": "variable 'stimuli' is missing",
        "unit_id": "damaged",
        "kind": "damaged",
    }.items():
        write(path, contents)
        with h5py.File(path, "r+") as file:
            if change == "version":
                file.attrs["mvkit_format_version"] = 99
            elif change == "kind":
                file.attrs["kind"] = "averaged"
            else:
                del file[change]
        refused(reason)


def test_a_movie_says_its_frame_rate_and_its_width(tmp_path: Path) -> None:
    responses = {"VISp": np.random.default_rng(0).gamma(1.0, size=(4, 6, 3))}
    frames = np.random.default_rng(1).integers(0, 256, (6, 8, 9), dtype=np.uint8)
    movie = NeuralDataset.from_arrays(responses, frames, frame_rate_hz=29.97, field_of_view_deg=90)
    path = movie.save(tmp_path / "movie.h5")
    with open_neural_file(path) as file:
        contents = file.contents
    assert (contents.frame_rate_hz, contents.field_of_view_deg) == (29.97, 90)
    opened = open_dataset(path, selection="none")
    assert (opened.frame_rate_hz, opened.field_of_view_deg) == (29.97, 90)
    assert opened.in_areas(["VISp"]).frame_rate_hz == 29.97
    still = NeuralDataset.from_arrays(responses, frames).save(tmp_path / "still.h5")
    assert open_dataset(still).frame_rate_hz is None and open_dataset(still).field_of_view_deg is None
    with h5py.File(still) as file:
        assert not {"frame_rate_hz", "field_of_view_deg"} & set(file["stimuli"].attrs)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("frame_rate_hz", -1.0, "frame_rate_hz is -1.0; needed: frames per second"),
        ("frame_rate_hz", np.nan, "frame_rate_hz is nan"),
        ("frame_rate_hz", "fast", "attribute 'frame_rate_hz' of 'stimuli' is"),
        ("field_of_view_deg", 361.0, "field_of_view_deg is 361.0"),
    ],
)
def test_wrong_attributes_of_movies(tmp_path: Path, attribute: str, value: object, message: str) -> None:
    responses = {"VISp": np.random.default_rng(0).gamma(1.0, size=(4, 6, 3))}
    frames = np.zeros((6, 8, 9), dtype=np.uint8)
    path = NeuralDataset.from_arrays(responses, frames, frame_rate_hz=30).save(tmp_path / "movie.h5")
    with h5py.File(path, "r+") as file:
        file["stimuli"].attrs[attribute] = value
    with pytest.raises(DataError, match=message), open_neural_file(path):
        pass


def test_a_movie_with_a_gap_is_none() -> None:
    responses = {"VISp": np.random.default_rng(0).gamma(1.0, size=(4, 3, 3))}
    frames = np.zeros((3, 8, 9), dtype=np.uint8)
    with pytest.raises(DataError, match=r"3 comes after 1 \(1 such places\)"):
        NeuralDataset.from_arrays(responses, frames, frame_ids=[0, 1, 3], frame_rate_hz=30)
