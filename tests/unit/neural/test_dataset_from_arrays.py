"""Recordings of one's own in Python: arrays in, a dataset and a file out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mvkit
from mvkit.errors import DataError, UsageError
from mvkit.neural import NeuralDataset, Recording

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(5, 6, 4)).astype(np.float32)
STIMULI = RNG.integers(0, 256, (6, 7, 9), dtype=np.uint8)


def test_names_of_animals_are_numbered_and_kept(tmp_path: Path) -> None:
    dataset = NeuralDataset.from_arrays(
        {"VISl": {"m10": VALUES[:4], "m9": VALUES}, "VISp": {"m9": VALUES + 1}},
        STIMULI,
        name="mine",
        units_of_measure="dF/F",
    )
    assert [(one.area, one.specimen, one.animal) for one in dataset.recordings] == [
        ("VISp", 1, "m9"),
        ("VISl", 1, "m9"),
        ("VISl", 2, "m10"),
    ]
    # Units are counted through all recordings.
    assert [one.unit_ids.tolist() for one in dataset.recordings] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    path = dataset.save(tmp_path / "mine.h5")
    again = mvkit.open_dataset(path, selection="none")
    assert (again.name, again.units_of_measure) == ("mine", "dF/F")
    for one, two in zip(dataset.recordings, again.recordings, strict=True):
        assert (one.area, one.specimen, one.animal, one.n_trials) == (
            two.area,
            two.specimen,
            two.animal,
            two.n_trials,
        )
        np.testing.assert_array_equal(one.responses, two.responses)
        np.testing.assert_array_equal(one.unit_ids, two.unit_ids)
    np.testing.assert_array_equal(again.stimuli, STIMULI)
    assert again.recording_table().to_dict("records")[2] == {
        "area": "VISl",
        "animal": "m10",
        "specimen": 2,
        "n_trials": 4,
        "n_images": 6,
        "n_units": 4,
        "missing": 0.0,
    }
    with pytest.raises(
        UsageError, match=r"mine.h5: exists already; choose another name, or overwrite it .overwrite=True."
    ):
        dataset.save(path)
    with pytest.raises(UsageError, match="is a folder; give a file name"):
        dataset.save(tmp_path)
    again.save(path, overwrite=True)
    assert mvkit.open_dataset(path, selection="none").n_units == 12


def test_numbers_ids_and_axes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dataset = NeuralDataset.from_arrays(
            {
                "V1": {717: VALUES.transpose(2, 1, 0), "9": VALUES.transpose(2, 1, 0)},
                "AL": VALUES.transpose(2, 1, 0),
            },
            STIMULI / 255,
            axes="units,images,trials",
            unit_ids={"V1": {717: [3, 1, 2, 0], "9": ["a", "b", "c", "d"]}},
            frame_ids=[10, 11, 12, 13, 14, 15],
        )
    assert [(one.area, one.specimen) for one in dataset.recordings] == [("AL", 1), ("V1", 9), ("V1", 717)]
    assert all(one.animal == str(one.specimen) for one in dataset.recordings)
    assert dataset.recordings[2].unit_ids.tolist() == [3, 1, 2, 0]
    assert dataset.recordings[1].units["unit_name"].tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(dataset.recordings[0].responses, VALUES)
    assert dataset.frame_ids[0] == 10
    assert "stimuli: float in [0, 1] converted to 8-bit grey" in caplog.messages
    assert dataset.provenance["stimuli"] == "float in [0, 1] converted to 8-bit grey"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"responses": VALUES}, 'responses must be {"AREA": {"ANIMAL": array}}, not ndarray'),
        ({"responses": {}}, "responses are empty"),
        ({"responses": {"V1": {1.5: VALUES}}}, "animal 1.5 of V1: give a name or a whole number"),
        ({"responses": {"V1": {1: VALUES, "1": VALUES}}}, "responses: animal 1 of V1 is given twice"),
        (
            {"responses": {"V1": VALUES.transpose(1, 0, 2)}},
            r"responses of V1/1 are (6, 5, 4); 6 images fit the first axis: give axes=images,trials,units",
        ),
        ({"responses": {"V1": VALUES[0]}}, "two axes, but single trials are needed"),
        ({"responses": {"V1": np.where(VALUES > 2, np.inf, VALUES)}}, "recording V1/1: infinity at trial "),
        ({"unit_ids": {"V1": [1, 2]}}, "2 ids of units fit no axis"),
        ({"unit_ids": {"V1": [1, 2, 2, 3]}}, "unit_ids: 2 occurs more than once"),
        ({"unit_ids": {"V1": ["a", "b", "a", "c"]}}, "unit_ids: 'a' occurs more than once"),
        ({"unit_ids": {"V2": [1, 2, 3, 4]}}, "unit_ids: there are no responses of V2/1"),
        ({"axes": "trials,images,cells"}, "unknown axis 'cells'"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, UsageError)) as error:
        NeuralDataset.from_arrays(**{"responses": {"V1": VALUES}, "stimuli": STIMULI, **arguments})
    assert message in str(error.value)


def test_a_recording_by_itself_takes_numbers_only() -> None:
    with pytest.raises(DataError, match=r"not 'mouse1'; NeuralDataset.from_arrays takes names of animals"):
        Recording.from_arrays(VALUES, unit_ids=range(4), area="V1", specimen="mouse1")  # type: ignore[arg-type]
