"""AllenSDK in an environment of its own: found, asked, its failures reported; what it lists downloaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.allen import environment
from mvkit.allen.environment import AllenPython, ask_allensdk, find_allen_python
from mvkit.allen.fetch import DownloadingReader
from mvkit.allen.request import SessionRequest
from mvkit.errors import FetchError, MissingPackageError, UsageError
from mvkit.fetch.download import DownloadSettings, Feedback
from mvkit.fetch.run import FetchRequest


@pytest.fixture(autouse=True)
def _this_allensdk(allen_python: AllenPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.INTERPRETER_VARIABLE, str(allen_python.path))


def fetching(home: Path, **settings: Any) -> FetchRequest:
    """How to fetch in these tests: without waiting between attempts."""
    return FetchRequest(
        home=home,
        download=DownloadSettings(attempts=2, sleep=lambda seconds: None),
        **settings,
    )


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict[str, Any]]]:
    """Asks a script of these lines instead of the one that asks AllenSDK."""

    def ask(lines: str) -> list[dict[str, Any]]:
        path = tmp_path / "script.py"
        path.write_text(lines)
        monkeypatch.setattr(environment, "SCRIPT", path)
        return ask_allensdk(AllenPython(Path(sys.executable), "0"), [], about="session 5")

    return ask


def test_a_process_that_is_killed_is_said_to_be(script: Callable[[str], Any]) -> None:
    with pytest.raises(FetchError, match=r"session 5: .*killed \(out of memory\?\)"):
        script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("print('{\"session_id\": 1}')", "session 5: AllenSDK failed: exit code 0"),
        ("print('{\"done\": true', end='')", "session 5: AllenSDK failed: exit code 0"),
        ("raise MemoryError('too much')", "session 5: AllenSDK failed: MemoryError: too much"),
        ('print(\'{"error": "the server is away"}\')', "the server is away\nwhat was fetched is kept"),
    ],
)
def test_an_answer_that_is_not_complete_is_none(script: Callable[[str], Any], lines: str, words: str) -> None:
    with pytest.raises(FetchError, match=words):
        script(lines)


def test_no_folder_of_another_environment_is_lent_to_it(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither PYTHONPATH nor the script's own folder, in which mvkit's modules lie.
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    (row,) = script("import json, sys; print(json.dumps({'path': sys.path})); print('{\"done\": true}')")
    assert "/nowhere" not in row["path"] and str(tmp_path) not in row["path"]


def test_the_script_imports_nothing_of_mvkit(allen_python: AllenPython) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['sdk.py', '--help']\n"
        f"try: runpy.run_path({str(environment.SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'mvkit'])"
    )
    done = subprocess.run(
        [str(allen_python.path), "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_the_cache_is_filled_from_a_server_and_read(
    warehouse: Any, allen_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVKIT_ALLEN_URL", warehouse.url)
    messages: list[str] = []
    reader = DownloadingReader(SessionRequest(), fetching(tmp_path, feedback=Feedback(log=messages.append)))
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
    again = DownloadingReader(SessionRequest(), fetching(tmp_path, offline=True))
    sources_again = again.sessions()
    assert sources_again[1].path == cached and sources_again[1].version == sources[1].version
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
        DownloadingReader(SessionRequest(), fetching(tmp_path)).sessions()
    assert not list(tmp_path.rglob("*.csv")), "no table that is no table"


def test_without_a_network_the_cache_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="--sessions-from DIR"):
        DownloadingReader(SessionRequest(), fetching(tmp_path, offline=True)).sessions()


def test_addresses_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVKIT_ALLEN_URL", "ftp://example.org")
    with pytest.raises(UsageError, match=r"MVKIT_ALLEN_URL=ftp://example\.org"):
        DownloadingReader(SessionRequest(), fetching(tmp_path)).sessions()


def test_the_variable_comes_first_and_must_be_right(
    allen_python: AllenPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    for words in ("mvkit fetch allensdk", "make allen", "--sessions-from DIR"):
        assert words in str(missing.value)
    (folder / environment.STAMP_NAME).write_text('{"allensdk": "2.16.2"}')
    assert find_allen_python(tmp_path).path == environment.interpreter_of(folder)


@pytest.mark.slow
def test_the_file_of_a_movie_is_the_one_that_allensdk_looks_for(
    warehouse: Any, allen_python: AllenPython, tmp_path: Path
) -> None:
    task = ["--cache", str(tmp_path), "--address", warehouse.url, "movie", "3"]
    (row,) = ask_allensdk(allen_python, task, about="the movie", log=lambda _: None)
    assert row["path"] == str(tmp_path / "natural_movie_templates" / "natural_movie_3.h5")
    assert row["url"] == f"{warehouse.url}/api/v2/well_known_file_download/movies/3"
