"""Sessions assembled into a neural file; failures, repetition, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mvkit
from mvkit.allen import environment
from mvkit.allen import fetch as fetch_module
from mvkit.allen.environment import AllenPython
from mvkit.allen.fetch import fetch_sessions, plan_sessions
from mvkit.allen.neuropixels import NeuropixelsReader
from mvkit.allen.request import SessionRequest
from mvkit.errors import DataError, UsageError
from mvkit.fetch.download import Feedback
from mvkit.fetch.run import FetchReport, FetchRequest, verify_files
from mvkit.files import format_bytes
from mvkit.neural import NeuralFileContents, open_neural_file
from mvkit.pipeline.reliability import measure_reliability


@pytest.fixture
def folder(allen_files: Path, tmp_path: Path) -> Path:
    """A copy of the committed sessions that a test may damage."""
    return Path(shutil.copytree(allen_files, tmp_path / "sessions"))


@pytest.fixture
def fetch(tmp_path: Path, folder: Path) -> Callable[..., tuple[FetchReport, list[str]]]:
    """Fetches from that folder; returns the report and the messages."""

    def act(
        *, force: bool = False, keep_raw: bool = False, measured: bool = False, **changes: Any
    ) -> tuple[FetchReport, list[str]]:
        messages: list[str] = []
        how = FetchRequest(
            tmp_path / "home", force=force, keep_raw=keep_raw, feedback=Feedback(messages.append)
        )
        measure = measure_reliability if measured else None
        return fetch_sessions(session_request(folder, **changes), how, measure=measure), messages

    return act


def session_request(folder: Path, **changes: Any) -> SessionRequest:
    return SessionRequest(folder=folder, **changes)


def stored(report: FetchReport) -> tuple[NeuralFileContents, np.ndarray]:
    assert not report.failures, report.failures
    with open_neural_file(report.files[-1].path) as file:
        return file.contents, file.stored[...]


def statuses(report: FetchReport) -> list[str]:
    return [outcome.status for outcome in report.files]


def test_the_file_equals_a_direct_computation(fetch: Any, allen_files: Path) -> None:
    contents, responses = stored(fetch()[0])
    truths = [np.load(allen_files / f"truth_{number}.npz") for number in (7101, 7102, 7103)]
    # uint8 counts; 255 where a presentation is missing: fewer of some images, or of all in a short session.
    parts = []
    for truth in truths:
        counts = np.full((50, *truth["counts"].shape[1:]), 255, dtype=np.uint8)
        n_trials = len(truth["present"])
        counts[:n_trials] = np.where(truth["present"][..., None, None], truth["counts"], 255)
        parts.append(counts)
    assert responses.dtype == np.uint8 and np.array_equal(responses, np.concatenate(parts, axis=-1))
    columns = contents.unit_columns
    for name, stored_name in {
        "unit_id": "unit_id",
        "visual_area": "visual_area",
        "run_pval_ns": "p_running",
    }.items():
        joined = np.concatenate([truth[stored_name] for truth in truths])
        assert np.array_equal(columns[name], joined, equal_nan=joined.dtype.kind == "f"), name
    n_units = [len(truth["unit_id"]) for truth in truths]
    assert columns["specimen_id"].tolist() == np.repeat([7501, 7502, 7503], n_units).tolist()
    assert columns["session_id"].tolist() == np.repeat([7101, 7102, 7103], n_units).tolist()
    assert set(columns["n_trials"].tolist()) == {50}
    assert contents.trials.tolist() == list(range(1, 51)) and contents.frame_ids.tolist() == list(range(12))
    assert contents.time_s is not None and np.allclose(contents.time_s, np.arange(0.005, 0.25, 0.01))
    assert np.array_equal(contents.stimuli, truths[0]["stimuli"])
    assert contents.units_of_measure == "spikes/s" and contents.dataset == "neuropixels"
    assert contents.provenance["reader"] == "h5py" and contents.provenance["stored_as"] == "uint8 counts"
    sessions = contents.provenance["sessions"]
    assert isinstance(sessions, list)
    assert [one["n_units"] for one in sessions] == n_units
    json.dumps(contents.provenance)


def test_responses_as_a_user_opens_them(fetch: Any, allen_files: Path) -> None:
    report, _ = fetch()
    dataset = mvkit.open_dataset(report.files[-1].path, selection="none")
    truth = np.load(allen_files / "truth_7102.npz")
    units = np.flatnonzero(truth["visual_area"] == "VISam")
    means = truth["counts"][..., units].mean(axis=2) * 100
    means[~truth["present"]] = np.nan
    (recording,) = [one for one in dataset.recordings if (one.area, one.specimen) == ("VISam", 7502)]
    assert np.allclose(recording.responses, means, equal_nan=True)
    assert recording.unit_ids.tolist() == truth["unit_id"][units].tolist()


def test_more_units_than_a_chunk_holds(
    sessions: ModuleType, write_folder: Callable[..., Any], tmp_path: Path
) -> None:
    made = [
        sessions.draw_session(number, units_per_area={"VISp": count}, seed=number, n_frames=3, n_trials=4)
        for number, count in ((41, 70), (42, 150), (43, 1), (44, 60))
    ]
    # Drawn numbers repeat among so many.
    made = [
        replace(
            one,
            units=tuple(replace(unit, unit_id=1000 * one.session_id + k) for k, unit in enumerate(one.units)),
        )
        for one in made
    ]
    folder = tmp_path / "sessions"
    folder.mkdir()
    write_folder(folder, *made, n_frames=3)
    contents, responses = stored(fetch_sessions(session_request(folder), FetchRequest(tmp_path / "home")))
    kept = [sessions.kept_units(one, ("VISp",)) for one in made]
    counts = [sessions.expected_counts(one, units)[2] for one, units in zip(made, kept, strict=True)]
    assert contents.n_units > 256
    assert np.array_equal(responses, np.concatenate(counts, axis=-1))
    assert contents.unit_columns["unit_id"].tolist() == [unit.unit_id for units in kept for unit in units]


def test_other_bins_are_stored_as_rates(fetch: Any, allen_files: Path) -> None:
    contents, responses = stored(fetch(bin_ms=250)[0])
    truth = np.load(allen_files / "truth_7101.npz")
    assert responses.dtype == np.float32 and responses.shape[2] == 1
    # Spikes on inner edges count twice in bins of 10 ms, so only units without such are the same.
    plain = (truth["counts"] == truth["counts_half_open"]).all(axis=(0, 1, 2))
    sums = truth["counts"].sum(axis=2, dtype=np.int64)
    units = np.flatnonzero(plain)
    assert len(units) > 5
    assert np.array_equal(responses[:, :, 0, units], sums[..., units].astype(np.float32) * 4)
    assert "rates" in str(contents.provenance["remark"])
    absent = np.isnan(responses[:, :, 0, 16:26]).all(axis=-1)
    assert np.array_equal(absent, ~np.load(allen_files / "truth_7102.npz")["present"])


def test_areas_that_some_sessions_lack(fetch: Any) -> None:
    contents, _ = stored(fetch(areas=("VISl",))[0])
    assert set(contents.unit_columns["session_id"].tolist()) == {7101, 7103}


def test_no_unit_at_all_is_refused(fetch: Any) -> None:
    with pytest.raises(DataError, match="no unit in any of 1 session"):
        fetch(areas=("VISl",), sessions=(7102,))


def test_chosen_and_excluded_sessions(fetch: Any) -> None:
    contents, _ = stored(fetch(sessions=(7103, 7101), exclude=(7103,))[0])
    assert set(contents.unit_columns["session_id"].tolist()) == {7101}
    with pytest.raises(UsageError, match="no session 7104; did you mean '710"):
        fetch(sessions=(7104,))
    with pytest.raises(UsageError, match="no session remains"):
        fetch(sessions=(7101,), exclude=(7101,))


def test_a_failing_session_is_tried_twice_reported_and_can_be_left_out(
    fetch: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "session_7102" / "session_7102.nwb"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20000])
    read, asked = NeuropixelsReader.read, []

    def counting(self: NeuropixelsReader, source: Any, request: Any) -> Any:
        asked.append(source.session_id)
        return read(self, source, request)

    monkeypatch.setattr(NeuropixelsReader, "read", counting)
    report, messages = fetch()
    assert asked == [7101, 7102, 7102, 7103]
    assert statuses(report) == ["read", "failed", "read", "failed"]
    assert "session_7102.nwb" in str(report.files[1].error)
    assert "--exclude-sessions 7102" in str(report.files[-1].error)
    assert any("trying once more" in message for message in messages)
    assert not report.files[-1].path.exists()
    # The others stay: what was damaged is read when it has been mended.
    asked.clear()
    path.write_bytes(whole)
    mended, _ = fetch()
    assert asked == [7102] and statuses(mended) == ["already there", "read", "already there", "assembled"]
    path.write_bytes(whole[:-20000])
    report, _ = fetch(force=True, exclude=(7102,))
    assert set(stored(report)[0].unit_columns["session_id"].tolist()) == {7101, 7103}
    assert stored(report)[0].provenance["excluded_sessions"] == [7102]


def test_a_failure_that_passes_is_not_reported(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read, failed = NeuropixelsReader.read, []

    def faltering(self: NeuropixelsReader, source: Any, request: Any) -> Any:
        if source.session_id not in failed:
            failed.append(source.session_id)
            raise DataError("the disk was away")
        return read(self, source, request)

    monkeypatch.setattr(NeuropixelsReader, "read", faltering)
    report, messages = fetch()
    assert statuses(report) == ["read", "read", "read", "assembled"]
    assert sum("the disk was away: trying once more" in message for message in messages) == 3


def test_a_session_changed_or_damaged_since_it_was_read_is_read_again(fetch: Any, folder: Path) -> None:
    image = folder / "natural_scene_templates" / "natural_scene_0.tiff"
    image.rename(image.with_suffix(".away"))
    assert statuses(fetch()[0]) == ["failed"] * 4
    image.with_suffix(".away").rename(image)
    broken = folder / "session_7103" / "session_7103.nwb"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    report, _ = fetch()
    assert statuses(report) == ["read", "read", "failed", "failed"]
    broken.write_bytes(whole)
    kept = report.files[0].path
    kept.write_bytes(kept.read_bytes()[:-50])
    path = folder / "session_7102" / "session_7102.nwb"
    path.touch()
    assert statuses(fetch()[0]) == ["read", "read", "read", "assembled"]


def test_a_session_whose_table_changed_since_it_was_read_is_read_again(fetch: Any, folder: Path) -> None:
    broken = folder / "session_7103" / "session_7103.nwb"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    assert statuses(fetch()[0]) == ["read", "read", "failed", "failed"]
    broken.write_bytes(whole)
    table = folder / "session_7102" / "session_7102_analysis_metrics.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text(rows[0] + "\n", encoding="utf-8")
    report, _ = fetch()
    assert statuses(report) == ["already there", "read", "read", "assembled"]
    columns = stored(report)[0].unit_columns
    unknown = np.isnan(columns["run_pval_ns"])
    with np.load(folder / "truth_7102.npz") as truth:
        assert set(truth["unit_id"]) <= set(columns["unit_id"][unknown])


def test_images_that_differ_between_sessions_are_refused(
    fetch: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = NeuropixelsReader.read

    def changing(self: NeuropixelsReader, source: Any, request: Any) -> Any:
        if source.session_id == 7102:
            pixels = np.asarray(Image.open(folder / "natural_scene_templates/natural_scene_4.tiff")).copy()
            pixels[0, 0] ^= 1
            Image.fromarray(pixels).save(folder / "natural_scene_templates/natural_scene_4.tiff")
        return read(self, source, request)

    monkeypatch.setattr(NeuropixelsReader, "read", changing)
    report, _ = fetch(sessions=(7101, 7102))
    assert statuses(report) == ["read", "failed", "failed"]
    assert "image of frame 4 differs from that of session 7101" in str(report.files[1].error)


def test_repeating_reads_nothing(fetch: Any, tmp_path: Path) -> None:
    first, _ = fetch()
    assert all(outcome.removed for outcome in first.files[:-1])
    assert not (tmp_path / "home" / "neural" / "neuropixels.sessions").exists()
    again, messages = fetch()
    assert statuses(again) == ["already there"] and messages == []
    assert again.files[-1].sha256 == first.files[-1].sha256
    assert not verify_files("neural", (), FetchRequest(tmp_path / "home")).failures


def test_kept_sessions_serve_another_selection_of_them(fetch: Any) -> None:
    fetch(sessions=(7101, 7103), keep_raw=True)
    report, _ = fetch(force=True, keep_raw=True)
    assert statuses(report) == ["already there", "read", "already there", "assembled"]


@pytest.mark.parametrize("changes", [{"bin_ms": 5}, {"sessions": (7101,)}])
def test_a_file_made_otherwise_is_not_replaced_unasked(fetch: Any, changes: dict[str, Any]) -> None:
    fetch()
    with pytest.raises(UsageError, match="--force"):
        fetch(**changes)
    assert statuses(fetch(force=True, **changes)[0])[-1] == "assembled"


def test_a_file_that_is_not_ours_is_not_replaced_unasked(fetch: Any, tmp_path: Path) -> None:
    path = tmp_path / "home" / "neural" / "neuropixels.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="made from something else"):
        fetch()
    assert path.read_bytes() == b"mine"


def test_a_file_that_was_not_recorded_any_more_is_adopted(fetch: Any, tmp_path: Path) -> None:
    fetch()
    (tmp_path / "home" / "manifest.json").unlink()
    assert statuses(fetch()[0]) == ["already there"]
    assert not verify_files("neural", (), FetchRequest(tmp_path / "home")).failures


def test_reliabilities_are_measured_also_later(fetch: Any, tmp_path: Path) -> None:
    assert not stored(fetch()[0])[0].reliabilities
    later = stored(fetch(measured=True)[0])[0]
    fresh = stored(fetch(measured=True, force=True)[0])[0]
    assert set(later.reliabilities) == {"splithalf_r_mean", "splithalf_r_std"}
    for name, values in later.reliabilities.items():
        assert np.array_equal(values, fresh.reliabilities[name], equal_nan=True)
    assert not verify_files("neural", (), FetchRequest(tmp_path / "home")).failures


def test_missing_metrics_are_logged(fetch: Any, folder: Path) -> None:
    for path in folder.glob("*/*_analysis_metrics.csv"):
        path.unlink()
    report, messages = fetch()
    assert np.isnan(stored(report)[0].unit_columns["run_pval_ns"]).all()
    assert sum("no p values of running" in message for message in messages) == 1


def test_the_plan_changes_nothing(fetch: Any, folder: Path, tmp_path: Path) -> None:
    home = FetchRequest(tmp_path / "home")
    plan = plan_sessions(session_request(folder), home)
    assert [step.step for step in plan.steps] == ["read", "read", "read", "assemble"]
    assert plan.steps[0].size == (folder / "session_7101" / "session_7101.nwb").stat().st_size
    assert 0 < plan.needed_bytes < 2_000_000 and not (tmp_path / "home").exists()
    fetch()
    assert [step.step for step in plan_sessions(session_request(folder), home).steps] == ["nothing"]
    with pytest.raises(UsageError, match="--force"):
        plan_sessions(session_request(folder, bin_ms=5), home)


#: Stands for the script that asks AllenSDK: the folder's sessions, tables and images, on a server.
FAKE_SDK = """
import json, shutil, sys
from pathlib import Path
cache, task = Path(sys.argv[sys.argv.index("--cache") + 1]), next(w for w in sys.argv if w in TASKS)
rows = []
if task == "sessions":
    (cache / "sessions.csv").write_text((FILES / "sessions.csv").read_text())
    for number in (7101, 7102):
        path = cache / f"session_{number}" / f"session_{number}.nwb"
        url = f"{URL}/session_{number}.nwb" if "--offline" not in sys.argv and not path.is_file() else ""
        rows.append({"session_id": number, "path": str(path), "url": url, "published_at": "2019"})
if task == "scenes":
    for frame in range(12):
        name = f"natural_scene_{frame}.tiff"
        path = cache / "natural_scene_templates" / name
        rows.append({"frame": frame, "path": str(path), "url": f"{URL}/{name}"})
if task == "metrics":
    name = f"session_{sys.argv[-1]}_analysis_metrics.csv"
    folder = f"session_{sys.argv[-1]}"
    shutil.copyfile(FILES / folder / name, cache / folder / name)
for row in [{"progress": f"asked for {task}"}, *rows, {"done": True}]:
    print(json.dumps(row))
"""


def test_sessions_are_listed_downloaded_and_read(
    allen_files: Path, faulty: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with faulty.running() as server:
        for number in (7101, 7102):
            name = f"session_{number}.nwb"
            server.put(name, (allen_files / f"session_{number}" / name).read_bytes())
        for path in (allen_files / "natural_scene_templates").glob("*.tiff"):
            server.put(path.name, path.read_bytes())
        script = tmp_path / "fake_sdk.py"
        names = f"FILES = Path({str(allen_files)!r})\nURL = {server.url!r}\n"
        tasks = 'TASKS = ("sessions", "scenes", "metrics")\n'
        script.write_text(f"from pathlib import Path\n{names}{tasks}{FAKE_SDK}")
        monkeypatch.setattr(environment, "SCRIPT", script)
        python = AllenPython(Path(sys.executable), "2.16.2")
        monkeypatch.setattr(fetch_module, "find_allen_python", lambda home: python)
        messages: list[str] = []
        settings = FetchRequest(tmp_path / "home", feedback=Feedback(messages.append))
        plan = plan_sessions(SessionRequest(), settings)
        sizes = [len(server.files[f"/session_{number}.nwb"]) for number in (7101, 7102)]
        assert [(step.step, step.download_bytes) for step in plan.steps[:2]] == [
            ("download", size) for size in sizes
        ]
        # The connection breaks in the middle of the first session (after the 12 images).
        server.faults = [*[faulty.Fault()] * 12, faulty.Fault(cut_after=100_000)]
        report = fetch_sessions(SessionRequest(), settings)
        assert statuses(report) == ["read", "read", "assembled"]
        assert "asked for metrics" in messages and f"downloading {format_bytes(sum(sizes))}" in messages
        contents, responses = stored(report)
        assert contents.provenance["versions"]["allensdk"] == "2.16.2"  # type: ignore[index]
        # The same as from the files on disk, also once more without a network.
        folder = FetchRequest(tmp_path / "other")
        local = fetch_sessions(session_request(allen_files, sessions=(7101, 7102)), folder)
        assert np.array_equal(responses, stored(local)[1])
        for name, column in stored(local)[0].unit_columns.items():
            assert np.array_equal(contents.unit_columns[name], column, equal_nan=column.dtype.kind == "f")
        n_asked = len(server.seen)
        offline = replace(settings, offline=True, force=True)
        assert statuses(fetch_sessions(SessionRequest(), offline)) == ["read", "read", "assembled"]
        assert len(server.seen) == n_asked
