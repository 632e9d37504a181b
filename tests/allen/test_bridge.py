"""AllenSDK in an environment of its own: found, asked, and its failures told."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.acquire.allen import environment, process
from mvkit.acquire.allen.bridge import AllenCacheReader, AllenFolderReader, allen_reader
from mvkit.acquire.allen.environment import AllenPython, find_allen_python
from mvkit.acquire.allen.nwb_reader import NwbReader
from mvkit.acquire.allen.request import SessionRequest
from mvkit.acquire.reports import FetchRequest
from mvkit.errors import DataError, FetchError, MissingPackageError, UsageError
from mvkit.fetch import DownloadSettings, Feedback, RetrySettings

REQUEST = SessionRequest(areas=("VISp",))


@pytest.fixture(autouse=True)
def _this_allensdk(allen_python: AllenPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.INTERPRETER_VARIABLE, str(allen_python.path))


@pytest.fixture
def copied(allen_files: Path, tmp_path: Path) -> Path:
    """A copy of the session files."""
    return shutil.copytree(allen_files, tmp_path / "copied")


def fetching(home: Path, **settings: Any) -> FetchRequest:
    """How to fetch in these tests: without waiting between attempts."""
    return FetchRequest(
        home=home,
        download=DownloadSettings(retry=RetrySettings(attempts=2, sleep=lambda seconds: None)),
        **settings,
    )


def test_a_folder_is_read_in_the_other_environment(allen_files: Path) -> None:
    reader = allen_reader(allen_files, FetchRequest())
    assert isinstance(reader, AllenFolderReader)
    sources = reader.sessions()
    assert [one.session_id for one in sources] == [7101, 7102, 7103]
    recording = reader.read(sources[1], REQUEST)
    other = NwbReader(allen_files).read(sources[1], REQUEST)
    np.testing.assert_array_equal(recording.responses, other.responses)
    np.testing.assert_array_equal(recording.unit_columns["unit_id"], other.unit_columns["unit_id"])
    assert recording.provenance["versions"]["allensdk"] == environment.ALLENSDK_VERSION
    assert recording.provenance["bytes"] == sources[1].size


def test_damaged_files_are_named(copied: Path) -> None:
    path = copied / "session_7102" / "session_7102.nwb"
    path.write_bytes(path.read_bytes()[:50_000])
    reader = AllenFolderReader(copied)
    with pytest.raises(DataError, match=r"session_7102\.nwb.*truncated file"):
        reader.read(reader.sessions()[1], REQUEST)


def test_errors_of_the_other_side_come_back_as_they_are(copied: Path) -> None:
    (copied / "natural_scene_templates" / "natural_scene_4.tiff").unlink()
    reader = AllenFolderReader(copied)
    with pytest.raises(DataError, match="no image for frame 4"):
        reader.read(reader.sessions()[0], REQUEST)


def test_a_process_that_is_killed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(DataError, match=r"session 5: .*killed \(out of memory\?\)"):
        process.perform(AllenPython(Path(sys.executable), "0", "test"), {}, label="session 5")


def test_no_folder_of_another_environment_is_lent_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr(
        process, "_START", "import os, json; print(json.dumps({'event': 'done', 'result': dict(os.environ)}))"
    )
    told = process.perform(AllenPython(Path(sys.executable), "0", "test"), {}, label="environment")
    assert "PYTHONPATH" not in told


def test_a_worker_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    # As after kill -9: the one that asked is gone without a word, and its end of stdin lives on here.
    busy = (
        "import os, threading, time; from mvkit.acquire.allen import worker; "
        "threading.Thread(target=worker._end_with, args=(os.getppid(),), daemon=True).start(); "
        "print(os.getpid(), flush=True); time.sleep(300)"
    )
    asking = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    asker = subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE, text=True)
    with asker:
        number = int(asker.stdout.readline())
        asker.kill()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and Path(f"/proc/{number}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{number}").exists()


@pytest.mark.slow
def test_the_cache_is_filled_from_a_server_and_read(
    warehouse: Any, allen_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVKIT_ALLEN_URL", warehouse.url)
    remarks: list[str] = []
    reader = allen_reader(None, fetching(tmp_path, feedback=Feedback(remark=remarks.append)))
    assert isinstance(reader, AllenCacheReader)
    sources = reader.sessions()
    assert [(one.session_id, one.path) for one in sources] == [(7101, None), (7102, None), (7103, None)]
    nwb = allen_files / "session_7102" / "session_7102.nwb"
    assert sources[1].size == sources[1].download_bytes == nwb.stat().st_size

    # The connection breaks in the middle of the session (after the 12 images): what came is kept.
    warehouse.cuts = [*[None] * 12, 100_000]
    recording = reader.read(sources[1], SessionRequest())
    truth = np.load(allen_files / "truth_7102.npz")
    np.testing.assert_array_equal(recording.responses, truth["counts"])
    np.testing.assert_array_equal(recording.unit_columns["unit_id"], truth["unit_id"])
    np.testing.assert_array_equal(recording.unit_columns["image_selectivity_ns"], truth["image_selectivity"])
    np.testing.assert_array_equal(recording.unit_columns["run_pval_ns"], truth["p_running"])
    np.testing.assert_array_equal(recording.stimuli, truth["stimuli"])
    assert recording.specimen_id == truth["specimen_id"]
    assert sum("session_7102.nwb" in asked for asked in warehouse.asked) == 2
    cached = tmp_path / "allensdk-cache" / "neuropixels" / "session_7102" / "session_7102.nwb"
    assert cached.read_bytes() == nwb.read_bytes()

    # What is there is neither asked for nor fetched again, also without a network; the rest says so.
    asked = len(warehouse.asked)
    again = allen_reader(None, fetching(tmp_path, offline=True))
    sources_again = again.sessions()
    assert sources_again[1].path == cached and sources_again[1].identity == sources[1].identity
    np.testing.assert_array_equal(
        again.read(sources_again[1], SessionRequest()).responses, recording.responses
    )
    with pytest.raises(FetchError, match="session 7101: not in"):
        again.read(sources_again[0], SessionRequest())
    assert len(warehouse.asked) == asked


def test_a_server_that_fails_is_named(
    warehouse: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVKIT_ALLEN_URL", warehouse.url)
    warehouse.broken = "<html>down for maintenance</html>"
    with pytest.raises(FetchError, match=warehouse.url):
        allen_reader(None, fetching(tmp_path)).sessions()
    assert not list(tmp_path.rglob("*.csv")), "no table that is no table"


def test_without_a_network_the_cache_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="--sessions-from DIR"):
        allen_reader(None, fetching(tmp_path, offline=True)).sessions()


def test_addresses_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVKIT_ALLEN_URL", "ftp://example.org")
    with pytest.raises(UsageError, match=r"MVKIT_ALLEN_URL=ftp://example\.org"):
        allen_reader(None, fetching(tmp_path)).sessions()


def test_the_variable_comes_first_and_must_be_right(
    allen_python: AllenPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_allen_python().found_by == environment.INTERPRETER_VARIABLE
    assert find_allen_python().path == allen_python.path
    monkeypatch.setenv(environment.INTERPRETER_VARIABLE, str(tmp_path / "python"))
    with pytest.raises(UsageError, match=environment.INTERPRETER_VARIABLE):
        find_allen_python()


def test_an_environment_in_the_home_is_found_once_it_is_finished(
    allen_python: AllenPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.INTERPRETER_VARIABLE)
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(environment, "PACKAGE_PARENT", tmp_path)
    folder = environment.default_folder(tmp_path)
    folder.joinpath("bin").mkdir(parents=True)
    # A wrapper: a link would lose its virtual environment.
    environment.interpreter_of(folder).write_text(f'#!/bin/sh\nexec "{allen_python.path}" "$@"\n')
    environment.interpreter_of(folder).chmod(0o755)
    with pytest.raises(MissingPackageError) as missing:
        find_allen_python(tmp_path)
    assert str(missing.value).count("\n") == 1
    for words in ("mvkit fetch allensdk", "make allen", "--sessions-from DIR --reader h5py"):
        assert words in str(missing.value)
    (folder / environment.STAMP_NAME).write_text('{"allensdk": "2.16.2"}')
    assert find_allen_python(tmp_path).path == environment.interpreter_of(folder)
