"""The dataset's own arithmetic: order, concatenation, padding, tables, errors."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import DataError, UsageError
from mvkit.neural import NeuralDataset, Recording


def recording(
    area: str, specimen: int, *, n_trials: int = 2, n_units: int = 2, first_id: int = 0
) -> Recording:
    """Responses whose value tells where they come from: specimen * 1000 + trial * 100 + image * 10 + unit."""
    trial, image, unit = np.meshgrid(np.arange(n_trials), np.arange(3), np.arange(n_units), indexing="ij")
    return Recording.from_arrays(
        specimen * 1000 + trial * 100 + image * 10 + unit,
        unit_ids=first_id + np.arange(n_units),
        area=area,
        specimen=specimen,
    )


def dataset(*recordings: Recording, **more: object) -> NeuralDataset:
    stimuli = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    return NeuralDataset("test", stimuli, np.array([10, 11, 12]), "spikes/s", recordings, **more)


def test_areas_and_specimens_are_put_in_order() -> None:
    data = dataset(*(recording(area, n) for area, n in [("VISam", 1), ("LGd", 2), ("VISl", 3), ("VISp", 9)]))
    assert data.areas == ("VISp", "VISl", "VISam", "LGd")
    data = dataset(recording("VISp", 9), recording("VISp", 2))
    assert [rec.specimen for rec in data.recordings] == [2, 9]
    assert data.specimens("VISp") == (2, 9)


def test_responses_concatenate_units_and_pad_trials_with_nan() -> None:
    data = dataset(recording("VISp", 1, n_trials=3), recording("VISp", 2, n_trials=2), recording("VISl", 1))
    joined = data.responses("VISp")
    assert joined.dtype == np.float32
    assert joined[2, 1].tolist()[:2] == [1210, 1211]
    assert joined[1, 2].tolist() == [1120, 1121, 2120, 2121]
    assert np.isnan(joined[2, :, 2:]).all()
    assert np.isnan(joined).sum() == 3 * 2
    np.testing.assert_array_equal(data.responses("VISp", 2), data.recording("VISp", 2).responses)
    assert data.responses(specimen=1).shape == (3, 3, 4)
    assert data.n_units == data.responses().shape[2] == 6


def test_unit_table_follows_the_recordings_and_fills_missing_columns() -> None:
    first = recording("VISp", 1, first_id=5)
    values = np.zeros((2, 3, 1))
    second = Recording.from_arrays(
        values, unit_ids=[7], area="VISl", specimen=1, units={"depth": [3.5], "layer": ["L4"]}
    )
    table = dataset(second, first).unit_table()
    assert table["unit_id"].tolist() == [5, 6, 7]
    assert table["visual_area"].tolist() == ["VISp", "VISp", "VISl"]
    assert table["layer"].tolist() == ["", "", "L4"]
    np.testing.assert_array_equal(table["depth"], [np.nan, np.nan, 3.5])
    assert table["first_time_bin"].tolist() == [-1, -1, -1]


def test_to_xarray_holds_the_same_numbers() -> None:
    data = dataset(recording("VISp", 1), recording("VISl", 1, n_trials=3))
    converted = data.to_xarray()
    np.testing.assert_array_equal(converted["responses"], data.responses())
    np.testing.assert_array_equal(converted["stimuli"], data.stimuli)
    assert converted["responses"].attrs["units_of_measure"] == "spikes/s"
    visl = converted["responses"].isel(units=converted["visual_area"].to_numpy() == "VISl")
    np.testing.assert_array_equal(visl, data.responses("VISl"))


def test_in_areas_keeps_only_those() -> None:
    data = dataset(recording("VISp", 1), recording("VISl", 1), recording("VISam", 2))
    assert data.in_areas(["VISam", "VISp"]).areas == ("VISp", "VISam")
    with pytest.raises(UsageError, match=r"VISpp.*did you mean 'VISp'"):
        data.in_areas(["VISpp"])


def test_unknown_names_say_what_exists() -> None:
    data = dataset(recording("VISp", 12), skipped={"VISrl": "no specimen passes"})
    with pytest.raises(UsageError, match="valid: VISp"):
        data.responses("VISx")
    with pytest.raises(UsageError, match="was skipped: no specimen passes"):
        data.responses("VISrl")
    with pytest.raises(UsageError, match="13'; did you mean '12'"):
        data.responses("VISp", 13)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match="two recordings for recording VISp/1"):
        dataset(recording("VISp", 1), recording("VISp", 1))
    other = Recording.from_arrays(np.zeros((2, 4, 1)), unit_ids=[1], area="VISp", specimen=1)
    with pytest.raises(DataError, match=r"VISp/1: responses to 4 images.*3 stimuli"):
        dataset(other)
    with pytest.raises(DataError, match="must be uint8"):
        NeuralDataset("x", np.zeros((3, 4, 5)), np.arange(3), "Hz", ())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="VISp/3: unit_ids has shape"):
        Recording.from_arrays(np.zeros((2, 3, 2)), unit_ids=[1], area="VISp", specimen=3)
    with pytest.raises(DataError, match="must be \\(n_trials, n_images, n_units\\)"):
        Recording.from_arrays(np.zeros((2, 3)), unit_ids=[1], area="VISp", specimen=3)
    with pytest.raises(DataError, match="column 'depth'"):
        Recording.from_arrays(
            np.zeros((2, 3, 1)), unit_ids=[1], area="V", specimen=3, units={"depth": [1, 2]}
        )
    with pytest.raises(DataError, match="whole numbers"):
        Recording.from_arrays(np.zeros((2, 3, 1)), unit_ids=[1.5], area="V", specimen=3)
    with pytest.raises(DataError, match="values must be numbers"):
        Recording.from_arrays(np.full((2, 3, 1), "a"), unit_ids=[1], area="V", specimen=3)


def test_values_keep_the_narrowest_type_that_loses_nothing() -> None:
    def stored(values: object) -> np.dtype:
        return Recording.from_arrays(values, unit_ids=[1], area="V", specimen=1).responses.dtype

    assert stored(np.array([[[0.5]]])) == np.float32
    assert stored(np.array([[[np.nan]]])) == np.float32
    assert stored(np.array([[[0.1]]])) == np.float64
    assert stored(np.array([[[2**24 + 1]]])) == np.float64
    assert stored(np.array([[[1e300]]])) == np.float64
