"""Reliabilities of a neural file: measured, stored, and used by selections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import mvkit.pipeline.reliability as module
from mvkit.errors import DataError, UsageError
from mvkit.fetch.run import FetchRequest, fetch_neural, verify_files
from mvkit.neural import (
    NeuralFileContents,
    Recording,
    create_neural_file,
    open_dataset,
    selection_with,
    simulated_truth,
    write_neural_file,
    write_simulated,
)
from mvkit.neural.neural_file import open_neural_file
from mvkit.pipeline.reliability import measure_reliability
from mvkit.scoring import split_half_reliability

N_IMAGES = 30
MISSING = 255


def averaged_file(path: Path, **columns: np.ndarray) -> list[Recording]:
    """Two animals in two areas, with 12 and 9 trials; signal to noise differs between units."""
    rng = np.random.default_rng(0)
    recordings = []
    for area, specimen, n_trials in (("VISp", 7, 12), ("VISl", 7, 12), ("VISl", 8, 9)):
        drive = rng.standard_normal((N_IMAGES, 6)) * np.array([0.0, 0.2, 0.5, 1.0, 2.0, 4.0])
        values = (drive + rng.standard_normal((n_trials, N_IMAGES, 6))).astype(np.float32)
        values[3, 5] = np.nan
        recordings.append(
            Recording.from_arrays(
                values, unit_ids=100 * specimen + np.arange(6), area=area, specimen=specimen, units=columns
            )
        )
    write_neural_file(
        path,
        recordings,
        stimuli=np.zeros((N_IMAGES, 4, 4), np.uint8),
        units_of_measure="dF/F",
        source={"source": "made up"},
    )
    return recordings


def timed_file(path: Path, *, n_units: int = 140, n_bins: int = 7) -> np.ndarray:
    """Counts (10 trials, images, bins, units); units respond in bins 2 to 4, the last one never."""
    rng = np.random.default_rng(1)
    drive = rng.gamma(2.0, 3.0, (N_IMAGES, 1, n_units)) * np.linspace(0, 1, n_units)
    drive = np.where(np.isin(np.arange(n_bins), [2, 3, 4])[:, None], drive, 1.0)
    counts = rng.poisson(np.broadcast_to(drive, (10, N_IMAGES, n_bins, n_units))).astype(np.uint8)
    counts[6, 3, :, : n_units // 2] = MISSING
    counts[..., -1] = 0
    contents = NeuralFileContents(
        dataset="timed",
        stimuli=np.zeros((N_IMAGES, 3, 3), np.uint8),
        trials=np.arange(10),
        frame_ids=np.arange(N_IMAGES),
        time_s=0.005 + 0.01 * np.arange(n_bins),
        unit_columns={
            "unit_id": 100 + np.arange(n_units),
            "specimen_id": np.arange(n_units) % 2,
            "visual_area": np.array(["VISp"] * n_units, dtype=object),
        },
        units_of_measure="spikes/s",
        response_dtype=np.dtype(np.uint8),
    )
    with create_neural_file(path, contents) as stored:
        stored[...] = counts
    return counts


def by_hand(responses: np.ndarray, *, n_halves: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over halvings, unit after unit, in plain numpy."""
    n_trials, _, n_units = responses.shape
    each = np.full((n_halves, n_units), np.nan)
    generator = np.random.RandomState(seed)
    for halving in range(n_halves):
        order = list(range(n_trials))
        generator.shuffle(order)
        halves = [
            np.nanmean(responses[part], axis=0) for part in (order[: n_trials // 2], order[n_trials // 2 :])
        ]
        for unit in range(n_units):
            if halves[0][:, unit].std() > 0 and halves[1][:, unit].std() > 0:
                r = np.corrcoef(halves[0][:, unit], halves[1][:, unit])[0, 1]
                each[halving, unit] = 2 * r / (1 + r)
    return np.nanmean(each, axis=0), np.nanstd(each, axis=0)


def test_every_unit_of_averaged_recordings(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    recordings = averaged_file(path)
    report = measure_reliability(path, n_halves=20, seed=4)
    assert report.source == report.target == path
    data = open_dataset(path, selection="none")
    for written in recordings:
        read = data.recording(written.area, written.specimen)
        np.testing.assert_array_equal(read.responses, written.responses)
        mean, std = by_hand(written.responses.astype(float), n_halves=20, seed=4)
        np.testing.assert_allclose(read.units["reliability_mean"], mean, atol=1e-12)
        np.testing.assert_allclose(read.units["reliability_std"], std, atol=1e-12)
    # VISp/7, VISl/7, VISl/8, as in the file.
    stored = np.concatenate([data.recordings[place].units["reliability_mean"] for place in range(3)])
    np.testing.assert_array_equal(stored, report.mean)
    first, second = report.areas
    assert (first.area, first.n_specimens, first.n_units, first.n_undefined) == ("VISp", 1, 6, 0)
    assert (second.area, second.n_specimens, second.n_units) == ("VISl", 2, 12)
    assert second.median == np.median(report.mean[6:])
    assert second.at_least == {0.3: (report.mean[6:] >= 0.3).sum(), 0.5: (report.mean[6:] >= 0.5).sum()}
    record = data.provenance["reliabilities"]
    assert data.provenance["source"] == "made up"
    assert (record["n_halves"], record["seed"], record["n_trials"]) == (20, 4, [9, 12])  # type: ignore[index]


def test_every_bin_of_timed_recordings(tmp_path: Path) -> None:
    path = tmp_path / "timed.h5"
    counts = timed_file(path)
    rates = np.where(counts == MISSING, np.nan, counts * 100.0)
    seen = []
    report = measure_reliability(path, n_halves=8, progress=lambda done, total: seen.append((done, total)))
    assert report.mean.shape == (7, 140)
    for time_bin in range(7):
        each = split_half_reliability(rates[:, :, time_bin], n_halves=8, draws="per_unit_seed0")
        known = np.isfinite(each).any(axis=0)
        np.testing.assert_array_equal(np.isnan(report.mean[time_bin]), ~known)
        np.testing.assert_allclose(
            report.mean[time_bin, known], np.nanmean(each[:, known], axis=0), rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            report.std[time_bin, known], np.nanstd(each[:, known], axis=0), rtol=0, atol=1e-12
        )
    assert seen[-1] == (7 * 140, 7 * 140)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert report.undefined() == {"constant response in one half": 1}
    with open_neural_file(path) as file:
        np.testing.assert_array_equal(file.contents.reliabilities["splithalf_r_mean"], report.mean)
        np.testing.assert_array_equal(file.contents.reliabilities["splithalf_r_std"], report.std)
        np.testing.assert_array_equal(file.stored[...], counts)


def test_the_selection_then_applies(tmp_path: Path) -> None:
    path = tmp_path / "timed.h5"
    counts = timed_file(path)
    loose = selection_with(min_units=None)
    assert open_dataset(path, selection=loose).selection["applied"] is False
    report = measure_reliability(path, n_halves=30)
    data = open_dataset(path, selection=loose)
    assert data.selection["applied"] is True
    best = np.where(np.isnan(report.mean), -1, report.mean).max(axis=0)
    for recording in data.recordings:
        own = np.flatnonzero((best >= 0.5) & (np.arange(140) % 2 == recording.specimen))
        assert recording.unit_ids.tolist() == (100 + own).tolist()
        assert recording.time_bins == (2, 3, 4)
        expected = counts[:, :, 2:5, own].astype(float)
        expected[expected == MISSING] = np.nan
        np.testing.assert_array_equal(recording.responses, (expected.mean(axis=2) / 0.01).astype(np.float32))


def test_other_readers_find_the_columns(tmp_path: Path) -> None:
    timed_file(tmp_path / "timed.h5")
    averaged_file(tmp_path / "mine.h5")
    timed = measure_reliability(tmp_path / "timed.h5", n_halves=2)
    mine = measure_reliability(tmp_path / "mine.h5", n_halves=2)
    with xr.open_dataset(tmp_path / "timed.h5", engine="h5netcdf") as dataset:
        assert dataset["splithalf_r_mean"].dims == ("time_relative_to_stimulus_onset", "units")
        np.testing.assert_array_equal(dataset.coords["splithalf_r_mean"].values, timed.mean)
    with xr.open_dataset(tmp_path / "mine.h5", engine="h5netcdf") as dataset:
        np.testing.assert_array_equal(dataset.coords["reliability_std"].values, mine.std)


def test_stored_reliabilities_are_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    # Whole numbers, so that the column must change its type; and no standard deviation.
    averaged_file(path, reliability_mean=np.arange(6))
    before = path.read_bytes()
    with pytest.raises(
        UsageError, match=r"mine\.h5: has reliabilities already \(reliability_mean\)\n.*replace=True"
    ):
        measure_reliability(path)
    assert path.read_bytes() == before
    report = measure_reliability(path, n_halves=3, replace=True)
    assert report.replaced == ("reliability_mean",)
    with open_neural_file(path) as file:
        np.testing.assert_array_equal(file.contents.unit_columns["reliability_mean"], report.mean)
        np.testing.assert_array_equal(file.contents.unit_columns["reliability_std"], report.std)
    again = measure_reliability(path, n_halves=3, seed=1, replace=True)
    assert again.replaced == ("reliability_mean", "reliability_std")
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        np.testing.assert_array_equal(dataset["reliability_mean"].values, again.mean)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.h5"]


def test_a_copy_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path, copy = tmp_path / "mine.h5", tmp_path / "new" / "copy.h5"
    averaged_file(path)
    before = path.read_bytes()
    report = measure_reliability(path, n_halves=3, out=copy)
    assert path.read_bytes() == before
    with open_neural_file(copy) as file:
        np.testing.assert_array_equal(file.contents.unit_columns["reliability_mean"], report.mean)
    with pytest.raises(UsageError, match=r"copy\.h5: exists already\nreplace it with replace=True"):
        measure_reliability(path, n_halves=3, out=copy)
    assert measure_reliability(path, n_halves=4, out=copy, replace=True).replaced == ()


def test_reasons_for_undefined_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((6, N_IMAGES, 3)).astype(np.float32)
    values[:, :, 1] = 2.5
    values[1:, 9, 2] = np.nan
    recording = Recording.from_arrays(values, unit_ids=range(3), area="VISp", specimen=1)
    path = tmp_path / "mine.h5"
    write_neural_file(
        path, [recording], stimuli=np.zeros((N_IMAGES, 4, 4), np.uint8), units_of_measure="dF/F"
    )
    report = measure_reliability(path, n_halves=12)
    assert report.reasons.tolist() == [
        "",
        "constant response in one half",
        "no valid trial for some image in one half",
    ]
    assert np.isnan(report.mean).tolist() == [False, True, True]
    assert report.areas[0].n_undefined == 2
    assert report.areas[0].median == report.mean[0]
    # Undefined reliabilities reach no threshold.
    loose = selection_with(min_mean_reliability=-100.0, min_units=None)
    assert open_dataset(path, selection=loose).n_units == 1


def test_recomputed_reliabilities_agree_with_the_simulations_truth(tmp_path: Path) -> None:
    path = write_simulated(tmp_path / "simulated.h5")
    report = measure_reliability(path)
    truth = simulated_truth()
    data = open_dataset(path, selection="none")
    ids = np.concatenate([recording.unit_ids for recording in data.recordings])
    order = np.argsort(truth.unit_ids)[np.searchsorted(np.sort(truth.unit_ids), ids)]
    wanted = truth.reliability[order]
    # Fisher's z of the halves' correlation r = R / (2 - R) has a standard error of at most 1 / sqrt(118 - 3).
    z, true_z = (np.arctanh(values / (2 - values)) for values in (report.mean, wanted))
    error = 1 / np.sqrt(118 - 3)
    assert np.abs(z - true_z).max() < 5 * error
    assert abs(np.mean(z - true_z)) < 5 * error / np.sqrt(len(ids))


def test_a_file_changed_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.h5"
    averaged_file(path)
    original = module.split_half_moments

    def meddling(*arguments: np.ndarray) -> object:
        path.write_bytes(path.read_bytes() + b"more")
        return original(*arguments)

    monkeypatch.setattr(module, "split_half_moments", meddling)
    with pytest.raises(DataError, match=r"mine\.h5: changed while it was measured"):
        measure_reliability(path, n_halves=2)


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "timed.h5"
    timed_file(path)
    with h5py.File(path) as file:
        chunk = file["responses"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    # Files of other programs have no checksum, which would tell already.
    path.write_bytes(content.rpartition(b"\nmvkit crc32")[0])
    with pytest.raises(DataError, match=r"timed\.h5: responses of units 0 to 127 cannot be read"):
        measure_reliability(path, n_halves=2)
    assert [item.name for item in tmp_path.iterdir()] == ["timed.h5"]


@pytest.mark.parametrize(("option", "value"), [("n_halves", 0), ("seed", -1), ("seed", 2**32)])
def test_options_out_of_range(tmp_path: Path, option: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{option}={value}"):
        measure_reliability(tmp_path / "mine.h5", **{option: value})  # type: ignore[arg-type]


def test_the_record_of_mvkits_own_files_stays_true(tmp_path: Path) -> None:
    request = FetchRequest(home=tmp_path)
    path = tmp_path / "neural" / "simulated.h5"
    path.parent.mkdir()
    averaged_file(path)
    assert fetch_neural("simulated", request).files[0].status == "already there"  # and on record from now on
    measure_reliability(path, n_halves=2, home=tmp_path)
    assert not verify_files("neural", ["simulated"], request).failures
    assert fetch_neural("simulated", request).files[0].status == "already there"
    record = json.loads((tmp_path / "manifest.json").read_text())["files"]["neural/simulated.h5"]
    assert record["made_from"]["reliabilities"]["n_halves"] == 2


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """A process that may write no file longer than the present one."""
    path = tmp_path / "mine.h5"
    averaged_file(path)
    before = path.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from mvkit.cli.main import run\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before)}, {len(before)}))\n"
        "sys.exit(run(['fetch', 'reliability', sys.argv[1], '--halves', '2']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "mine.h5: not written" in done.stderr and "Traceback" not in done.stderr
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["mine.h5"]


def test_threads_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With responses that are no whole numbers, whose sums depend on their order."""
    path = tmp_path / "mine.h5"
    averaged_file(path)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(module, "_MOST_THREADS", threads)
        found.append(measure_reliability(path, n_halves=9, out=tmp_path / f"{threads}.h5"))
    np.testing.assert_array_equal(found[0].mean, found[1].mean)
    np.testing.assert_array_equal(found[0].std, found[1].std)
