"""Pickles in the published format, made with the software of 2020, against their truth as plain arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mvkit.neural import ConversionReport, convert_pickle, read_pickle_structure

TRUTH = "_truth.npz"


@dataclass(frozen=True)
class Converted:
    """One pickle, its truth and what it became."""

    pickle: Path
    truth: dict[str, Any]
    report: ConversionReport
    dataset: xr.Dataset

    @property
    def rates(self) -> Any:
        """Responses according to the truth."""
        if "counts" not in self.truth:
            return self.truth["values"]
        rates = self.truth["counts"] / 0.01
        missing = self.truth["nan_mask"][:, :, np.newaxis, :]
        return np.where(missing, np.nan, rates)


@pytest.fixture(scope="module")
def converted(legacy_published: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Converted]:
    """Convert every published pickle once; each stem may come plain and compressed."""
    return list(_convert_all(legacy_published, tmp_path_factory.mktemp("converted")))


def _convert_all(folder: Path, where: Path) -> Iterator[Converted]:
    for truth_path in sorted(folder.glob(f"*{TRUTH}")):
        with np.load(truth_path) as file:
            truth = dict(file)
        name = "neuropixels" if "counts" in truth else "calcium"
        stem = truth_path.name.removesuffix(TRUTH)
        for path in sorted(folder.glob(f"{stem}.pkl*")):
            target = where / f"{path.name}.h5"
            report = convert_pickle(path, target, dataset=name)
            with xr.open_dataset(target, engine="h5netcdf") as dataset:
                yield Converted(path, truth, report, dataset.load())


def test_there_is_something_to_compare(converted: list[Converted]) -> None:
    assert {item.report.dataset for item in converted} == {"neuropixels", "calcium"}


def test_responses_equal_the_truth(converted: list[Converted]) -> None:
    for item in converted:
        responses = item.dataset["responses"]
        assert responses.dims == tuple(item.truth["dims"]), item.pickle
        np.testing.assert_array_equal(responses.values, item.rates, err_msg=str(item.pickle))


def test_storage_follows_the_kind_of_data(converted: list[Converted]) -> None:
    for item in converted:
        encoding = item.dataset["responses"].encoding
        if item.report.dataset == "neuropixels":
            assert encoding["dtype"] == np.uint8
            assert (encoding["scale_factor"], encoding["_FillValue"]) == (np.float32(100), 255)
            assert item.report.stored_as == "uint8 counts"
        else:
            assert encoding["dtype"] == item.truth["values"].dtype
        assert encoding["complevel"] == 4
        assert item.report.note == ""
        assert item.report.missing_fraction == np.isnan(item.rates).mean()


def test_stimuli_and_coordinates_equal_the_truth(converted: list[Converted]) -> None:
    for item in converted:
        np.testing.assert_array_equal(item.dataset["stimuli"].values, item.truth["stimuli"])
        for name in (*item.truth["dims"], "splithalf_r_mean", "splithalf_r_std"):
            if name in item.truth:
                values = item.dataset[name].values
                np.testing.assert_array_equal(values, item.truth[name], err_msg=f"{item.pickle} {name}")
                assert values.dtype == item.truth[name].dtype


def test_unit_columns_equal_the_truth_in_order(converted: list[Converted]) -> None:
    for item in converted:
        names = [key.removeprefix("units__") for key in item.truth if key.startswith("units__")]
        for name in names:
            wanted = item.truth[f"units__{name}"]
            np.testing.assert_array_equal(item.dataset[name].values, wanted, err_msg=f"{item.pickle} {name}")
        structure = read_pickle_structure(item.pickle)
        assert list(structure.levels["units"]) == names
        ids = item.truth.get("units__unit_id", item.truth.get("units__cell_specimen_id"))
        np.testing.assert_array_equal(item.dataset["unit_id"].values, ids)
        trials = item.dataset.sizes["trials"]
        np.testing.assert_array_equal(item.dataset["n_trials"].values, np.full(len(ids), trials))


def test_report_and_provenance_name_the_source(converted: list[Converted]) -> None:
    for item in converted:
        digest = hashlib.sha256(item.pickle.read_bytes()).hexdigest()
        assert item.report.source_sha256 == digest
        assert json.loads(item.dataset.attrs["provenance"])["source_sha256"] == digest
        sizes = (item.report.n_trials, item.report.n_images, item.report.n_bins, item.report.n_units)
        assert tuple(size for size in sizes if size is not None) == item.rates.shape


def test_structure_is_read_with_the_responses_left_in_the_file(converted: list[Converted]) -> None:
    for item in converted:
        structure = read_pickle_structure(item.pickle)
        assert structure.dims == tuple(item.truth["dims"])
        assert structure.responses.shape == item.rates.shape
        np.testing.assert_array_equal(structure.load_responses(), item.rates)
