"""Conversion of pickles: values, layouts, refusals, verification, and what is left behind."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mvkit.errors import DataError, UsageError
from mvkit.neural import convert, convert_pickle

TIME = "time_relative_to_stimulus_onset"


def opened(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()


def require_same(dataset: xr.Dataset, made: Any, *, has_time: bool) -> None:
    np.testing.assert_array_equal(dataset["responses"].values, made.values)
    np.testing.assert_array_equal(dataset["stimuli"].values, made.stimuli)
    for name, column in made.columns.items():
        wanted = ["" if entry is None else entry for entry in column]
        np.testing.assert_array_equal(dataset[name].values, wanted, err_msg=name)
    np.testing.assert_array_equal(dataset["n_trials"].values, np.full(made.values.shape[-1], 12))
    np.testing.assert_array_equal(dataset["trials"].values, np.arange(1, 13))
    if has_time:
        np.testing.assert_array_equal(dataset[TIME].values, 0.005 + 0.01 * np.arange(7))
        np.testing.assert_array_equal(dataset["splithalf_r_mean"].values, made.reliability)
        assert dataset[TIME].dtype == np.float64


@pytest.mark.parametrize("order", ["C", "F", "K"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_counts_come_out_exactly_from_every_protocol_and_memory_order(
    pickled: Any, tmp_path: Path, protocol: int, order: str
) -> None:
    made = pickled(protocol=protocol, order=order)
    report = convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels")
    require_same(opened(tmp_path / "out.h5"), made, has_time=True)
    assert report.stored_as == "uint8 counts"
    assert report.missing_fraction == np.isnan(made.values).mean()
    assert (report.n_trials, report.n_images, report.n_bins, report.n_units) == made.values.shape


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_calcium_is_kept_bit_for_bit(pickled: Any, tmp_path: Path, protocol: int, order: str) -> None:
    made = pickled(has_time=False, protocol=protocol, order=order)
    report = convert_pickle(made.path, tmp_path / "out.h5", dataset="calcium")
    dataset = opened(tmp_path / "out.h5")
    require_same(dataset, made, has_time=False)
    np.testing.assert_array_equal(dataset["unit_id"].values, made.columns["cell_specimen_id"])
    assert dataset["responses"].attrs["units_of_measure"] == "dF/F"
    assert (report.stored_as, report.n_bins) == ("float64", None)


@pytest.mark.parametrize(
    "dims", [("units", TIME, "trials", "frame_id"), ("frame_id", "units", "trials", TIME)]
)
def test_dimensions_may_come_in_any_order(pickled: Any, tmp_path: Path, dims: tuple[str, ...]) -> None:
    made = pickled(dims=dims)
    convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels")
    require_same(opened(tmp_path / "out.h5"), made, has_time=True)


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i4"])
def test_other_number_types_are_read(pickled: Any, tmp_path: Path, dtype: str) -> None:
    made = pickled(dtype=dtype)
    report = convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels")
    np.testing.assert_array_equal(opened(tmp_path / "out.h5")["responses"].values, made.values)
    assert report.stored_as == "uint8 counts"


@pytest.mark.parametrize(
    ("odd", "dtype", "stored_as"),
    [
        (0.5, "f8", "float64"),
        (25500.0, "f8", "float64"),
        (np.inf, "f8", "float64"),
        (-100.0, "f4", "float32"),
    ],
)
def test_a_rate_that_is_no_count_is_kept_as_float_and_reported(
    pickled: Any, tmp_path: Path, odd: float, dtype: str, stored_as: str
) -> None:
    def change(values: Any) -> Any:
        values[-1, -1, -1, -1] = odd
        return values

    made = pickled(change=change, dtype=dtype)
    report = convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels")
    require_same(opened(tmp_path / "out.h5"), made, has_time=True)
    assert report.stored_as == stored_as
    assert str(float(odd)) in report.note


def test_neighbour_of_a_count_is_not_taken_for_it(pickled: Any, tmp_path: Path) -> None:
    def change(values: Any) -> Any:
        values[0, 0, 0, 0] = np.nextafter(300.0, 301.0)
        return values

    report = convert_pickle(pickled(change=change).path, tmp_path / "out.h5", dataset="neuropixels")
    assert report.stored_as == "float64"


@pytest.mark.parametrize(("suffix", "pack"), [(".pkl.gz", gzip.compress), (".pkl.xz", lzma.compress)])
@pytest.mark.parametrize("protocol", [2, 4])
def test_compressed_files_are_told_by_content(
    pickled: Any, tmp_path: Path, suffix: str, pack: Any, protocol: int
) -> None:
    made = pickled(protocol=protocol)
    for name in (f"packed{suffix}", "misnamed.pkl"):
        packed = tmp_path / name
        packed.write_bytes(pack(made.path.read_bytes()))
        report = convert_pickle(packed, tmp_path / "out.h5", dataset="neuropixels")
        require_same(opened(tmp_path / "out.h5"), made, has_time=True)
        assert report.source_sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
        assert report.source_bytes == packed.stat().st_size
        provenance = json.loads(opened(tmp_path / "out.h5").attrs["provenance"])
        assert provenance["source_bytes"] == packed.stat().st_size
        assert provenance["pickle_bytes"] == made.path.stat().st_size


def test_several_compressed_parts_are_read_as_one(
    pickled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mvkit.neural import pickle_arrays

    monkeypatch.setattr(pickle_arrays, "BLOCK_BYTES", 4096)  # so that parts end anywhere in a block
    made = pickled()
    data = made.path.read_bytes()
    pieces = [data[start : start + 30_000] for start in range(0, len(data), 30_000)]
    packed = tmp_path / "parts.pkl.gz"
    packed.write_bytes(b"".join(gzip.compress(piece) for piece in pieces))
    convert_pickle(packed, tmp_path / "out.h5", dataset="neuropixels")
    require_same(opened(tmp_path / "out.h5"), made, has_time=True)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_cut_compressed_files_are_refused(pickled: Any, tmp_path: Path, pack: Any) -> None:
    data = pack(pickled().path.read_bytes())
    packed = tmp_path / "cut.pkl"
    for length in (len(data) - 1, len(data) - 9, len(data) // 2, 40, 12, 7):
        packed.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut\.pkl.*incomplete"):
            convert_pickle(packed, tmp_path / "out.h5", dataset="neuropixels")
        assert not (tmp_path / "out.h5").exists()


def test_large_slabs_get_thinner_chunks(
    pickled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pickled()
    one_trial = made.values[0].size
    monkeypatch.setattr(convert, "MOST_SLAB_BYTES", 3 * one_trial)
    convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels")
    dataset = opened(tmp_path / "out.h5")
    require_same(dataset, made, has_time=True)
    assert dataset["responses"].encoding["chunksizes"][0] == 3
    monkeypatch.setattr(convert, "MOST_SLAB_BYTES", one_trial - 1)
    with pytest.raises(DataError, match="more than fits in memory"):
        convert_pickle(made.path, tmp_path / "none.h5", dataset="neuropixels")


def test_a_recording_without_units_is_refused(pickled: Any, tmp_path: Path) -> None:
    import pickle

    made = pickled(has_time=False)
    content = pickle.loads(made.path.read_bytes())
    content["neural_data"] = content["neural_data"].isel(units=slice(0, 0))
    made.path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"recording\.pkl: the responses are empty"):
        convert_pickle(made.path, tmp_path / "out.h5", dataset="calcium")


def test_responses_to_some_frames_get_their_own_stimuli(pickled: Any, tmp_path: Path) -> None:
    import pickle

    made = pickled()
    content = pickle.loads(made.path.read_bytes())
    content["neural_data"] = content["neural_data"].isel(frame_id=[1, 3])
    made.path.write_bytes(pickle.dumps(content))
    report = convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels")
    dataset = opened(tmp_path / "out.h5")
    np.testing.assert_array_equal(dataset["stimuli"].values, made.stimuli[[1, 3]])
    np.testing.assert_array_equal(dataset["frame_id"].values, [1, 3])
    assert report.n_images == 2


def test_wrong_dataset_and_unknown_dataset_are_named(pickled: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"recording.pkl.*has a time axis.*'calcium'.*'neuropixels'"):
        convert_pickle(pickled().path, tmp_path / "out.h5", dataset="calcium")
    with pytest.raises(DataError, match=r"no time axis.*'neuropixels'.*'calcium'"):
        convert_pickle(pickled(has_time=False).path, tmp_path / "out.h5", dataset="neuropixels")
    with pytest.raises(UsageError, match="did you mean 'calcium'"):
        convert_pickle(tmp_path / "none.pkl", tmp_path / "out.h5", dataset="calcum")
    assert not (tmp_path / "out.h5").exists()


def test_provenance_and_progress(pickled: Any, tmp_path: Path) -> None:
    made = pickled()
    seen: list[tuple[int, int]] = []
    convert_pickle(
        made.path, tmp_path / "out.h5", dataset="neuropixels", progress=lambda *pair: seen.append(pair)
    )
    size = made.path.stat().st_size
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    attributes = opened(tmp_path / "out.h5").attrs
    provenance = json.loads(attributes["provenance"])
    assert provenance["source_sha256"] == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert (provenance["source"], provenance["source_bytes"]) == ("recording.pkl", size)
    assert attributes["dataset"] == "neuropixels"


@pytest.mark.parametrize("victim", ["stimuli", "responses"])
def test_damage_while_writing_is_found_and_nothing_stays(
    pickled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    from mvkit.neural import neural_file as chunks

    def damaging(data: Any, strategy: int) -> bytes:
        flipped = bytearray(bytes(data))
        if (len(flipped) > 1000) == (victim == "responses"):
            flipped[0] ^= 1
        return zlib.compress(bytes(flipped), 4)

    made = pickled()
    monkeypatch.setattr(chunks, "deflate", damaging)
    with pytest.raises(DataError, match=f"{victim}.* as written differ"):
        convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels")
    assert [path.name for path in tmp_path.iterdir()] == ["recording.pkl"]


def test_a_source_that_changes_meanwhile_is_refused(pickled: Any, tmp_path: Path) -> None:
    made = pickled()

    def touch(done: int, total: int) -> None:
        with made.path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(DataError, match="changed while it was being read"):
        convert_pickle(made.path, tmp_path / "out.h5", dataset="neuropixels", progress=touch)
    assert not (tmp_path / "out.h5").exists()


def test_an_earlier_file_survives_a_failed_conversion(pickled: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    target.write_bytes(b"earlier")
    made = pickled()
    made.path.write_bytes(made.path.read_bytes()[:-20])
    with pytest.raises(DataError, match="download it again"):
        convert_pickle(made.path, target, dataset="neuropixels")
    assert target.read_bytes() == b"earlier"
