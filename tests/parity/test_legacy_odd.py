"""Odd files: re-saves by other software stacks, harmful pickles, and cut downloads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mvkit.errors import DataError
from mvkit.neural import PublishedRecording, convert_pickle, read_pickle_structure
from mvkit.neural import neural_file as layout


@pytest.fixture(scope="module")
def resaved(legacy: Path) -> dict[Path, PublishedRecording]:
    """Every re-saved file, read."""
    return {path: read_pickle_structure(path) for path in sorted((legacy / "odd" / "resaved").glob("*.pkl"))}


def _is_published_layout(recording: PublishedRecording) -> bool:
    return layout.TIME in recording.dims


def _content(recording: PublishedRecording) -> dict[str, Any]:
    content = {"responses": recording.load_responses(), "stimuli": recording.stimuli, **recording.labels}
    content |= {name: coordinate.values for name, coordinate in recording.coordinates.items()}
    return content | {
        f"{dim}/{name}": values for dim, levels in recording.levels.items() for name, values in levels.items()
    }


def test_every_stack_wrote_the_same_recording(resaved: dict[Path, PublishedRecording]) -> None:
    full = {path: recording for path, recording in resaved.items() if _is_published_layout(recording)}
    assert len(full) >= 2
    reference, *others = full.values()
    wanted = _content(reference)
    for recording in others:
        content = _content(recording)
        assert recording.dims == reference.dims
        assert content.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_array_equal(content[name], values, err_msg=f"{recording.source.path} {name}")


def test_the_missing_trial_is_where_it_was_put(resaved: dict[Path, PublishedRecording]) -> None:
    for recording in resaved.values():
        if not _is_published_layout(recording):
            continue
        values = recording.load_responses()
        missing = np.isnan(values).any(axis=tuple(range(2, values.ndim)))
        trials, frames = np.nonzero(missing)
        assert recording.labels["trials"][trials].tolist() == [3]
        assert recording.labels["frame_id"][frames].tolist() == [3]
        assert np.isnan(values[missing]).all()


def test_fortran_order_is_noticed(resaved: dict[Path, PublishedRecording]) -> None:
    orders = {path.stem.endswith("_fortran"): item.responses.memory_order for path, item in resaved.items()}
    n_axes = len(orders[True])
    assert orders[True] == tuple(reversed(range(n_axes)))
    assert orders[False] == tuple(range(len(orders[False])))


def test_conversions_agree_with_what_was_read(
    resaved: dict[Path, PublishedRecording], tmp_path: Path
) -> None:
    for path, recording in resaved.items():
        if not _is_published_layout(recording):
            continue
        convert_pickle(path, tmp_path / "out.h5", dataset="neuropixels")
        with xr.open_dataset(tmp_path / "out.h5", engine="h5netcdf") as dataset:
            np.testing.assert_array_equal(dataset["responses"].values, recording.load_responses())
            for name, column in recording.levels["units"].items():
                np.testing.assert_array_equal(dataset[name].values, column)
            for name, coordinate in recording.coordinates.items():
                np.testing.assert_array_equal(dataset[name].values, coordinate.values)
            frames = recording.labels["frame_id"]
            np.testing.assert_array_equal(dataset["stimuli"].values, recording.stimuli[frames])


def test_other_dimensions_and_missing_levels_are_read(resaved: dict[Path, PublishedRecording]) -> None:
    for recording in resaved.values():
        assert recording.responses.shape == recording.load_responses().shape
        for dim, levels in recording.levels.items():
            size = recording.responses.shape[recording.dims.index(dim)]
            assert {len(column) for column in levels.values()} == {size}
            assert {column.dtype.kind for column in levels.values()} <= set("iufU")


RUN_MALICIOUS = """
import json, sys
from pathlib import Path
from mvkit.errors import DataError
from mvkit.neural import convert_pickle, read_pickle_structure

import h5netcdf, h5py, numpy  # whatever open_neural_file may need is imported before
outcomes = {}
for name, hexadecimal in json.loads(Path(sys.argv[1]).read_text()).items():
    path = Path(f"{name}.pkl")
    path.write_bytes(bytes.fromhex(hexadecimal))
    before = set(sys.modules)
    try:
        read_pickle_structure(path)
    except DataError as error:
        outcomes[name] = str(error)
    for dataset in ("neuropixels", "calcium"):
        try:
            convert_pickle(path, Path("out.h5"), dataset=dataset)
        except DataError:
            continue
        outcomes.pop(name, None)
    new = {module for module in set(sys.modules) - before if not module.startswith("mvkit")}
    if new:
        outcomes[name] = f"IMPORTED {sorted(new)}"
    path.unlink()
print(json.dumps(outcomes))
"""


def test_harmful_pickles_are_refused_and_run_nothing(legacy: Path, tmp_path: Path) -> None:
    listing = (legacy / "odd" / "malicious.json").resolve()
    names = json.loads(listing.read_text())
    # The first read imports mvkit's own reader; do it before modules are watched.
    code = RUN_MALICIOUS.replace("outcomes = {}", "outcomes = {}\nimport mvkit.neural.convert", 1)
    result = subprocess.run(
        [sys.executable, "-c", code, str(listing)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    outcomes = json.loads(result.stdout)
    assert outcomes.keys() == names.keys()
    assert not [message for message in outcomes.values() if message.startswith("IMPORTED")]
    assert list(tmp_path.iterdir()) == [], "something was run or left behind"
    assert not Path("PICKLE_CODE_RAN").exists()


def test_a_harmful_name_is_told_with_its_place(legacy: Path, tmp_path: Path) -> None:
    listing = json.loads((legacy / "odd" / "malicious.json").read_text())
    for name, hexadecimal in listing.items():
        data = bytes.fromhex(hexadecimal)
        # A protocol 4 name: two short texts just before STACK_GLOBAL.
        if b"posix\x94\x8c\x06system\x94\x93" not in data:
            continue
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(data)
        offset = data.index(b"system\x94\x93") + len(b"system\x94")
        with pytest.raises(DataError, match=rf"byte {offset}: it names posix\.system"):
            read_pickle_structure(path)


def test_cut_and_foreign_files_are_refused_clearly(legacy: Path, tmp_path: Path) -> None:
    for path in sorted((legacy / "odd" / "truncated").iterdir()):
        target = tmp_path / "out.h5"
        data = path.read_bytes()
        for dataset in ("neuropixels", "calcium"):
            with pytest.raises(DataError) as caught:
                convert_pickle(path, target, dataset=dataset)
            message = str(caught.value)
            assert path.name in message
            if not data:
                assert "empty" in message
            elif data.lstrip().startswith(b"<"):
                assert "HTML/XML error page" in message
            elif data.startswith(b"\x80"):
                assert f"ends after {len(data)} of at least" in message
                assert "download it again" in message
        assert list(tmp_path.iterdir()) == []


def test_every_cut_of_a_small_file_is_refused(legacy: Path, tmp_path: Path) -> None:
    smallest = min((legacy / "odd" / "resaved").glob("*.pkl"), key=lambda path: path.stat().st_size)
    data = smallest.read_bytes()
    path = tmp_path / "cut.pkl"
    for length in range(0, len(data), max(1, len(data) // 2500)):
        path.write_bytes(data[:length])
        with pytest.raises(DataError):
            read_pickle_structure(path)
