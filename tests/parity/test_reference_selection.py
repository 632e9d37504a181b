"""The published pickles, converted, give the selection that the old software made of them.

Specimens and areas that the old software lists without any unit (only without a time axis) are not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvkit.neural import SelectionSettings, open_dataset, selection_with, specimen_map
from mvkit.neural.convert import convert_pickle
from mvkit.neural.neural_file import open_neural_file
from mvkit.neural.open import unit_facts
from mvkit.neural.selection import select_units


def settings_of(name: str) -> SelectionSettings:
    """Read the settings out of their name, for example ``neuropixels_40_100ms_min1``."""
    rest = name.split("_", 1)[1] if "_" in name else ""
    changes: dict[str, object] = {}
    if window := re.search(r"(\d+)_(\d+)ms", rest):
        changes["time_window_s"] = (int(window[1]) / 1000, int(window[2]) / 1000)
        rest = rest.replace(window[0], "")
    if number := re.search(r"min(\d+)", rest):
        changes["min_units"] = int(number[1])
        rest = rest.replace(number[0], "")
    if "median_units" in rest:
        changes["min_units"] = "median"
        rest = rest.replace("median_units", "")
    if rest.strip("_"):
        pytest.fail(f"reference setting {name!r} is not understood")
    return selection_with(**changes)


@pytest.fixture(scope="module")
def reference(legacy_published: Path) -> dict[str, np.ndarray]:
    with np.load(legacy_published / "reference_selection.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def converted(legacy_published: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    files: dict[str, Path] = {}

    def convert(dataset: str) -> Path:
        if dataset not in files:
            (source, *_) = sorted(legacy_published.glob(f"mouse_{dataset}_*.pkl*"))
            files[dataset] = tmp_path_factory.mktemp("neural") / f"{dataset}.h5"
            convert_pickle(source, files[dataset], dataset=dataset)
        return files[dataset]

    return convert


def test_specimens_units_and_responses(
    reference: dict[str, np.ndarray], converted: Callable[[str], Path]
) -> None:
    settings = sorted({key.split("/")[0] for key in reference})
    assert {"neuropixels", "calcium"} <= set(settings)
    for setting in settings:
        check_setting(reference, converted, setting)


def check_setting(reference: dict[str, np.ndarray], converted: Callable[[str], Path], setting: str) -> None:
    path = converted(setting.split("_")[0])
    data = open_dataset(path, selection=settings_of(setting))
    common = smallest_unit_counts(path, settings_of(setting))
    checked = set()
    for key in [key for key in reference if key.split("/")[0] == setting]:
        _, area, *rest = key.split("/")
        expected = reference[key]
        empty = empty_specimens(reference, setting, area)
        match rest:
            case [specimen, *_] if specimen.isdigit() and int(specimen) in empty:
                assert expected.size == 0, key
                assert (area, int(specimen)) not in {(rec.area, rec.specimen) for rec in data.recordings}
                continue
            case ["specimens"]:
                found: object = data.specimens(area) if area in data.areas else ()
                expected = expected[~np.isin(expected, empty)]
            case ["num_source_units"]:
                found = common[area]
                if empty:
                    start = f"{setting}/{area}"
                    listed = set(reference[f"{start}/specimens"].tolist()) - set(empty)
                    counts = [reference[f"{start}/{specimen}/ids"].size for specimen in listed]
                    expected = np.array(min(counts, default=np.inf))
            case [specimen, "ids"]:
                found = data.recording(area, int(specimen)).unit_ids
            case [specimen, "responses"]:
                check_responses(data.recording(area, int(specimen)).responses, reference[key], key)
                checked.add((area, int(specimen)))
                continue
            case _:
                pytest.fail(f"{key} is not understood")
        np.testing.assert_array_equal(found, expected, err_msg=key)
    assert checked == {(rec.area, rec.specimen) for rec in data.recordings}


def empty_specimens(reference: dict[str, np.ndarray], setting: str, area: str) -> list[int]:
    """Specimens of an area that the old software lists without any unit."""
    no_units = np.empty(0)
    return [
        specimen
        for specimen in reference.get(f"{setting}/{area}/specimens", no_units).tolist()
        if reference.get(f"{setting}/{area}/{specimen}/ids", no_units).size == 0
    ]


def check_responses(found: np.ndarray, expected: np.ndarray, key: str) -> None:
    """Equal up to float32 rounding: the reference averaged k / 0.01, this code counts / 0.01."""
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=key)
    np.testing.assert_allclose(found, expected, rtol=3 * np.finfo(np.float32).eps, atol=1e-7, err_msg=key)


def smallest_unit_counts(path: Path, settings: SelectionSettings) -> dict[str, float]:
    with open_neural_file(path) as file:
        outcome = select_units(unit_facts(file.contents), settings)
    return {
        area: specimen_map(selected, min_units=settings.min_units, equalize=True).num_source_units
        for area, selected in outcome.items()
    }


@pytest.mark.parametrize("dataset", ["neuropixels", "calcium"])
def test_selection_none_gives_every_unit_of_the_truth(
    legacy_published: Path, converted: Callable[[str], Path], dataset: str
) -> None:
    """Every unit of the truth file, averaged over all bins by hand."""
    data = open_dataset(converted(dataset), selection="none")
    truth = np.load(next(legacy_published.glob(f"mouse_{dataset}_*_truth.npz")))
    ids = truth["units__unit_id" if dataset == "neuropixels" else "units__cell_specimen_id"]
    expected = truth_averages(truth, dataset)
    assert data.n_units + data.selection["units_without_identity"] == len(ids)
    assert data.units_of_measure == {"neuropixels": "spikes/s", "calcium": "dF/F"}[dataset]
    for recording in data.recordings:
        places = [int(np.flatnonzero(ids == unit)[0]) for unit in recording.unit_ids]
        assert set(truth["units__visual_area"][places]) == {recording.area}
        assert set(truth["units__specimen_id"][places]) == {recording.specimen}
        check_responses(recording.responses, expected[..., places], f"{recording.label}")
    np.testing.assert_array_equal(data.stimuli, truth["stimuli"])


def truth_averages(truth: np.lib.npyio.NpzFile, dataset: str) -> np.ndarray:
    if dataset == "calcium":
        return truth["values"].astype(np.float32)
    rates = truth["counts"].mean(axis=2) / 0.01
    return np.where(truth["nan_mask"], np.nan, rates).astype(np.float32)
