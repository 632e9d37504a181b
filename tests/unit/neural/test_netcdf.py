"""Neural files that another library saved again: the same values, or a refusal that names why."""

from __future__ import annotations

from collections.abc import Callable
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
    Recording,
    create_neural_file,
    open_dataset,
    open_neural_file,
    write_neural_file,
)
from mvkit.neural.netcdf import TransposedDataset, Variable
from mvkit.pipeline.reliability import measure_reliability

N_IMAGES = 9
STIMULI = np.random.default_rng(1).integers(0, 256, (N_IMAGES, 4, 3), dtype=np.uint8)
TIME = "time_relative_to_stimulus_onset"
Change = Callable[[xr.Dataset], xr.Dataset]


@pytest.fixture
def averaged(tmp_path: Path) -> Path:
    """Two animals in two areas with 6 and 4 trials, ids beyond what float32 holds, missing presentations."""
    draws = np.random.default_rng(0)
    recordings = []
    for place, (area, specimen, n_units, n_trials) in enumerate(
        [("VISp", 717038285, 5, 6), ("VISl", 717038285, 3, 6), ("VISp", 9, 4, 4)]
    ):
        values = draws.uniform(1, 10, (n_trials, N_IMAGES, n_units)).astype(np.float32)
        values[1, 2] = np.nan
        columns = {
            "reliability_mean": draws.uniform(0.75, 1, n_units),
            "layer": np.array(["L4"] * n_units),
            "kept": np.arange(n_units) % 2 == 0,
        }
        ids = 950000001 + 100 * place + np.arange(n_units)
        recordings.append(
            Recording.from_arrays(values, unit_ids=ids, area=area, specimen=specimen, units=columns)
        )
    path = tmp_path / "averaged.h5"
    return write_neural_file(path, recordings, stimuli=STIMULI, units_of_measure="dF/F")


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    """Counts of 6 trials, 4 bins and 7 units, with reliabilities per bin."""
    draws = np.random.default_rng(2)
    contents = NeuralFileContents(
        dataset="timed",
        stimuli=STIMULI,
        trials=np.arange(1, 7),
        frame_ids=np.arange(N_IMAGES),
        time_s=np.array([0.005, 0.015, 0.025, 0.035]),
        unit_columns={
            "unit_id": 950000001 + np.arange(7),
            "specimen_id": np.array([1, 1, 1, 1, 2, 2, 2]),
            "visual_area": np.array(["VISp"] * 4 + ["VISl"] * 3),
            "n_trials": np.full(7, 6),
            "run_pval_ns": draws.uniform(0.1, 1, 7),
        },
        units_of_measure="spikes/s",
        response_dtype=np.dtype(np.uint8),
        reliabilities={"splithalf_r_mean": draws.uniform(0.5, 1, (4, 7))},
    )
    path = tmp_path / "timed.h5"
    with create_neural_file(path, contents) as responses:
        counts = draws.poisson(2.0, contents.shape).astype(np.uint8)
        counts[3, 5] = 255
        responses[...] = counts
    return path


def saved_again(
    path: Path,
    change: Change = lambda data: data,
    encoding: dict[str, Any] | None = None,
    after: Callable[[Any], object] | None = None,
) -> Path:
    """The file as xarray saves it, without the encoding that it had."""
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        data = opened.load()
    for part in (data, *data.variables.values()):
        part.encoding = {}
    target = path.with_name("again.h5")
    change(data).to_netcdf(target, engine="h5netcdf", encoding=encoding)
    if after is not None:
        with h5py.File(target, "r+") as file:
            after(file)
    return target


def assert_same(found: NeuralDataset, expected: NeuralDataset, tolerance: float = 0.0) -> None:
    np.testing.assert_array_equal(found.stimuli, expected.stimuli)
    np.testing.assert_array_equal(found.frame_ids, expected.frame_ids)
    assert found.units_of_measure == expected.units_of_measure
    assert [rec.label for rec in found.recordings] == [rec.label for rec in expected.recordings]
    for one, other in zip(found.recordings, expected.recordings, strict=True):
        np.testing.assert_array_equal(one.unit_ids, other.unit_ids)
        np.testing.assert_allclose(one.responses, other.responses, rtol=1e-6, atol=tolerance)
        assert one.time_bins == other.time_bins
        for name, column in other.units.items():
            if column.dtype.kind == "f":
                np.testing.assert_allclose(one.units[name], column, atol=tolerance)
            else:
                np.testing.assert_array_equal(one.units[name], column)


def packed(dtype: str, **more: object) -> dict[str, Any]:
    return {"responses": {"dtype": dtype, **more}}


#: Name -> change, encoding, and how far averaged responses may be off.
SAME: dict[str, tuple[Change, dict[str, Any] | None, float]] = {
    "as it was": (lambda data: data, None, 0),
    "_FillValue of floats": (lambda data: data, packed("float32", _FillValue=-9999.0), 0),
    "both fill values": (
        lambda data: data,
        packed("float32", _FillValue=-9999.0, missing_value=-9999.0),
        0,
    ),
    "float64, 1e20": (lambda data: data, packed("float64", _FillValue=1e20), 0),
    "big-endian": (lambda data: data, packed(">f4", _FillValue=-9999.0), 0),
    "int16": (lambda data: data, packed("int16", scale_factor=0.001, _FillValue=-32768), 6e-4),
    "int32 with offset": (
        lambda data: data,
        packed("int32", scale_factor=1e-5, add_offset=-3.0, _FillValue=-1),
        1e-5,
    ),
    "uint8": (lambda data: data, packed("uint8", scale_factor=0.05, _FillValue=255), 0.026),
    "units first": (lambda data: data.transpose("units", ...), None, 0),
    "everything reversed": (
        lambda data: data.transpose("x", "y", "units", TIME, ..., missing_dims="ignore"),
        None,
        0,
    ),
    "packed and transposed": (
        lambda data: data.transpose("units", "frame_id", ...),
        packed("int16", scale_factor=0.001, _FillValue=-32768),
        6e-4,
    ),
    "coordinates as variables": (lambda data: data.reset_coords(), None, 0),
    "compressed": (lambda data: data, {"responses": {"zlib": True, "complevel": 4}}, 0),
    "ids as floats with fill": (
        lambda data: data,
        {"unit_id": {"dtype": "float64", "_FillValue": -1.0}, "specimen_id": {"dtype": "uint32"}},
        0,
    ),
    "areas as characters": (lambda data: data, {"visual_area": {"dtype": "S1"}}, 0),
    "areas as bytes": (
        lambda data: data.assign_coords(visual_area=("units", data.visual_area.values.astype("S"))),
        None,
        0,
    ),
    "stimuli as floats": (
        lambda data: data.assign(stimuli=data.stimuli.astype("f4")),
        {"stimuli": {"_FillValue": -9999.0}},
        0,
    ),
    "stimuli packed": (
        lambda data: data.assign(stimuli=data.stimuli.astype("f8")),
        {"stimuli": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -9999}},
        0,
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_averaged_responses_saved_again_are_the_same(averaged: Path, name: str) -> None:
    change, encoding, tolerance = SAME[name]
    expected = open_dataset(averaged, selection="none")
    path = saved_again(averaged, change, encoding)
    assert_same(open_dataset(path, selection="none"), expected, tolerance)
    # The copy with reliabilities keeps the packing, and is decoded once.
    measured = measure_reliability(path, out=path.with_name("measured.h5"), replace=True)
    wanted = measure_reliability(averaged, out=path.with_name("wanted.h5"), replace=True)
    np.testing.assert_allclose(measured.mean, wanted.mean, atol=1e-6 + 3 * tolerance)
    again = open_dataset(measured.target, selection="none")
    np.testing.assert_allclose(again.responses(), expected.responses(), rtol=1e-6, atol=tolerance)
    np.testing.assert_array_equal(again.unit_table()["reliability_mean"].notna(), True)
    with xr.open_dataset(measured.target, engine="h5netcdf") as opened:
        np.testing.assert_array_equal(opened["reliability_mean"].values, measured.mean)


@pytest.mark.parametrize("name", [name for name, (_, _, tolerance) in SAME.items() if not tolerance])
def test_counts_saved_again_are_the_same(timed: Path, name: str) -> None:
    change, encoding, _ = SAME[name]
    for selection in ("none", "code"):
        path = saved_again(timed, change, encoding)
        assert_same(open_dataset(path, selection=selection), open_dataset(timed, selection=selection))


def test_counts_packed_otherwise_are_the_same(timed: Path) -> None:
    expected = open_dataset(timed)
    for encoding in (
        packed("int16", scale_factor=100.0, _FillValue=-1),
        packed("uint8", scale_factor=100.0, _FillValue=254),
        packed("uint8", scale_factor=50.0, add_offset=-100.0, _FillValue=255),
    ):
        path = saved_again(timed, encoding=encoding)
        assert_same(open_dataset(path), expected)
        with open_neural_file(path) as file:
            assert not file.contents.holds_counts


def test_reliabilities_and_times_packed_otherwise_are_the_same(timed: Path) -> None:
    expected = open_dataset(timed)
    path = saved_again(
        timed,
        lambda data: data.transpose("units", ...),
        {"splithalf_r_mean": {"dtype": "int32", "scale_factor": 1e-6, "_FillValue": -9999}},
    )
    assert_same(open_dataset(path), expected, 1e-6)
    for units in ("milliseconds", "ms", "seconds"):
        factor = 1.0 if units == "seconds" else 1e3
        path = saved_again(
            timed,
            lambda data, units=units, factor=factor: data.assign_coords(
                {TIME: (TIME, data[TIME].values * factor, {"units_of_measure": units})}
            ),
        )
        with open_neural_file(path) as file:
            np.testing.assert_allclose(file.contents.time_s, [0.005, 0.015, 0.025, 0.035], rtol=1e-15)
    path = saved_again(
        timed, lambda data: data.assign_coords({TIME: (data[TIME] * 1e9).round().astype("m8[ns]")})
    )
    assert_same(open_dataset(path), expected)


def test_several_missing_values_and_units_added_by_xarray(averaged: Path) -> None:
    def spoil(file: Any) -> None:
        file["responses"][0, 0, 0], file["responses"][0, 0, 1] = -9999.0, -7777.0
        file["responses"].attrs["missing_value"] = np.array([-9999.0, -7777.0])

    path = saved_again(
        averaged,
        lambda data: data.assign_coords(
            when=("units", np.full(12, np.datetime64("2020-01-01T10:00:00"), dtype="M8[ns]")),
            lag=("units", np.arange(12).astype("m8[s]")),
            hint=("units", np.arange(12) / 4),
        ),
        {"hint": {"dtype": "int16", "scale_factor": 0.25, "_FillValue": 0}},
        after=spoil,
    )
    first = open_dataset(path, selection="none").recordings[0]
    missing = np.isnan(first.responses) & ~np.isnan(
        open_dataset(averaged, selection="none").recordings[0].responses
    )
    assert np.argwhere(missing).tolist() == [[0, 0, 0], [0, 0, 1]] or missing.sum() == 2
    table = open_dataset(path, selection="none").unit_table().sort_values("unit_id")
    assert set(table["when"]) == {"2020-01-01T10:00:00"}
    expected = {int(row.unit_id): row for row in table.itertuples()}
    with open_neural_file(path) as file:
        for place, unit in enumerate(file.contents.unit_columns["unit_id"].tolist()):
            assert expected[unit].lag == place
            np.testing.assert_equal(expected[unit].hint, place / 4 if place else np.nan)


def test_attributes_as_bytes_are_read(timed: Path) -> None:
    """The netCDF C library stores text attributes in fixed length, which h5py gives as bytes."""

    def to_bytes(file: Any) -> None:
        for owner in (file, *file.values()):
            for name, value in list(owner.attrs.items()):
                if isinstance(value, str):
                    owner.attrs[name] = np.bytes_(value.encode())

    path = saved_again(timed, after=to_bytes)
    assert_same(open_dataset(path), open_dataset(timed))
    assert open_dataset(path).name == "timed"


def test_reordered_trials_lose_none(averaged: Path) -> None:
    """Padding of animals with fewer trials then comes first."""
    path = saved_again(averaged, lambda data: data.isel(trials=slice(None, None, -1)))
    found = open_dataset(path, selection="none").recording("VISp", 9).responses
    expected = open_dataset(averaged, selection="none").recording("VISp", 9).responses
    np.testing.assert_array_equal(found[::-1][:4], expected)
    assert np.isnan(found[::-1][4:]).all()


def test_fewer_trials_and_units_may_be_saved(averaged: Path) -> None:
    expected = open_dataset(averaged, selection="none").recording("VISl", 717038285)
    path = saved_again(
        averaged, lambda data: data.isel(trials=[0, 2, 3]).isel(units=data.visual_area.values == "VISl")
    )
    data = open_dataset(path, selection="none")
    assert data.areas == ("VISl",)
    np.testing.assert_array_equal(data.responses(), expected.responses[[0, 2, 3]])


def replaced(name: str, values: Any) -> Change:
    return lambda data: data.assign_coords({name: ("units", values)})


REFUSED: dict[str, tuple[Change, dict[str, Any] | None, Callable[[Any], object] | None, str]] = {
    "ids in float32": (
        lambda data: data,
        {"unit_id": {"dtype": "float32"}},
        None,
        r"'unit_id': float32 cannot hold every whole number above 16777216",
    ),
    "ids with a fraction": (
        replaced("unit_id", np.arange(12) + 0.5),
        None,
        None,
        r"'unit_id': 0.5 is no whole",
    ),
    "ids beyond int64": (
        replaced("unit_id", np.arange(12, dtype="u8") + 2**63),
        None,
        None,
        r"'unit_id': 9223372036854775819 is too large for int64",
    ),
    "ids as text": (replaced("unit_id", np.array(list("abcdefghijkl"))), None, None, "'unit_id': holds text"),
    "names of animals": (
        replaced("specimen_id", np.array(["mouse"] * 12)),
        None,
        None,
        "'specimen_id': holds text, expected whole numbers",
    ),
    "areas as numbers": (replaced("visual_area", np.arange(12)), None, None, "'visual_area': holds numbers"),
    "one id twice": (
        replaced("unit_id", np.zeros(12, dtype=int)),
        None,
        None,
        "unit_ids: 0 occurs more than once",
    ),
    "pixels missing": (
        lambda data: data,
        {"stimuli": {"_FillValue": int(STIMULI[0, 0, 0])}},
        None,
        r"'stimuli': \d+ pixels are missing \(NaN or _FillValue\)",
    ),
    "pixels from 0 to 1": (
        lambda data: data.assign(stimuli=data.stimuli / 255),
        None,
        None,
        "'stimuli': holds other values than grey levels",
    ),
    "other dimensions": (
        lambda data: data.rename(units="neuron"),
        None,
        None,
        r"has dimensions \(.*neuron\), expected \(.*units\)",
    ),
    "no labels": (lambda data: data.drop_vars("frame_id"), None, None, "variable 'frame_id' is missing"),
    "frames as dates": (
        lambda data: data.assign_coords(frame_id=np.datetime64("2020-01-01", "ns") + np.arange(9)),
        None,
        None,
        "'frame_id': attribute 'units' makes dates of it",
    ),
    "no units of measure": (
        lambda data: data.assign(responses=data.responses.drop_attrs()),
        None,
        None,
        "'units_of_measure' is missing",
    ),
    "a scale that is text": (
        lambda data: data,
        None,
        lambda file: file["responses"].attrs.update(scale_factor="a lot"),
        "'responses': attribute 'scale_factor' is no number",
    ),
    "several scales": (
        lambda data: data,
        None,
        lambda file: file["responses"].attrs.update(scale_factor=np.ones(3)),
        "'responses': attribute 'scale_factor' is .* expected one number",
    ),
    "a fill value of another type": (
        lambda data: data,
        packed("int16", scale_factor=0.001, _FillValue=-32768),
        lambda file: file["responses"].attrs.update(missing_value=1e20),
        "attribute 'missing_value' is 1e.20, which no int16 can be",
    ),
    "_Unsigned": (
        lambda data: data,
        None,
        lambda file: file["responses"].attrs.update(_Unsigned="true"),
        "attribute '_Unsigned' cannot be used",
    ),
    "a valid range": (
        lambda data: data,
        None,
        lambda file: file["responses"].attrs.update(valid_range=np.array([0.0, 5.0])),
        "attribute 'valid_range' cannot be used",
    ),
    "text for reliabilities": (
        replaced("reliability_mean", np.array(["high"] * 12)),
        None,
        None,
        "'reliability_mean': holds text, expected numbers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_by_name(averaged: Path, name: str) -> None:
    change, encoding, after, message = REFUSED[name]
    path = averaged.with_name("again.h5")
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(saved_again(averaged, change, encoding, after), selection="none")
    assert str(path) in str(caught.value)


def test_times_that_cannot_be_used_are_refused(timed: Path) -> None:
    def with_time(values: Any, attributes: dict[str, str] | None = None) -> Change:
        return lambda data: data.assign_coords({TIME: (TIME, values, attributes or {})})

    for change, message in (
        (lambda data: data.isel({TIME: slice(None, None, -1)}), "do not increase"),
        (with_time([0.1, np.nan, 0.2, 0.3]), "are missing or do not increase"),
        (with_time([0.1, 0.2, 0.3, 0.4], {"units_of_measure": "frames"}), "'units_of_measure' is 'frames'"),
        (with_time(np.datetime64("2020-01-01", "ns") + np.arange(4)), "'units' makes dates of it"),
    ):
        with pytest.raises(DataError, match=message), open_neural_file(saved_again(timed, change)):
            pass


def test_a_netcdf3_file_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "old.nc"
    path.write_bytes(b"CDF\x01" + bytes(100))
    with pytest.raises(DataError, match="netCDF-3, not HDF5; save it with"), open_neural_file(path):
        pass


def test_any_part_of_a_reordered_variable_is_the_part_of_the_transposed_one(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("v", data=values, chunks=(1, 2, 3, 4))
        for axes in ((3, 0, 2, 1), (0, 1, 2, 3), (1, 3, 0, 2)):
            found, expected = TransposedDataset(file["v"], axes), values.transpose(axes)
            assert (found.shape, found.ndim) == (expected.shape, 4)
            assert found.chunks == tuple((1, 2, 3, 4)[axis] for axis in axes)
            for part in (..., 1, (slice(0, 1), 1), (slice(None), slice(1, 2), 0)):
                np.testing.assert_array_equal(found[part], expected[part])
            # As h5py has it: axes stay in their order, also beside a list.
            np.testing.assert_array_equal(found[0, 1, :, [0, 1]], expected[0, 1][:, [0, 1]])


def test_large_whole_numbers_stay_exact_or_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ids"] = np.array([2**60 + 1, 5, 7])
        file["ids"].attrs["_FillValue"] = -1
        assert Variable(file["ids"], "ids").read("units").tolist() == [2**60 + 1, 5, 7]
        file["ids"].attrs["_FillValue"] = 5
        with pytest.raises(DataError, match=r"ids: whole numbers beyond 2\*\*53 with missing ones"):
            Variable(file["ids"], "ids").read("units")
