"""Sessions read with h5py alone: everything equals what was recorded, by arithmetic."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from mvkit.allen.neuropixels import NeuropixelsReader
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import SessionRecording
from mvkit.errors import DataError, UsageError

FRAMES = "intervals/natural_scenes_presentations/frame"
NO_LIMITS = {"max_isi_violations": np.inf, "max_amplitude_cutoff": np.inf, "min_presence_ratio": -np.inf}


def read(folder: Path, session_id: int, **request: Any) -> SessionRecording:
    reader = NeuropixelsReader(folder)
    (source,) = [one for one in reader.sessions() if one.session_id == session_id]
    return reader.read(source, SessionRequest(**request))


@pytest.mark.parametrize("session_id", [7101, 7102, 7103])
def test_files_that_allensdk_opens_give_the_truth(allen_files: Path, session_id: int) -> None:
    found = read(allen_files, session_id)
    with np.load(allen_files / f"truth_{session_id}.npz") as truth:
        assert np.array_equal(found.responses, truth["counts"])
        # The files hold spikes on edges, which would tell.
        assert not np.array_equal(found.responses, truth["counts_half_open"])
        assert np.array_equal(found.present, truth["present"])
        assert np.array_equal(found.frame_ids, truth["frame_ids"])
        assert np.array_equal(found.stimuli, truth["stimuli"])
        assert found.specimen_id == truth["specimen_id"]
        columns = {
            "image_selectivity_ns": "image_selectivity",
            "run_pval_ns": "p_running",
            **{name: name for name in ("unit_id", "visual_area", "isi_violations", "snr")},
        }
        for name, stored_name in columns.items():
            equal_nan = truth[stored_name].dtype.kind == "f"
            assert np.array_equal(found.unit_columns[name], truth[stored_name], equal_nan=equal_nan), name


def test_sessions_of_47_presentations_and_cut_short_lack_the_rest(allen_files: Path) -> None:
    fewer = read(allen_files, 7102).present
    assert fewer.shape == (50, 12)
    assert set(fewer.sum(axis=0).tolist()) >= {47, 49, 50}
    assert (np.diff(fewer.astype(int), axis=0) <= 0).all(), "missing presentations come last"
    assert read(allen_files, 7103).present.shape == (48, 12)


@pytest.mark.parametrize(
    ("bin_ms", "window_ms"),
    [(10.0, (0.0, 250.0)), (25.0, (-50.0, 200.0)), (0.5, (40.0, 60.0)), (250.0, (0.0, 250.0))],
)
def test_other_bins_equal_arithmetic(
    sessions: ModuleType,
    write_folder: Callable[..., Any],
    tmp_path: Path,
    bin_ms: float,
    window_ms: tuple[float, float],
) -> None:
    made = sessions.draw_session(31, units_per_area={"VISp": 3, "VISl": 2}, seed=4, n_trials=5, fewer={2: 3})
    made = replace(
        made, units=tuple(sessions.with_edge_spikes(unit, made.presentations, bin_ms) for unit in made.units)
    )
    write_folder(tmp_path, made)
    found = read(tmp_path, 31, bin_ms=bin_ms, window_ms=window_ms)
    units = sessions.kept_units(made, SessionRequest().areas)
    frames, present, counts = sessions.expected_counts(made, units, bin_ms=bin_ms, window_ms=window_ms)
    assert np.array_equal(found.responses, counts) and counts.sum() > 20
    assert np.array_equal(found.present, present) and np.array_equal(found.frame_ids, frames)
    assert found.unit_columns["unit_id"].tolist() == [unit.unit_id for unit in units]


def test_limits_on_quality(sessions: ModuleType, write_folder: Callable[..., Any], tmp_path: Path) -> None:
    made = sessions.draw_session(31, units_per_area={"VISp": 2}, seed=4, n_trials=3)
    write_folder(tmp_path, made)

    def kept(**limits: float) -> set[int]:
        # The odd units that were drawn have ids ending in 900 to 910.
        ids = read(tmp_path, 31, areas=("VISp", "LGd", "CA1"), **limits).unit_columns["unit_id"]
        return {int(unit) - 31900 for unit in ids if unit >= 31900}

    silent, on_another, isi, amplitude, presence, unknown, hippocampus, shell = 0, 1, 3, 4, 5, 6, 7, 8
    usual = {silent, on_another, hippocampus, shell}
    assert kept() == usual
    assert kept(max_isi_violations=np.inf) == usual | {isi}
    assert kept(max_amplitude_cutoff=0.3) == usual | {amplitude}
    assert kept(min_presence_ratio=0.9) == usual | {presence}
    # A metric that is not known fails under any limit, as in AllenSDK.
    assert unknown not in kept(**NO_LIMITS)


def test_a_part_of_an_area_counts_as_the_area(
    sessions: ModuleType, write_folder: Callable[..., Any], tmp_path: Path
) -> None:
    write_folder(tmp_path, sessions.draw_session(31, units_per_area={"VISp": 1}, seed=4, n_trials=2))
    assert read(tmp_path, 31, areas=("LGd",)).unit_columns["visual_area"].tolist() == ["LGd"]


def test_areas_that_are_not_there_give_no_units(allen_files: Path) -> None:
    found = read(allen_files, 7102, areas=("VISl",))
    assert found.responses.shape == (50, 12, 25, 0) and found.n_units == 0


def test_without_tables_the_subject_is_the_animal_and_metrics_are_unknown(
    sessions: ModuleType, write_folder: Callable[..., Any], tmp_path: Path
) -> None:
    made = sessions.draw_session(31, units_per_area={"VISp": 2}, seed=4, n_trials=2)
    write_folder(tmp_path, made)
    found = read(tmp_path, 31)
    assert found.specimen_id == made.subject_id
    assert np.isnan(found.unit_columns["run_pval_ns"]).all()
    assert np.isnan(found.unit_columns["image_selectivity_ns"]).all()


def test_metrics_of_units_csv(sessions: ModuleType, write_folder: Callable[..., Any], tmp_path: Path) -> None:
    made = sessions.draw_session(31, units_per_area={"VISp": 3}, seed=4, n_trials=2)
    write_folder(tmp_path, made)
    first, second, *_ = read(tmp_path, 31).unit_columns["unit_id"].tolist()
    (tmp_path / "units.csv").write_text(
        f"unit_id,image_selectivity_ns,p_value_running_ns\n{second},0.25,\n{first},,1e-3\n99,1,1\n"
    )
    columns = read(tmp_path, 31).unit_columns
    assert columns["run_pval_ns"][:2].tolist()[0] == 1e-3 and np.isnan(columns["run_pval_ns"][1:]).all()
    assert columns["image_selectivity_ns"][1] == 0.25 and np.isnan(columns["image_selectivity_ns"][0])


def test_which_files_of_a_folder_are_sessions(allen_files: Path, tmp_path: Path) -> None:
    for name in ("session_7103/session_7103.nwb", "session_7101/probe_5_lfp.nwb", "any_name.nwb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        session = "7103" if "7103" in name else "7101"
        shutil.copy(allen_files / f"session_{session}" / f"session_{session}.nwb", tmp_path / name)
    assert [one.session_id for one in NeuropixelsReader(tmp_path).sessions()] == [7101, 7103]
    rows = "id,specimen_id,session_type\n7101,5,functional_connectivity\n7103,6,brain_observatory_1.1\n"
    (tmp_path / "sessions.csv").write_text(rows)
    assert [one.session_id for one in NeuropixelsReader(tmp_path).sessions()] == [7103]
    shutil.copy(tmp_path / "session_7103" / "session_7103.nwb", tmp_path / "session_7103.nwb")
    with pytest.raises(DataError, match="session 7103 is there twice"):
        NeuropixelsReader(tmp_path).sessions()


def test_a_folder_as_dandi_lays_it_out(allen_files: Path, tmp_path: Path) -> None:
    # DANDI:000021: a folder for an animal; field potentials of the probes beside its session.
    for animal, number in ((699733573, 7101), (703279277, 7103)):
        folder = tmp_path / f"sub-{animal}"
        folder.mkdir()
        name = f"sub-{animal}_ses-{number}"
        shutil.copy(allen_files / f"session_{number}" / f"session_{number}.nwb", folder / f"{name}.nwb")
        for probe in (810755797, 810755799):
            with h5py.File(folder / f"{name}_probe-{probe}_ecephys.nwb", "w") as file:
                file["identifier"] = str(probe)
    shutil.copytree(allen_files / "natural_scene_templates", tmp_path / "natural_scene_templates")
    assert [one.session_id for one in NeuropixelsReader(tmp_path).sessions()] == [7101, 7103]
    with np.load(allen_files / "truth_7103.npz") as truth:
        assert np.array_equal(read(tmp_path, 7103).responses, truth["counts"])


def test_the_number_of_a_session_is_in_its_file(allen_files: Path, tmp_path: Path) -> None:
    shutil.copy(allen_files / "session_7101" / "session_7101.nwb", tmp_path / "mouse.nwb")
    with h5py.File(tmp_path / "mouse.nwb", "r+") as file:
        del file["identifier"]
        file["identifier"] = "7f3c-a"
    # Its file has it as 'session_id', too.
    assert [one.session_id for one in NeuropixelsReader(tmp_path).sessions()] == [7101]
    with h5py.File(tmp_path / "mouse.nwb", "r+") as file:
        del file["general/session_id"]
    with pytest.raises(DataError, match=r"mouse\.nwb: its 'identifier' is no number of a session"):
        NeuropixelsReader(tmp_path).sessions()


def test_the_table_of_channels_corrects_areas(allen_files: Path, tmp_path: Path) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    before = read(tmp_path, 7101)
    rows = (tmp_path / "channels.csv").read_text().splitlines()
    # Those in VISl lie in VISal now; those in VISam outside the brain.
    corrected = [row.replace(",VISl", ",VISal").replace(",VISam", ",") for row in rows]
    (tmp_path / "channels.csv").write_text("\n".join([*corrected, ""]))
    after = read(tmp_path, 7101)
    areas = before.unit_columns["visual_area"]
    inside = areas != "VISam"
    assert {"VISl", "VISam"} < set(areas)
    expected = np.where(areas == "VISl", "VISal", areas)[inside]
    assert after.unit_columns["visual_area"].tolist() == expected.tolist()
    assert after.unit_columns["unit_id"].tolist() == before.unit_columns["unit_id"][inside].tolist()
    assert np.array_equal(after.responses, before.responses[..., inside])


@pytest.mark.parametrize(("name", "words"), [("missing", "no such folder"), (".", "no session files")])
def test_a_folder_without_sessions_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        NeuropixelsReader(tmp_path / name).sessions()


def _remove(file: Any, name: str) -> None:
    del file[name]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: _remove(file, "units/peak_channel_id"), "no 'peak_channel_id'"),
        (lambda file: _remove(file, "intervals"), "no 'intervals'"),
        (lambda file: _remove(file, "intervals/natural_scenes_presentations"), "no presentations of"),
        (lambda file: _remove(file, "units/spike_times_index"), "no 'spike_times_index'"),
        (lambda file: file["units/spike_times"].resize((5,)), "cut short"),
        (
            lambda file: file["intervals/natural_scenes_presentations/frame"].write_direct(
                np.full(650, -1.0)
            ),
            "no valid",
        ),
    ],
)
def test_a_file_that_lacks_something_is_named(
    allen_files: Path, tmp_path: Path, damage: Callable[[Any], None], words: str
) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "session_7101" / "session_7101.nwb"
    with h5py.File(path, "r+") as file:
        times = file["units/spike_times"][...]
        del file["units/spike_times"]
        file["units"].create_dataset("spike_times", data=times, chunks=True, maxshape=(None,))
        damage(file)
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path, 7101)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
def test_a_file_cut_short_is_named(allen_files: Path, tmp_path: Path, share: float) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "session_7101" / "session_7101.nwb"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"session_7101\.nwb: (not a readable session file|an empty file)"):
        read(tmp_path, 7101)


def test_a_missing_image_is_named(allen_files: Path, tmp_path: Path) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    (tmp_path / "natural_scene_templates" / "natural_scene_4.tiff").unlink()
    with pytest.raises(DataError, match="no image for frame 4"):
        read(tmp_path, 7101)


def test_images_in_the_file_serve_where_no_folder_has_them(allen_files: Path, tmp_path: Path) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "natural_scene_templates")
    with pytest.raises(DataError, match="no image for frame 0"):
        read(tmp_path, 7101)
    images = np.random.default_rng(0).integers(0, 256, (14, 5, 7), dtype=np.uint8)
    with h5py.File(tmp_path / "session_7101" / "session_7101.nwb", "r+") as file:
        file["stimulus/templates/natural_scenes_image_stack/data"] = images
    assert np.array_equal(read(tmp_path, 7101).stimuli, images[:12])


def test_a_folder_of_other_kinds_of_sessions_is_refused(allen_files: Path, tmp_path: Path) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    rows = "".join(f"{number},1,functional_connectivity\n" for number in (7101, 7102, 7103))
    (tmp_path / "sessions.csv").write_text(f"id,specimen_id,session_type\n{rows}")
    with pytest.raises(UsageError, match=r"no session of kind brain_observatory_1\.1"):
        NeuropixelsReader(tmp_path).sessions()


def test_a_file_named_after_another_session_is_refused(allen_files: Path, tmp_path: Path) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "session_7102/session_7102.nwb", tmp_path / "session_7101/session_7101.nwb")
    with pytest.raises(DataError, match="it is session 7102, not 7101"):
        read(tmp_path, 7101)


def test_folders_are_visited_once_and_links_to_nothing_count(allen_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    (folder / "session_7103").mkdir(parents=True)
    shutil.copy(allen_files / "session_7103/session_7103.nwb", folder / "session_7103/session_7103.nwb")
    (folder / "._session_7103.nwb").write_bytes(b"left by macOS")
    (folder / "latest").symlink_to("session_7103")
    (folder / "here").symlink_to(".")
    (folder / "session_7104.nwb").symlink_to(".git/annex/objects/K/K.nwb")
    sources = NeuropixelsReader(folder).sessions()
    assert [one.session_id for one in sources] == [7103, 7104]
    assert sources[0].path == folder / "session_7103/session_7103.nwb"
    with pytest.raises(DataError, match=r"session_7104\.nwb: a link to nothing .*datalad get"):
        NeuropixelsReader(folder).read(sources[1], SessionRequest())


def test_downloads_of_dandi_in_their_folder(allen_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "000021" / "sub-699"
    (folder / "sub-699_ses-7102.nwb.dandidownload").mkdir(parents=True)
    (folder / "sub-699_ses-7102.nwb.dandidownload" / "file").write_bytes(b"half")
    shutil.copy(allen_files / "session_7103/session_7103.nwb", folder / "sub-699_ses-7103_ecephys.nwb")
    with h5py.File(folder / "sub-699_ses-7103_probe-81_ecephys.nwb", "w") as file:
        file["identifier"] = "81"
    shutil.copy(folder / "sub-699_ses-7103_probe-81_ecephys.nwb", folder / "own_name.nwb")
    assert [one.session_id for one in NeuropixelsReader(tmp_path).sessions()] == [7103]
    (folder / "own_name.nwb").unlink()
    (folder / "sub-699_ses-7103_ecephys.nwb").unlink()
    with pytest.raises(UsageError, match=r"no session files .*; the 1 there are field potentials of single"):
        NeuropixelsReader(tmp_path).sessions()


def _units_csv(folder: Path, text: str | bytes) -> SessionRecording:
    for path in folder.rglob("*analysis_metrics.csv"):
        path.unlink()
    (folder / "units.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return read(folder, 7101)


def test_tables_of_spreadsheet_programs(allen_files: Path, tmp_path: Path) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    first, second = read(tmp_path, 7101).unit_columns["unit_id"][:2]
    header = "ecephys_unit_id,image_selectivity_ns,p_value_running_ns"
    rows = [header, f"{first}.0,0.25,0.5", f"{second},,0.75,,", ",,", ""]
    text = "\r\n".join(rows)
    semicolons = "sep=;\r\n" + text.replace(",", ";")
    for content in ("\ufeff" + text, semicolons, text.replace(",", "\t").encode("utf-16")):
        columns = _units_csv(tmp_path, content).unit_columns
        assert columns["run_pval_ns"][:2].tolist() == [0.5, 0.75]
        assert columns["image_selectivity_ns"][0] == 0.25 and np.isnan(columns["image_selectivity_ns"][1])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("9.5E+08,1,0.5", "line 3: ecephys_unit_id: '9.5E\\+08' is no whole number with all its digits"),
        ("x,1,0.5", "line 3: ecephys_unit_id: 'x' is no whole number"),
        ('5,"0,25",0.5', "line 3: image_selectivity_ns is '0,25', expected a number"),
        ("5,1,#DIV/0!", "line 3: p_value_running_ns is '#DIV/0!', expected a number"),
        ("5,0,25,0,5", "line 3: more fields than the header has names"),
        ("5,0,caf\xe9", "not a readable table"),
    ],
)
def test_values_that_are_no_numbers_are_refused(
    allen_files: Path, tmp_path: Path, row: str, words: str
) -> None:
    shutil.copytree(allen_files, tmp_path, dirs_exist_ok=True)
    text = f"ecephys_unit_id,image_selectivity_ns,p_value_running_ns\n1,1,1\n{row}\n"
    with pytest.raises(DataError, match=rf"units\.csv: {words}"):
        _units_csv(tmp_path, text.encode("latin-1"))
