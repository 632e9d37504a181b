"""``mvkit fetch neural --source allensdk`` from session files on disk, as a user runs it; also killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvkit.allen.environment import INTERPRETER_VARIABLE, AllenPython
from mvkit.cli.main import run
from mvkit.neural import open_neural_file

sys.path.insert(0, str(Path(__file__).parent.parent / "allen"))

from warehouse import running

FILES = Path(__file__).parent.parent / "allen" / "files"
Process = Callable[..., "subprocess.Popen[str]"]

#: Code run before the command: reading session 7102 takes for ever.
STUCK = """
import time
from mvkit.allen.neuropixels import NeuropixelsReader
read = NeuropixelsReader.read
def slow(self, source, request):
    if source.session_id == 7102:
        time.sleep(600)
    return read(self, source, request)
NeuropixelsReader.read = slow
"""
#: ... writing what was read of session 7102 stops half-way, with half of the file on disk.
HALF_WRITTEN = """
import time, numpy
save = numpy.savez_compressed
def half(stream, **arrays):
    save(stream, **arrays)
    if b'"session_id": 7102' in arrays["facts"].tobytes():
        stream.truncate(stream.tell() // 2)
        stream.flush()
        time.sleep(600)
numpy.savez_compressed = half
"""
#: ... the neural file is written, and stays a draft.
DRAFTED = """
import time
import mvkit.pipeline.reliability as module
module.measure_reliability = lambda *words, **options: time.sleep(600)
"""
#: ... the file is in place, and not recorded.
NOT_RECORDED = """
import time
from mvkit.fetch.manifest import Manifest
Manifest.record = lambda *words: time.sleep(600)
"""


def words(home: Path, folder: Path = FILES) -> list[str]:
    return [
        *("fetch", "neural", "--dataset", "neuropixels", "--source", "allensdk"),
        *("--sessions-from", str(folder), "--home", str(home)),
    ]


def staged(home: Path) -> set[str]:
    """Sessions that wait to be assembled."""
    return {path.stem for path in home.glob("neural/*.sessions/*/*.npz") if path.stem.isdigit()}


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The neural file that a run without accidents makes."""
    home = tmp_path_factory.mktemp("unharmed")
    assert run(words(home)) == 0
    return home / "neural" / "neuropixels.h5"


def test_what_is_fetched_can_be_scored(
    unharmed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # With the usual selection of units, which needs the reliabilities and p values of running.
    command = ["score", "pixels", "--dataset", str(unharmed), "--map", "ridge", "--splits", "2"]
    assert run([*command, "--halves", "2", "--home", str(tmp_path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)


@pytest.mark.parametrize(
    ("before", "moment"),
    [
        (STUCK, "7101.npz"),
        (HALF_WRITTEN, "7102.tmp-*.npz"),
        (DRAFTED, "neuropixels.tmp-*.h5"),
        (NOT_RECORDED, "neuropixels.h5"),
    ],
    ids=["between sessions", "within a session", "while it is measured", "before it is recorded"],
)
def test_a_killed_run_goes_on_where_it_was(
    unharmed: Path,
    tmp_path: Path,
    mvkit_process: Process,
    wait_until: Callable[..., None],
    same_arrays: Callable[[Path, Path], bool],
    capfd: pytest.CaptureFixture[str],
    before: str,
    moment: str,
) -> None:
    process = mvkit_process(*words(tmp_path), before=before)
    wait_until(lambda: bool([*tmp_path.glob(f"neural/**/{moment}")]), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    kept = staged(tmp_path)
    made = (tmp_path / "neural" / "neuropixels.h5").exists()
    assert run([*words(tmp_path), "--json"]) == 0
    shown = capfd.readouterr()
    files = {one["name"]: one["status"] for one in json.loads(shown.out)["files"]}
    if made:
        assert files == {"neuropixels": "already there"}
    else:
        assert {name for name, status in files.items() if status == "already there"} == {
            f"session {number}" for number in kept
        }
        assert files["neuropixels"] == "assembled" and "7101" in kept and kept != set(files)
    assert same_arrays(tmp_path / "neural" / "neuropixels.h5", unharmed)
    left = [path.name for path in (tmp_path / "neural").iterdir() if not path.name.startswith(".")]
    assert left == ["neuropixels.h5"]
    assert run(["fetch", "neural", "--verify", "--home", str(tmp_path)]) == 0


@pytest.mark.slow
def test_runs_killed_at_any_time_lose_nothing(
    unharmed: Path,
    tmp_path: Path,
    mvkit_process: Process,
    same_arrays: Callable[[Path, Path], bool],
) -> None:
    draws = np.random.default_rng(0)
    kept: set[str] = set()
    for _ in range(6):
        process = mvkit_process(*words(tmp_path))
        try:
            process.wait(timeout=float(draws.uniform(0.5, 3)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
        now = staged(tmp_path)
        assert kept <= now or (tmp_path / "neural" / "neuropixels.h5").exists()
        kept = now
    assert run(words(tmp_path)) == 0
    assert same_arrays(tmp_path / "neural" / "neuropixels.h5", unharmed)


@pytest.mark.slow
def test_a_run_killed_between_downloads_loses_nothing(
    unharmed: Path,
    tmp_path: Path,
    mvkit_process: Process,
    wait_until: Callable[..., None],
    same_arrays: Callable[[Path, Path], bool],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    allen_python: AllenPython,
) -> None:
    monkeypatch.setenv(INTERPRETER_VARIABLE, str(allen_python.path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    command = [word for word in words(tmp_path) if word not in ("--sessions-from", str(FILES))]
    # Tables and images are there: AllenSDK is asked for the sessions only.
    cache = tmp_path / "allensdk-cache" / "neuropixels"
    shutil.copytree(FILES, cache, ignore=shutil.ignore_patterns("*.nwb", "truth_*"))
    (cache / "natural_scene_templates" / "complete").touch()
    with running(FILES) as warehouse:
        monkeypatch.setenv("MVKIT_ALLEN_URL", warehouse.url)
        process = mvkit_process(*command)
        wait_until(lambda: staged(tmp_path) == {"7101"}, process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        capfd.readouterr()
        assert run([*command, "--json"]) == 0
    statuses = [one["status"] for one in json.loads(capfd.readouterr().out)["files"]]
    assert statuses == ["already there", "read", "read", "assembled"]
    assert sum("session_7101.nwb" in asked for asked in warehouse.asked) == 1
    # What is made of the same files on disk.
    assert same_arrays(tmp_path / "neural" / "neuropixels.h5", unharmed)


def test_two_at_once_wait_for_each_other(
    unharmed: Path, tmp_path: Path, mvkit_process: Process, same_arrays: Callable[[Path, Path], bool]
) -> None:
    both = [mvkit_process(*words(tmp_path), "--json") for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    statuses = sorted(json.loads(out)["files"][-1]["status"] for out, _ in said)
    assert statuses == ["already there", "assembled"]
    assert same_arrays(tmp_path / "neural" / "neuropixels.h5", unharmed)


def test_a_failing_session_is_told_and_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, home = tmp_path / "sessions", tmp_path / "home"
    shutil.copytree(FILES, folder)
    (folder / "session_7102" / "session_7102.nwb").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert run(words(home, folder)) == 1
    shown = capfd.readouterr().err
    assert "session_7102.nwb: not a readable session file" in shown
    assert "to leave out those that failed: --exclude-sessions 7102" in shown
    assert run([*words(home, folder), "--exclude-sessions", "7102", "--json"]) == 0
    files = json.loads(capfd.readouterr().out)["files"]
    assert [one["status"] for one in files] == ["already there", "already there", "assembled"]


def test_options_reach_the_file(tmp_path: Path) -> None:
    options = ["--areas", "VISp,CA1", "--areas", "VISl", "--bin-ms", "50", "--window-ms", "-50", "150"]
    limits = ["--isi-violations", "inf", "--amplitude-cutoff", "0.5", "--presence-ratio", "0"]
    assert run([*words(tmp_path), *options, *limits, "--sessions", "7101,7103", "--no-reliability"]) == 0
    with open_neural_file(tmp_path / "neural" / "neuropixels.h5") as file:
        contents = file.contents
    assert contents.time_s is not None and np.allclose(contents.time_s, [-0.025, 0.025, 0.075, 0.125])
    assert set(contents.unit_columns["visual_area"]) == {"VISp", "CA1", "VISl"}
    assert set(contents.unit_columns["session_id"].tolist()) == {7101, 7103}
    assert contents.unit_columns["isi_violations"].max() > 0.5 and not contents.reliabilities
    assert contents.provenance["request"] == {
        "stimulus": "natural_scenes",
        "areas": ["VISp", "VISl", "CA1"],
        "bin_ms": 50.0,
        "window_ms": [-50.0, 150.0],
        "max_isi_violations": "inf",
        "max_amplitude_cutoff": 0.5,
        "min_presence_ratio": 0.0,
    }


def test_a_dry_run_reports_sessions_bytes_and_disk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert run([*words(home), "--dry-run", "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert [one["step"] for one in plan["files"]] == ["read", "read", "read", "assemble"]
    assert plan["disk"]["fits"] and plan["disk"]["needed_bytes"] > 0
    assert not home.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--source", "allen"], "did you mean 'allensdk'"),
        (["--source", "published"], "--sessions-from: only for recording sessions"),
        (["--areas", "VISpp"], "did you mean 'VISp'"),
        (["--stimulus", "natural_scene"], "did you mean 'natural_scenes'"),
        (["--window-ms", "0", "245"], "not a whole number of bins"),
        (["--bin-ms", "0"], "above 0"),
        (["--sessions", "7109"], "no session 7109; did you mean '7103'"),
        (["--exclude-sessions", "x"], "no number of a session"),
        (["--sessions-from", "nowhere"], "nowhere: no such folder"),
        (["--from", "a.pkl"], "--from is for published pickles"),
        (
            ["--dataset", "calcium"],
            "NWB 2, as DANDI has it; calcium experiments are read",
        ),
        (["--dataset", "simulated"], "unknown dataset"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    assert run([*words(tmp_path / "home"), *wrong]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "home").exists()
