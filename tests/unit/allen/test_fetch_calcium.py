"""Imaging experiments made into one neural file: against arithmetic, and a published pickle of the same."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import mvkit
from mvkit.allen.fetch import fetch_sessions, plan_sessions
from mvkit.allen.request import SessionRequest
from mvkit.errors import DataError, UsageError
from mvkit.fetch.run import FetchReport, FetchRequest
from mvkit.neural import convert_pickle, open_neural_file
from mvkit.pipeline.reliability import measure_reliability


@pytest.fixture(scope="module")
def experiments(ophys_files: ModuleType) -> list[Any]:
    """One animal imaged in VISp at two depths, another in VISp and VISl; fewer trials, a lost image."""
    return [
        ophys_files.draw_experiment(601, seed=1, specimen=1, n_cells=7, n_trials=8),
        ophys_files.draw_experiment(602, seed=2, specimen=1, n_cells=5, n_trials=8, fewer={2: 5}),
        ophys_files.draw_experiment(603, seed=3, specimen=2, n_cells=6, n_trials=6, fewer={5: 0}),
        ophys_files.draw_experiment(604, seed=4, specimen=2, n_cells=4, n_trials=8, area="VISl"),
    ]


def fetched(folder: Path, home: Path, *, measured: bool = True, **wanted: Any) -> FetchReport:
    """Fetch a folder's experiments."""
    request = SessionRequest("calcium", folder, **wanted)
    return fetch_sessions(request, FetchRequest(home), measure=measure_reliability if measured else None)


def direct(ophys_files: ModuleType, experiments: list[Any]) -> np.ndarray:
    """Compute the array of the dataset from the traces, float64 (trials, frames, units), NaN = missing."""
    whole = np.full((8, 6, sum(len(one.cell_ids) for one in experiments)), np.nan)
    first = 0
    for one in experiments:
        frames, responses, _ = ophys_files.expected_responses(one)
        whole[: len(responses), frames, first : first + len(one.cell_ids)] = responses
        first += len(one.cell_ids)
    return whole


def columns(ophys_files: ModuleType, experiments: list[Any]) -> dict[str, np.ndarray]:
    """Return the columns as the published pickle has them, units in the order of experiment and file."""
    cells = [(one, int(cell)) for one in experiments for cell in one.cell_ids]
    metrics = {
        name: np.array(
            [
                np.nan if (value := one.metrics.get(cell, {}).get(name)) is None else value
                for one, cell in cells
            ],
            dtype=np.float64,
        )
        for name in ophys_files.METRICS
    }
    return {
        **metrics,
        "specimen_id": np.array([one.specimen_id for one, _ in cells]),
        "cell_specimen_id": np.array([cell for _, cell in cells]),
        "visual_area": np.array([one.area for one, _ in cells], dtype=object),
    }


@pytest.fixture(scope="module")
def folder(ophys_files: ModuleType, experiments: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = ophys_files.write_ophys_folder(tmp_path_factory.mktemp("experiments"), experiments)
    return made


@pytest.fixture(scope="module")
def assembled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched(folder, tmp_path_factory.mktemp("home")).files[-1].path


@pytest.fixture(scope="module")
def converted(
    ophys_files: ModuleType, experiments: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same recordings as a pickle of the published layout, converted, with reliabilities measured."""
    levels = columns(ophys_files, experiments)
    index = pd.MultiIndex.from_arrays(list(levels.values()), names=list(levels))
    array = xr.DataArray(
        direct(ophys_files, experiments),
        dims=["trials", "frame_id", "units"],
        coords=xr.Coordinates.from_pandas_multiindex(index, "units"),
    ).assign_coords({"trials": np.arange(1, 9), "frame_id": np.arange(6)})
    place = tmp_path_factory.mktemp("published")
    source = place / "recording.pkl"
    source.write_bytes(pickle.dumps({"stimuli": experiments[0].images, "neural_data": array}))
    convert_pickle(source, place / "calcium.h5", dataset="calcium")
    measure_reliability(place / "calcium.h5")
    return place / "calcium.h5"


def test_the_file_holds_what_a_published_one_holds(converted: Path, assembled: Path) -> None:
    with open_neural_file(converted) as one, open_neural_file(assembled) as other:
        np.testing.assert_allclose(other.stored[...], one.stored[...], rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(np.isnan(other.stored[...]), np.isnan(one.stored[...]))
        assert other.stored.dtype == one.stored.dtype == np.float64
        assert other.contents.kind == "averaged" and other.contents.units_of_measure == "dF/F"
        for name in ("dims", "units_of_measure", "kind"):
            assert getattr(one.contents, name) == getattr(other.contents, name), name
        for name in ("stimuli", "trials", "frame_ids"):
            assert np.array_equal(getattr(one.contents, name), getattr(other.contents, name)), name
        for name, column in one.contents.unit_columns.items():
            made = other.contents.unit_columns[name]
            assert made.dtype.kind == column.dtype.kind, name
            if column.dtype.kind == "f":
                np.testing.assert_allclose(made, column, rtol=1e-9, err_msg=name)
            else:
                assert np.array_equal(made, column), name


def test_missing_presentations_are_missing(assembled: Path) -> None:
    with open_neural_file(assembled) as file:
        missing = np.isnan(file.stored[...])
    assert not missing[..., :7].any()
    assert (
        missing[5:, 2, 7:12].all()
        and missing.any(axis=(0, 1)).tolist() == [False] * 7 + [True] * 11 + [False] * 4
    )
    assert missing[:, 5, 12:18].all() and missing[6:, :, 12:18].all() and not missing[:6, :5, 12:18].any()


def test_cells_of_an_animal_and_area_are_joined(assembled: Path) -> None:
    dataset = mvkit.open_dataset(assembled, selection="none")
    found = {(one.area, one.specimen): one.n_units for one in dataset.recordings}
    assert found == {("VISp", 496_908_001): 12, ("VISp", 496_908_002): 6, ("VISl", 496_908_002): 4}
    assert mvkit.open_dataset(assembled).recordings, "the usual selection keeps some"


def test_the_file_reports_how_it_was_measured(assembled: Path) -> None:
    with open_neural_file(assembled) as file:
        provenance = file.contents.provenance
    assert provenance["scale"] == "per cent" and "mean_sweep_response" in str(provenance["averaging"])
    assert provenance["request"] == SessionRequest("calcium").to_json() and "counting" not in provenance
    assert [one["experiment_container_id"] for one in provenance["sessions"]] == [
        100601,
        100602,
        100603,
        100604,
    ]  # type: ignore[attr-defined]


def test_a_lost_cell_is_missing_and_never_selected(ophys_files: ModuleType, tmp_path: Path) -> None:
    one = ophys_files.draw_experiment(611, n_cells=5, n_trials=8)
    demixed = one.demixed.copy()
    demixed[2] = np.nan
    ophys_files.write_ophys_folder(tmp_path, [replace(one, demixed=demixed)])
    path = fetched(tmp_path, tmp_path / "home").files[-1].path
    with open_neural_file(path) as file:
        assert np.isnan(file.stored[...]).all(axis=(0, 1)).tolist() == [False, False, True, False, False]
        assert np.isnan(file.contents.unit_columns["reliability_mean"][2])
    (kept,) = mvkit.open_dataset(path).recordings
    assert one.cell_ids[2] not in kept.unit_ids and kept.n_units > 0


def test_areas_choose_experiments_and_a_second_call_keeps_the_file(folder: Path, tmp_path: Path) -> None:
    report = fetched(folder, tmp_path, areas=("VISl",), measured=False)
    assert [one.name for one in report.files] == ["session 604", "calcium"]
    again = fetched(folder, tmp_path, areas=("VISl",), measured=False)
    assert [one.status for one in again.files] == ["already there"]
    with pytest.raises(UsageError, match="made from something else"):
        fetched(folder, tmp_path)


def test_a_plan_reports_bytes_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    plan = plan_sessions(SessionRequest("calcium", folder), FetchRequest(tmp_path / "home"))
    files = sorted((folder / "ophys_experiment_data").iterdir())
    assert [one.size for one in plan.steps[:-1]] == [path.stat().st_size for path in files]
    assert not (tmp_path / "home").exists()


def test_a_cell_of_two_experiments_is_refused(
    ophys_files: ModuleType, experiments: list[Any], tmp_path: Path
) -> None:
    one = experiments[0]
    twin = replace(one, experiment_id=609)
    ophys_files.write_ophys_folder(tmp_path, [one, twin])
    with pytest.raises(DataError, match=r"in sessions 601, 609\n.*--exclude-sessions 609"):
        fetched(tmp_path, tmp_path / "home")
    report = fetched(tmp_path, tmp_path / "home", exclude=(609,))
    assert [one.status for one in report.files] == ["already there", "assembled"]


def test_without_tables_metrics_are_unknown_and_names_tell_animals(
    ophys_files: ModuleType, experiments: list[Any], tmp_path: Path
) -> None:
    for one in experiments[:3]:
        ophys_files.write_experiment(one, tmp_path / f"{one.experiment_id}.nwb")
    with open_neural_file(fetched(tmp_path, tmp_path / "home").files[-1].path) as file:
        columns = file.contents.unit_columns
    assert np.isnan(columns["p_run_mod_ns"]).all() and np.isnan(columns["pref_image_ns"]).all()
    assert columns["specimen_id"].tolist() == [222_401] * 12 + [222_402] * 6


@pytest.mark.parametrize(
    "asked", [{"bin_ms": 5.0}, {"window_ms": (0.0, 100.0)}, {"max_isi_violations": 1.0}], ids=str
)
def test_what_is_about_spikes_is_refused(folder: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"calcium: {next(iter(asked))}: only for spikes"):
        SessionRequest("calcium", folder, **asked)


def test_requests_of_other_areas_and_datasets_differ() -> None:
    digests = [
        SessionRequest("calcium", areas=("VISl", "VISp")).digest,
        SessionRequest("calcium").digest,
        SessionRequest(areas=("VISl", "VISp")).digest,
    ]
    assert len(set(digests)) == 3
    assert SessionRequest("calcium", areas=("VISp", "VISl")).digest == digests[0]
