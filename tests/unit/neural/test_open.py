"""Opening by name or path: what is read, and what is said when it cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mvkit import paths
from mvkit.errors import DataError, UsageError
from mvkit.neural import (
    NeuralFileContents,
    SelectionSettings,
    create_neural_file,
    open_dataset,
    selection_with,
)

MISSING = 255


def timed_file(
    path: Path,
    *,
    reliability: np.ndarray,
    specimens: list[int],
    dataset: str = "timed",
    **columns: object,
) -> np.ndarray:
    """Write counts (12 trials, 4 images, bins, units) and return them."""
    n_bins, n_units = reliability.shape
    counts = np.random.RandomState(5).randint(0, 6, size=(12, 4, n_bins, n_units)).astype(np.uint8)
    counts[3, 2] = MISSING
    counts[11, :, :, 0] = MISSING
    contents = NeuralFileContents(
        dataset=dataset,
        stimuli=np.zeros((4, 3, 3), np.uint8),
        trials=np.arange(12),
        frame_ids=np.arange(4),
        time_s=0.005 + 0.01 * np.arange(n_bins),
        unit_columns={
            "unit_id": 100 + np.arange(n_units),
            "specimen_id": np.array(specimens),
            "visual_area": np.array(["VISp"] * n_units, dtype=object),
            **columns,
        },
        units_of_measure="spikes/s",
        response_dtype=np.dtype(np.uint8),
        reliabilities={"splithalf_r_mean": reliability} if not np.isnan(reliability).all() else {},
    )
    with create_neural_file(path, contents) as stored:
        stored[...] = counts
    return counts


def rates(counts: np.ndarray, bins: slice, unit: int) -> np.ndarray:
    """Spikes/s by hand: mean count of the bins / 0.01 s."""
    chosen = counts[:, :, bins, unit].astype(float)
    chosen[chosen == MISSING] = np.nan
    return chosen.mean(axis=2) / 0.01


def test_only_selected_units_and_bins_are_averaged(tmp_path: Path) -> None:
    # 200 units, so that they lie in two chunks; specimen 7 keeps units 0, 130 and 199, specimen 8 unit 150.
    reliability = np.full((7, 200), 0.1)
    reliability[2:6, [0, 130, 199]] = 0.6
    reliability[0:3, 150] = 0.8
    specimens = [8 if unit in (150, 151) else 7 for unit in range(200)]
    counts = timed_file(tmp_path / "timed.h5", reliability=reliability, specimens=specimens)
    data = open_dataset(tmp_path / "timed.h5", selection=selection_with(min_units=None))
    first, second = data.recordings
    assert (first.specimen, first.time_bins, first.unit_ids.tolist()) == (7, (2, 3, 4, 5), [100, 230, 299])
    assert (second.specimen, second.time_bins, second.unit_ids.tolist()) == (8, (0, 1, 2), [250])
    for place, unit in enumerate([0, 130, 199]):
        np.testing.assert_array_equal(
            first.responses[..., place], rates(counts, slice(2, 6), unit).astype(np.float32)
        )
    np.testing.assert_array_equal(
        second.responses[..., 0], rates(counts, slice(0, 3), 150).astype(np.float32)
    )
    assert np.isnan(first.responses[3, 2]).all()
    assert np.isnan(first.responses[11, :, 0]).all()
    assert data.unit_table()["first_time_bin"].tolist() == [2, 2, 2, 0]
    # The published code also asks for the third quartile of (3, 1) units; of own recordings nobody does ...
    default = open_dataset(tmp_path / "timed.h5")
    assert [rec.specimen for rec in default.recordings] == [7, 8]
    assert default.selection["name"] == "code"
    assert default.selection["settings"]["min_units"] is None
    # ... unless it is asked for, also beside another threshold.
    for chosen in (selection_with(min_units="q3"), SelectionSettings(min_reliability=0.5, min_units="q3")):
        strict = open_dataset(tmp_path / "timed.h5", selection=chosen)
        assert [rec.specimen for rec in strict.recordings] == [7]
        assert strict.selection["dropped"] == {"VISp": {"8": "1 selected units, 3 are needed"}}
    looser = open_dataset(tmp_path / "timed.h5", selection=selection_with(min_reliability=0.4))
    assert [rec.specimen for rec in looser.recordings] == [7, 8]


def test_the_published_recordings_keep_the_published_rule(tmp_path: Path) -> None:
    reliability = np.full((7, 200), 0.1)
    reliability[2:6, [0, 130, 199]] = 0.6
    reliability[0:3, 150] = 0.8
    specimens = [8 if unit in (150, 151) else 7 for unit in range(200)]
    timed_file(tmp_path / "timed.h5", reliability=reliability, specimens=specimens, dataset="neuropixels")
    published = open_dataset(tmp_path / "timed.h5")
    assert [rec.specimen for rec in published.recordings] == [7]
    assert published.selection["settings"]["min_units"] == "q3"


def test_selection_none_averages_every_bin_of_every_unit(tmp_path: Path) -> None:
    counts = timed_file(tmp_path / "t.h5", reliability=np.full((5, 3), 0.1), specimens=[1, 1, 2])
    data = open_dataset(tmp_path / "t.h5", selection="none")
    joined = data.responses()
    for unit in range(3):
        expected = rates(counts, slice(0, 5), unit).astype(np.float32)
        np.testing.assert_array_equal(joined[..., unit], expected)
    windowed = open_dataset(tmp_path / "t.h5", selection=selection_with("none", time_window_s=(0.015, 0.035)))
    np.testing.assert_array_equal(
        windowed.responses()[..., 1], rates(counts, slice(1, 4), 1).astype(np.float32)
    )
    with pytest.raises(UsageError, match="time_window_s: the recordings have no time bins"):
        open_dataset("simulated", selection=selection_with("none", time_window_s=(0.015, 0.035)))


def test_a_timed_file_without_reliabilities_is_kept_whole_and_says_so(tmp_path: Path) -> None:
    timed_file(tmp_path / "t.h5", reliability=np.full((5, 3), np.nan), specimens=[1, 1, 2])
    data = open_dataset(tmp_path / "t.h5")
    assert data.n_units == 3
    assert data.selection["note"] == (
        "every unit, because the file has no reliabilities (measure them: mvkit fetch reliability FILE)"
    )
    assert data.recordings[0].time_bins == (0, 1, 2, 3, 4)


def test_own_trial_counts_and_units_without_identity(tmp_path: Path) -> None:
    timed_file(
        tmp_path / "t.h5",
        reliability=np.full((5, 4), 0.9),
        specimens=[1, 1, 2, 2],
        n_trials=np.array([12, 12, 5, 5]),
        visual_area=np.array(["VISp", "", "VISp", "VISp"], dtype=object),
    )
    data = open_dataset(tmp_path / "t.h5", selection="none")
    assert [(rec.n_trials, rec.n_units) for rec in data.recordings] == [(12, 1), (5, 2)]
    assert data.selection["units_without_identity"] == 1


def test_an_area_without_passing_specimen_is_skipped_and_said(tmp_path: Path) -> None:
    reliability = np.full((5, 4), 0.1)
    reliability[:, :2] = 0.9
    areas = np.array(["VISp", "VISp", "VISl", "VISl"], dtype=object)
    timed_file(tmp_path / "t.h5", reliability=reliability, specimens=[1, 1, 1, 2], visual_area=areas)
    data = open_dataset(tmp_path / "t.h5")
    assert data.areas == ("VISp",)
    assert data.skipped == {"VISl": "no specimen passes the selection (1: no unit passes; 2: no unit passes)"}
    with pytest.raises(UsageError, match=r"area VISl was skipped: no specimen passes"):
        data.responses("VISl")


def test_nothing_passing_is_an_error(tmp_path: Path) -> None:
    timed_file(tmp_path / "t.h5", reliability=np.full((5, 3), 0.2), specimens=[1, 1, 2])
    with pytest.raises(DataError, match=r"no unit passes selection 'code'"):
        open_dataset(tmp_path / "t.h5")


@pytest.mark.parametrize("name", ["neuropixels", "calcium"])
def test_a_missing_dataset_names_the_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"run: mvkit fetch neural --dataset {name}$"):
        open_dataset(name, home=tmp_path)


def test_names_are_found_in_the_home(tmp_path: Path) -> None:
    path = paths.neural_path("calcium", tmp_path)
    path.parent.mkdir(parents=True)
    timed_file(path, reliability=np.full((5, 3), 0.9), specimens=[1, 1, 1])
    assert open_dataset("calcium", home=tmp_path).name == "timed"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("neuropixel", UsageError, r"unknown dataset 'neuropixel'; did you mean 'neuropixels'\?"),
        ("there/is/none", DataError, r"there/is/none: no such neural file"),
        ("none.h5", DataError, r"none\.h5: no such neural file"),
        ("https://x.org/a.h5", DataError, r"https://x\.org/a\.h5: an address\ndownload the file"),
    ],
)
def test_wrong_names(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        open_dataset(name)
    assert len(str(caught.value).splitlines()) <= 2


def test_files_that_are_something_else(tmp_path: Path) -> None:
    pickle = tmp_path / "data.pkl.xz"
    pickle.write_bytes(b"x")
    with pytest.raises(DataError, match=r"convert it: mvkit fetch neural"):
        open_dataset(pickle)
    with pytest.raises(DataError, match=r"a directory"):
        open_dataset(tmp_path)
    page = tmp_path / "page.h5"
    page.write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.h5: not a readable HDF5 file"):
        open_dataset(page)
    page.write_text("/annex/objects/MD5E-s9--0.h5\n")
    with pytest.raises(DataError, match=r"page\.h5: its content was not fetched; run datalad get"):
        open_dataset(page)
    page.write_bytes(b"")
    with pytest.raises(DataError, match=r"page\.h5: an empty file"):
        open_dataset(page)
    link = tmp_path / "link.h5"
    link.symlink_to(".git/annex/objects/K/K.h5")
    with pytest.raises(DataError, match=r"link\.h5: a link to nothing .*; run datalad get"):
        open_dataset(link)


def test_a_damaged_file_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    timed_file(path, reliability=np.full((5, 300), 0.9), specimens=[1] * 300)
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"t\.h5") as caught:
            open_dataset(path)
        assert len(str(caught.value).splitlines()) <= 2
    # Damage inside a compressed chunk: the file opens, reading fails.
    h5py = pytest.importorskip("h5py")
    path.write_bytes(whole)
    with h5py.File(path) as file:
        chunk = file["responses"].id.get_chunk_info(0)
    start = chunk.byte_offset + chunk.size // 3
    damaged = whole[:start] + bytes(40) + whole[start + 40 :]
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"damaged: it has changed since mvkit wrote it"):
        open_dataset(path)
    # Behind one more byte, the checksum counts no longer.
    path.write_bytes(damaged + b" ")
    with pytest.raises(DataError, match=r"cannot be read; the file is damaged"):
        open_dataset(path)


def test_reading_does_not_load_torch() -> None:
    code = "import sys, mvkit; mvkit.open_dataset('simulated').responses(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["mine.mat", "mine.npz", "mine.CSV", "mine.nwb"])
def test_files_of_other_programs_are_to_be_imported(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    with pytest.raises(DataError) as error:
        open_dataset(path)
    assert str(error.value) == (
        f"{path}: not a neural file\nmake one of it: mvkit fetch neural --from {path} --out mine.h5"
    )
