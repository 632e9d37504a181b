"""Reading imaging experiments with h5py: responses by hand, what is chosen, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mvkit.allen.calcium import CalciumReader, mean_sweep_responses, order_sweeps
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import SessionRecording
from mvkit.errors import DataError, UsageError

REQUEST = SessionRequest("calcium")
PIPELINE = "processing/brain_observatory_pipeline"
Write = Callable[..., Path]


@pytest.fixture(name="write")
def _write(ophys_files: Any, tmp_path: Path) -> Write:
    """Writes an experiment, and lets its file be changed."""

    def write(number: int = 501, change: Callable[[h5py.File], None] | None = None, **drawn: Any) -> Path:
        experiment = ophys_files.draw_experiment(number, **drawn)
        path: Path = ophys_files.write_experiment(experiment, tmp_path / f"{number}.nwb")
        if change is not None:
            with h5py.File(path, "r+") as file:
                change(file)
        return path

    return write


def read(path: Path) -> SessionRecording:
    reader = CalciumReader(path.parent, REQUEST)
    (source,) = reader.sessions()
    return reader.read(source, REQUEST)


def numbers(reader: CalciumReader) -> list[int]:
    return [one.session_id for one in reader.sessions()]


def replaced(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def test_a_rise_of_ten_per_cent_is_ten() -> None:
    trace = np.full((3, 100), 100.0)
    trace[0, 40:54] = 110.0
    # Before and after the window nothing counts; in it the mean does.
    trace[1, 54:] = 900.0
    trace[1, :12] = 900.0
    trace[1, 40:47] = 150.0
    trace[2, 12:40] = [0.0, 200.0] * 14
    sweeps = order_sweeps(np.array([0.0, -1.0]), np.array([40, 47]), np.array([47, 54]), 100)
    assert mean_sweep_responses(trace, sweeps).tolist() == [
        [pytest.approx(10.0, abs=1e-12), pytest.approx(25.0, abs=1e-12), 0.0]
    ]


def test_a_baseline_of_nothing_is_missing() -> None:
    traces = np.ones((3, 80))
    traces[0, :40] = 0.0
    traces[1, 20] = np.nan
    sweeps = order_sweeps(np.array([4.0, -1.0]), np.array([40, 47]), np.array([47, 54]), 80)
    means = mean_sweep_responses(traces, sweeps)
    assert np.isnan(means[0, :2]).all() and means[0, 2] == 0.0


def test_what_ends_with_the_recording_is_averaged_as_far_as_it_goes() -> None:
    traces = np.full((1, 100), 10.0)
    traces[0, 90:] = np.arange(10) + 10
    frames, start = np.array([0.0, 1.0, 2.0, 3.0]), np.array([27, 28, 90, 100])
    sweeps = order_sweeps(frames, start, start + 7, 100)
    # No baseline for the first, no sample of the last.
    assert sweeps.shown.frame_ids.tolist() == [1, 2]
    assert mean_sweep_responses(traces, sweeps)[:, 0].tolist() == [0.0, pytest.approx(45.0)]


def test_the_length_is_that_of_the_second_presentation() -> None:
    start = np.array([60, 40, 50])
    sweeps = order_sweeps(np.array([0.0, 1.0, 2.0]), start, np.array([68, 46, 57]), 200)
    assert sweeps.length == 7 and sweeps.start.tolist() == [40, 50, 60]


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [([40], [47], "too few"), ([40, 50], [47, 50], "lasts 0 samples"), ([5, 9], [12, 16], "no valid")],
)
def test_presentations_that_cannot_be_used_are_reported(start: list[int], end: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        order_sweeps(np.zeros(len(start)), np.array(start), np.array(end), 100)


def test_only_experiments_with_the_scenes_in_the_areas_are_chosen(
    ophys_files: Any, write: Write, tmp_path: Path
) -> None:
    write(503)
    write(501)
    write(502, area="VISl")
    write(504, area="VISal", change=lambda file: file.move("stimulus/presentation", "stimulus/elsewhere"))
    ophys_files.write_experiment(ophys_files.draw_experiment(505), tmp_path / "505.nwb", stimulus="movie")
    write(
        506,
        change=lambda file: file["stimulus/presentation"].move("natural_scenes_stimulus", "natural_scenes"),
    )
    assert numbers(CalciumReader(tmp_path, REQUEST)) == [501, 502, 503, 506]
    assert numbers(CalciumReader(tmp_path, SessionRequest("calcium", areas=("VISl", "VISam")))) == [502]
    with pytest.raises(UsageError, match="no imaging experiment with 'natural_scenes' in VISrl"):
        CalciumReader(tmp_path, SessionRequest("calcium", areas=("VISrl",))).sessions()


def test_the_animal_is_known_by_tables_or_by_its_name(ophys_files: Any, tmp_path: Path) -> None:
    path = ophys_files.write_ophys_folder(tmp_path, [ophys_files.draw_experiment(501, specimen=7)])
    nwb = path / "ophys_experiment_data" / "501.nwb"
    found = []
    for table in ("neither.json", "ophys_experiments.json", "cell_specimens.json"):
        (path / table).unlink(missing_ok=True)
        (source,) = CalciumReader(path, REQUEST).sessions()
        found.append(CalciumReader(path, REQUEST).read(source, REQUEST).specimen_id)
    with h5py.File(nwb, "r+") as file:
        del file["general/specimen_name"]
    (source,) = CalciumReader(path, REQUEST).sessions()
    found.append(CalciumReader(path, REQUEST).read(source, REQUEST).specimen_id)
    assert found == [496_908_007, 496_908_007, 222_407, 501]


def test_failed_experiments_are_left_out(ophys_files: Any, tmp_path: Path) -> None:
    made = [ophys_files.draw_experiment(501), replace(ophys_files.draw_experiment(502), failed=True)]
    assert numbers(CalciumReader(ophys_files.write_ophys_folder(tmp_path, made), REQUEST)) == [501]


def test_the_file_reports_its_number_where_its_name_does_not(write: Write, tmp_path: Path) -> None:
    write(501).rename(tmp_path / "mouse.nwb")
    assert numbers(CalciumReader(tmp_path, REQUEST)) == [501]
    (tmp_path / "again").mkdir()
    write(501).rename(tmp_path / "again" / "501.nwb")
    with pytest.raises(DataError, match="session 501 is there twice"):
        CalciumReader(tmp_path, REQUEST).sessions()


def test_a_damaged_file_fails_alone(write: Write, tmp_path: Path) -> None:
    write(501)
    path = write(502)
    path.write_bytes(path.read_bytes()[:9000])
    reader = CalciumReader(tmp_path, REQUEST)
    sources = reader.sessions()
    assert [one.session_id for one in sources] == [501, 502]
    assert reader.read(sources[0], REQUEST).n_units == 4
    with pytest.raises(DataError, match=r"502\.nwb: not a readable session file"):
        reader.read(sources[1], REQUEST)
    path.rename(tmp_path / "mouse.nwb")
    with pytest.raises(DataError, match=r"mouse\.nwb"):
        reader.sessions()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            replaced("stimulus/templates/natural_scenes_image_stack", None),
            "no images 'stimulus/templates/nat",
        ),
        (replaced("stimulus/templates/natural_scenes_image_stack/data", np.zeros((6, 4, 4))), "of 8 bits"),
        (replaced(f"{PIPELINE}/Fluorescence/imaging_plane_1_demixed_signal", None), "it has no .*demixed"),
        (
            replaced(f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response/r", np.ones(3)),
            "do not fit 4 cells",
        ),
        (
            replaced(f"{PIPELINE}/Fluorescence/imaging_plane_1/timestamps", np.ones(9)),
            "no valid presentation",
        ),
        (
            replaced("stimulus/presentation/natural_scenes_stimulus/frame_duration", np.ones((3, 2))),
            "30|35 frames",
        ),
        (replaced("general/generated_by", np.bytes_("x")), "ends with 'x', expected a version"),
        (replaced(f"{PIPELINE}/ImageSegmentation", None), "it has no .*ImageSegmentation"),
    ],
)
def test_what_a_file_lacks_is_reported(write: Write, change: Callable[[h5py.File], None], words: str) -> None:
    path = write(501, change)
    with pytest.raises(DataError, match=rf"501\.nwb: .*({words})"):
        read(path)


def test_versions_are_read_from_lists_and_texts(write: Write, ophys_files: Any) -> None:
    wanted = ophys_files.expected_responses(ophys_files.draw_experiment(501))[1]
    for value in (np.array([b"made by", b"2.0.2"]), np.bytes_("pipeline 3"), b"2"):
        recording = read(write(501, replaced("general/generated_by", value)))
        np.testing.assert_allclose(recording.responses, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cell_specimens.json", "[{", "not a readable table"),
        ("cell_specimens.json", '{"a": 1}', "expected a list"),
        ("cell_specimens.json", "[1]", "not a table of cells"),
        ("cell_specimens.json", '[{"cell_specimen_id": 1, "p_ns": "x"}]', "not a readable table"),
        ("ophys_experiments.json", '[{"specimen_id": 1}]', "not a table of experiments"),
    ],
)
def test_damaged_tables_are_reported(write: Write, tmp_path: Path, name: str, text: str, words: str) -> None:
    path = write(501)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}: {words}"):
        read(path)


def test_a_folder_of_nothing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no session files"):
        CalciumReader(tmp_path, REQUEST).sessions()
    with pytest.raises(UsageError, match="no such folder"):
        CalciumReader(tmp_path / "nowhere", REQUEST).sessions()


def test_files_of_dandi_are_refused_in_words(write: Write, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "sub-1_ses-501_behavior+ophys.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
    with pytest.raises(UsageError, match=r"ophys\.nwb: NWB 2, as DANDI has it; calcium experiments are read"):
        CalciumReader(tmp_path, SessionRequest()).sessions()
