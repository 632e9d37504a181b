"""Spikes in NWB files, in the layout that pynwb writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mvkit.errors import DataError, UsageError
from mvkit.neural import NeuralDataset
from mvkit.neural.own.recordings import import_recordings
from mvkit.neural.own.request import ImportSettings

N_IMAGES, N_TRIALS, N_UNITS = 4, 3, 5
AREAS = ("VISp", "VISl", "VISp", "", "CA1")


def _table(parent: h5py.Group, name: str, **columns: Any) -> h5py.Group:
    table = parent.create_group(name)
    table.attrs["neurodata_type"] = "DynamicTable"
    for column, values in columns.items():
        array = np.asarray(values)
        table.create_dataset(
            column, data=array.astype(h5py.string_dtype()) if array.dtype.kind == "U" else array
        )
    return table


def write_session(
    path: Path, seed: int = 0, *, subject: str = "mouse-7", area_in: str = "electrodes"
) -> NDArray[np.float64]:
    """Write a session; return its rates (n_trials, n_images, n_units) in 50 to 250 ms."""
    rng = np.random.default_rng(seed)
    shown = rng.permutation(np.repeat(np.arange(N_IMAGES), N_TRIALS))
    shown = np.insert(shown, 5, -1)
    onset = 10 + np.arange(len(shown)) * 0.5
    counts = rng.integers(0, 6, (len(shown), N_UNITS))
    rates = np.full((N_TRIALS, N_IMAGES, N_UNITS), np.nan)
    seen = [0] * N_IMAGES
    times: list[list[float]] = [[] for _ in range(N_UNITS)]
    for start, image, row in zip(onset, shown, counts, strict=True):
        for unit in range(N_UNITS):
            times[unit] += list(start + rng.uniform(0.051, 0.249, row[unit]))
            # Before the window, at its end, and after it.
            times[unit] += [start + 0.01, start + 0.25, start + 0.3]
        if image >= 0:
            rates[seen[image], image] = row / 0.2
            seen[image] += 1
    with h5py.File(path, "w") as file:
        file["general/subject/subject_id"] = subject
        ends = np.cumsum([len(one) for one in times])
        # The last unit's spikes are not sorted, as some sorters leave them.
        flat = np.concatenate([sorted(one) for one in times[:-1]] + [rng.permutation(times[-1])])
        units = _table(file, "units", id=np.arange(N_UNITS) + 950, spike_times=flat, spike_times_index=ends)
        electrodes = file.create_group("general/extracellular_ephys")
        if area_in == "electrodes":
            units["electrodes"] = np.array([4, 3, 3, 2, 1, 0])
            units["electrodes_index"] = np.array([1, 3, 4, 5, 6])
            places = [AREAS[4], AREAS[3], AREAS[2], AREAS[1], AREAS[0]]
            _table(electrodes, "electrodes", id=np.arange(5), location=np.array(places))
        elif area_in == "peak":
            units["peak_channel_id"] = np.arange(N_UNITS)[::-1]
            _table(electrodes, "electrodes", id=np.arange(5), location=np.array(AREAS[::-1]))
        elif area_in == "units":
            units["brain_area"] = np.array(AREAS).astype(h5py.string_dtype())
        intervals = file.create_group("intervals")
        order = rng.permutation(len(shown))
        _table(
            intervals,
            "scenes_presentations",
            start_time=onset[order],
            stop_time=onset[order] + 0.25,
            frame=shown[order].astype(float),
            id=np.arange(len(shown)),
        )
        _table(intervals, "trials", start_time=onset[:2], stop_time=onset[:2] + 1)
        index = file.create_group("stimulus/presentation/indexed")
        index.attrs["neurodata_type"] = "IndexSeries"
        index["data"] = shown[shown >= 0]
        index["timestamps"] = onset[shown >= 0]
        regular = file.create_group("stimulus/presentation/regular")
        regular.attrs["neurodata_type"] = "TimeSeries"
        regular["data"] = shown
        regular["starting_time"] = 10.0
        regular["starting_time"].attrs["rate"] = 2.0
        template = file.create_group("stimulus/templates/scenes")
        template["data"] = np.arange(N_IMAGES * 12, dtype=np.uint8).reshape(N_IMAGES, 3, 4)
    return rates


def read(*paths: Path, **settings: Any) -> tuple[NeuralDataset, str]:
    """Import; return the dataset and the notes as one text."""
    defaults = {"presentations": "scenes_presentations", "window_ms": (50.0, 250.0)}
    imported = import_recordings(list(paths), ImportSettings(**{**defaults, **settings}))
    return imported.dataset, "\n".join(imported.notes)


@pytest.mark.parametrize("area_in", ["electrodes", "peak", "units"])
def test_rates_units_and_areas(area_in: str, tmp_path: Path) -> None:
    rates = write_session(tmp_path / "a.nwb", area_in=area_in)
    dataset, notes = read(tmp_path / "a.nwb")
    assert [(one.area, one.animal) for one in dataset.recordings] == [
        ("VISp", "mouse-7"),
        ("VISl", "mouse-7"),
        ("CA1", "mouse-7"),
    ]
    for one, units in zip(dataset.recordings, ([0, 2], [1], [4]), strict=True):
        np.testing.assert_array_equal(one.responses, rates[:, :, units].astype(np.float32))
        assert one.unit_ids.tolist() == [950 + unit for unit in units]
    assert dataset.units_of_measure == "spikes/s"
    assert dataset.stimuli.shape == (4, 3, 4)
    assert "1 unit without an area left out" in notes
    assert "1 presentation of images below 0 (grey screen) left out" in notes
    assert "presentations: 'scenes_presentations', image in column 'frame'" in notes
    dataset, _ = read(tmp_path / "a.nwb", areas=("VISl",))
    assert dataset.areas == ("VISl",)


@pytest.mark.parametrize("name", ["indexed", "regular"])
def test_series_of_indices(name: str, tmp_path: Path) -> None:
    rates = write_session(tmp_path / "a.nwb")
    dataset, _ = read(tmp_path / "a.nwb", presentations=name, area="V1", animal="1")
    np.testing.assert_array_equal(dataset.recordings[0].responses, rates.astype(np.float32))


def test_several_sessions_and_images_from_a_folder(tmp_path: Path) -> None:
    rates = [write_session(tmp_path / f"{seed}.nwb", seed, subject=f"m{seed}") for seed in (1, 2)]
    folder = tmp_path / "scenes"
    folder.mkdir()
    for index in range(N_IMAGES):
        Image.fromarray(np.full((2, 2), index, np.uint8)).save(folder / f"{index:03}.png")
    dataset, _ = read(tmp_path, stimuli=str(folder), area="V1")
    assert [one.animal for one in dataset.recordings] == ["m1", "m2"]
    for one, expected in zip(dataset.recordings, rates, strict=True):
        np.testing.assert_array_equal(one.responses, expected.astype(np.float32))


def test_images_in_a_container(tmp_path: Path) -> None:
    write_session(tmp_path / "a.nwb")
    pictures = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 3, 4), dtype=np.uint8)
    with h5py.File(tmp_path / "a.nwb", "r+") as file:
        group = file.create_group("stimulus/templates/pictures")
        for index in range(N_IMAGES):
            group[f"image{index}"] = pictures[index]
        references = [group[f"image{index}"].ref for index in (2, 0, 1, 3)]
        group.create_dataset("order_of_images", data=references, dtype=h5py.ref_dtype)
    dataset, _ = read(tmp_path / "a.nwb", stimuli="pictures")
    np.testing.assert_array_equal(dataset.stimuli, pictures[[2, 0, 1, 3]])
    with pytest.raises(UsageError, match="templates in the file: pictures, scenes"):
        read(tmp_path / "a.nwb")


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    write_session(path, area_in="none")

    def refuse(message: str, kind: type[Exception] = UsageError, **settings: Any) -> None:
        with pytest.raises(kind, match=message):
            read(path, **{"area": "V1", **settings})

    refuse("which area\\? give --area NAME", area=None)
    refuse(
        "has no presentations 'scenes_presentation'; did you mean .scenes_presentations.",
        presentations="scenes_presentation",
    )
    refuse(
        "which presentations\\? give --presentations NAME\nit has: scenes_presentations \\(frame, start_time",
        presentations=None,
    )
    refuse("which column of 'trials' has the image\\? give --image-ids COLUMN", presentations="trials")
    refuse("--window-ms 200 100: the window must end after it begins", window_ms=(200.0, 100.0))
    refuse("has no column 'idd'", DataError, unit_ids="idd")
    refuse("no unit is left of areas V1", DataError, areas=("VISp",))
    with h5py.File(path, "r+") as file:
        del file["units/spike_times_index"]
    refuse("it has no 'spike_times_index'", DataError)
    path.write_bytes(b"x" * 100)
    refuse("a.nwb: not a readable session file", DataError)
