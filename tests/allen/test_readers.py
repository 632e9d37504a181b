"""What readers make of sessions whose spikes are known: equal to arithmetic, and to each other."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from sessions import (
    DEFAULT_LIMITS,
    PERIOD_S,
    Presentation,
    Session,
    Unit,
    draw_session,
    expected_counts,
    kept_units,
    scene_templates,
)

from mvkit.allen.folder import SessionFolder
from mvkit.allen.neuropixels import NeuropixelsReader
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import SessionRecording, SessionSource
from mvkit.errors import DataError

MADE = (7101, 7102, 7103)
METRICS = ("isi_violations", "amplitude_cutoff", "presence_ratio", "snr")


def read_with_h5py(folder: Path, session_id: int, request: SessionRequest) -> SessionRecording:
    """Read one session of a folder with h5py."""
    reader = NeuropixelsReader(folder)
    return reader.read(next(one for one in reader.sessions() if one.session_id == session_id), request)


def read_with_allensdk(
    oracle: ModuleType, folder: Path, session_id: int, request: SessionRequest
) -> SessionRecording:
    """Read one session of a folder with AllenSDK, in this process."""
    path = folder / f"session_{session_id}" / f"session_{session_id}.nwb"
    recording = oracle.read_session(path, folder, request)
    assert isinstance(recording, SessionRecording)
    return recording


def assert_same(one: SessionRecording, other: SessionRecording) -> None:
    """Compare all that is measured."""
    assert (one.session_id, one.specimen_id) == (other.session_id, other.specimen_id)
    for name in ("frame_ids", "responses", "present", "stimuli"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert list(one.unit_columns) == list(other.unit_columns)
    for name, column in one.unit_columns.items():
        np.testing.assert_array_equal(column, other.unit_columns[name], err_msg=name)
        assert column.dtype.kind == other.unit_columns[name].dtype.kind, name


def assert_truth(recording: SessionRecording, folder: Path) -> None:
    """Compare with what lies beside the committed files."""
    truth = np.load(folder / f"truth_{recording.session_id}.npz")
    assert recording.specimen_id == truth["specimen_id"]
    assert recording.responses.dtype == np.uint16
    np.testing.assert_array_equal(recording.responses, truth["counts"])
    for name in ("frame_ids", "present", "stimuli"):
        np.testing.assert_array_equal(getattr(recording, name), truth[name])
    for name in ("unit_id", "visual_area", *METRICS):
        np.testing.assert_array_equal(recording.unit_columns[name], truth[name])
    np.testing.assert_array_equal(recording.unit_columns["image_selectivity_ns"], truth["image_selectivity"])
    np.testing.assert_array_equal(recording.unit_columns["run_pval_ns"], truth["p_running"])


def write_sessions(folder: Path, sessions: list[Session], n_frames: int) -> Path:
    """Write sessions as files; only where pynwb 2 is."""
    from cache_folder import write_folder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_folder(folder, sessions, scene_templates(n_frames))
    return folder


@pytest.mark.parametrize("session_id", MADE)
def test_h5py_reads_the_truth(allen_files: Path, session_id: int) -> None:
    assert_truth(read_with_h5py(allen_files, session_id, SessionRequest()), allen_files)


@pytest.mark.parametrize("session_id", MADE)
def test_allensdk_reads_the_truth_and_what_h5py_reads(
    oracle: ModuleType, allen_files: Path, session_id: int
) -> None:
    recording = read_with_allensdk(oracle, allen_files, session_id, SessionRequest())
    assert_truth(recording, allen_files)
    assert_same(recording, read_with_h5py(allen_files, session_id, SessionRequest()))


def test_the_truth_has_what_must_be_tested(allen_files: Path) -> None:
    first, second, third = (np.load(allen_files / f"truth_{number}.npz") for number in MADE)
    assert (first["counts"] != first["counts_half_open"]).any(), "spikes on edges"
    for truth in (first, second, third):
        assert (truth["counts"].sum(axis=(0, 1, 2)) == 0).any(), "a unit without spikes"
    assert first["present"].all() and first["present"].shape[0] == 50
    assert set(second["visual_area"]) == {"VISp", "VISam"}, "areas are missing"
    assert second["present"][:, 3].sum() == 47
    assert not second["present"].all(axis=1)[-1]
    assert third["present"].sum() < 560, "cut short"


REQUESTS = [
    SessionRequest(areas=("VISam", "CA1", "LGd")),
    SessionRequest(bin_ms=5.0, window_ms=(-20.0, 30.0)),
    SessionRequest(bin_ms=250.0),
    SessionRequest(bin_ms=100.0, window_ms=(0.0, 1000.0)),
    SessionRequest(max_isi_violations=np.inf, max_amplitude_cutoff=np.inf, min_presence_ratio=-np.inf),
    SessionRequest(max_isi_violations=0.0),
    SessionRequest(max_amplitude_cutoff=0.05, min_presence_ratio=0.97),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: f"{one.digest[:6]}")
def test_other_requests_equal_arithmetic(
    oracle: ModuleType, tmp_path: Path, request_: SessionRequest
) -> None:
    session = draw_session(7301, units_per_area={"VISp": 3, "VISam": 2}, seed=4, n_frames=4, n_trials=9)
    write_sessions(tmp_path, [session], 4)
    limits = {
        "isi_violations": request_.max_isi_violations,
        "amplitude_cutoff": request_.max_amplitude_cutoff,
        "presence_ratio": request_.min_presence_ratio,
    }
    units = kept_units(session, request_.areas, limits)
    frames, present, counts = expected_counts(
        session, units, bin_ms=request_.bin_ms, window_ms=request_.window_ms
    )
    recording = read_with_allensdk(oracle, tmp_path, 7301, request_)
    assert [unit.unit_id for unit in units] == recording.unit_columns["unit_id"].tolist()
    np.testing.assert_array_equal(recording.frame_ids, frames)
    np.testing.assert_array_equal(recording.present, present)
    np.testing.assert_array_equal(recording.responses, counts)
    assert_same(recording, read_with_h5py(tmp_path, 7301, request_))


def edge_session() -> Session:
    """A session written out by hand: two frames, three presentations of the first, two of the second."""
    onsets = [4.0, 4.25, 4.5, 4.75, 5.0, 5.25]
    frames = [0, 1, 0, -1, 1, 0]
    shown = [
        Presentation(start, start + PERIOD_S, frame=float(frame), block=1.0)
        for start, frame in zip(onsets, frames, strict=True)
    ]
    shown[1] = replace(shown[1], stop_s=shown[1].start_s + 0.03)
    edges = 4.0 + 10.0 * np.arange(26) / 1000
    beside = [np.nextafter(4.5, 0), np.nextafter(4.75, 9), 3.9, 9.0]
    spikes = {1: edges, 2: np.empty(0), 3: np.sort(beside), 4: 5.001 + np.arange(300) * 1e-5}
    units = tuple(
        Unit(unit_id=number, location="VISp", spikes_s=times, vertical_um=20 * number)
        for number, times in spikes.items()
    )
    return Session(7400, 7800, units, (Presentation(0.0, 4.0, "spontaneous"), *shown))


@pytest.mark.parametrize("reader", ["allensdk", "h5py"])
def test_edges_of_bins_by_hand(oracle: ModuleType, tmp_path: Path, reader: str) -> None:
    write_sessions(tmp_path, [edge_session()], 2)
    if reader == "h5py":
        recording = read_with_h5py(tmp_path, 7400, SessionRequest())
    else:
        recording = read_with_allensdk(oracle, tmp_path, 7400, SessionRequest())
    assert recording.responses.shape == (3, 2, 25, 4)
    assert recording.present.tolist() == [[True, True], [True, True], [True, False]]
    on_edges, silent, beside, burst = np.moveaxis(recording.responses.astype(int), -1, 0)
    # Both ends of a bin belong to it: a spike on every edge is two in every bin, one of them shared.
    assert on_edges[0, 0].tolist() == [2] * 25
    # The window's end is the next presentation's onset.
    assert on_edges[0, 1].tolist() == [1, *[0] * 24] and on_edges.sum() == 51
    assert silent.sum() == 0
    # Just before an onset belongs to the presentation before; just after a window's end, to the grey frame.
    assert beside[0, 1, -1] == 1 and beside.sum() == 1
    assert burst[1, 1, 0] == 300 and burst.sum() == 300
    assert recording.responses[2, 1].sum() == 0


def test_all_scenes_fifty_times(oracle: ModuleType, full_folder: Path) -> None:
    from conftest import full_session

    session = full_session()
    units = kept_units(session, SessionRequest().areas, DEFAULT_LIMITS)
    frames, present, counts = expected_counts(session, units)
    recording = read_with_allensdk(oracle, full_folder, 7200, SessionRequest())
    assert recording.responses.shape == (50, 118, 25, len(units))
    np.testing.assert_array_equal(recording.frame_ids, np.arange(118))
    assert present.sum() == 118 * 50 - 3 - (recording.present.shape[0] * 118 - 3 - recording.present.sum())
    np.testing.assert_array_equal(recording.frame_ids, frames)
    np.testing.assert_array_equal(recording.present, present)
    np.testing.assert_array_equal(recording.responses, counts)
    assert_same(recording, read_with_h5py(full_folder, 7200, SessionRequest()))


def test_a_session_without_the_areas_is_read_with_no_units(oracle: ModuleType, allen_files: Path) -> None:
    request = SessionRequest(areas=("VISpor",))
    recording = read_with_allensdk(oracle, allen_files, 7102, request)
    assert recording.responses.shape == (50, 12, 25, 0)
    assert_same(recording, read_with_h5py(allen_files, 7102, request))


def test_images_in_the_file_serve_where_no_folder_has_them(oracle: ModuleType, tmp_path: Path) -> None:
    from nwb_files import write_session

    images = scene_templates(2)
    path = tmp_path / "session_7400" / "session_7400.nwb"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_session(edge_session(), path, images)
    recording = read_with_allensdk(oracle, tmp_path, 7400, SessionRequest())
    np.testing.assert_array_equal(recording.stimuli, images)
    # No table of sessions: the animal is what the file calls it, and nothing is known of selectivity.
    assert recording.specimen_id == edge_session().subject_id
    assert np.isnan(recording.unit_columns["image_selectivity_ns"]).all()
    assert_same(recording, read_with_h5py(tmp_path, 7400, SessionRequest()))


def test_a_project_cache_is_read_as_allensdk_reads_it(
    oracle: ModuleType, allen_files: Path, tmp_path: Path
) -> None:
    # The table of channels corrects areas: of some units, and of some to none.
    cache = Path(shutil.copytree(allen_files, tmp_path / "cache"))
    rows = (cache / "channels.csv").read_text().splitlines()
    areas = ["VISp", "VISl", "LGd", "CA1", ""]
    corrected = [f"{row.rpartition(',')[0]},{areas[number % 5]}" for number, row in enumerate(rows[1:])]
    (cache / "channels.csv").write_text("\n".join([rows[0], *corrected, ""]))
    request = SessionRequest(areas=("VISp", "LGd"))
    for session_id in MADE:
        recording = oracle.read_cached_session(cache, request, session_id)
        assert_same(recording, read_with_h5py(cache, session_id, request))
        before = read_with_h5py(allen_files, session_id, request)
        assert set(recording.unit_columns["visual_area"]) == {"VISp", "LGd"}
        assert recording.unit_columns["unit_id"].tolist() != before.unit_columns["unit_id"].tolist()


def test_another_session_is_refused(allen_files: Path) -> None:
    path = allen_files / "session_7101" / "session_7101.nwb"
    with pytest.raises(DataError, match="it is session 7101, not 7102"):
        NeuropixelsReader(allen_files).read(SessionSource(7102, path), SessionRequest())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
def test_images_of_eight_bits_in_wider_types_are_read(tmp_path: Path, kind: type) -> None:
    image = scene_templates(1)[0]
    folder = tmp_path / "natural_scene_templates"
    folder.mkdir()
    Image.fromarray(image.astype(kind)).save(folder / "natural_scene_0.tiff")
    found = SessionFolder(tmp_path).templates("natural_scenes", np.array([0]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], image)


def test_images_that_are_not_grey_levels_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "natural_scene_templates"
    folder.mkdir()
    half = np.array([[0.5, np.nan]], dtype=np.float32)
    for pixels in (half, np.full((4, 4), 256, dtype=np.uint16), np.zeros((4, 4, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "natural_scene_0.tiff")
        with pytest.raises(DataError, match="expected a grey image of 8 bits"):
            SessionFolder(tmp_path).templates("natural_scenes", np.array([0]))
