"""``mvkit fetch neural --dataset calcium --source allensdk`` from files on disk, as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.neural import open_neural_file

sys.path.insert(0, str(Path(__file__).parent.parent / "allen"))

from ophys_files import draw_experiment, expected_responses, write_ophys_folder

Process = Callable[..., "subprocess.Popen[str]"]

#: Code run before the command: reading experiment 802 takes for ever.
STUCK = """
import time
from mvkit.allen.calcium import CalciumReader
read = CalciumReader.read
def slow(self, source, request):
    if source.session_id == 802:
        time.sleep(600)
    return read(self, source, request)
CalciumReader.read = slow
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two animals, imaged in VISp and VISl."""
    made = [
        draw_experiment(801 + number, area=area, specimen=specimen, seed=number, n_cells=8, n_frames=12)
        for number, (area, specimen) in enumerate([("VISp", 1), ("VISp", 2), ("VISl", 1), ("VISl", 2)])
    ]
    place: Path = write_ophys_folder(tmp_path_factory.mktemp("experiments"), made)
    return place


def words(home: Path, folder: Path) -> list[str]:
    return [
        *("fetch", "neural", "--dataset", "calcium", "--source", "allensdk"),
        *("--sessions-from", str(folder), "--home", str(home)),
    ]


def test_what_is_fetched_can_be_scored(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(words(tmp_path, folder)) == 0
    assert run(["fetch", "neural", "--verify", "--home", str(tmp_path)]) == 0
    with open_neural_file(tmp_path / "neural" / "calcium.h5") as file:
        stored, columns = file.stored[...], file.contents.unit_columns
    assert set(columns["visual_area"]) == {"VISp", "VISl"} and stored.shape == (5, 12, 32)
    wanted = expected_responses(draw_experiment(801, seed=0, n_cells=8, n_frames=12))[1]
    np.testing.assert_allclose(stored[..., :8], wanted, rtol=1e-11, atol=1e-11)
    capfd.readouterr()
    # With the usual selection of units, which needs the reliabilities and p values of running.
    command = ["score", "pixels", "--dataset", "calcium", "--map", "ridge", "--splits", "2", "--halves", "2"]
    assert run([*command, "--home", str(tmp_path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)


def test_a_killed_run_goes_on_where_it_was(
    folder: Path,
    tmp_path: Path,
    mvkit_process: Process,
    wait_until: Callable[..., None],
    same_arrays: Callable[[Path, Path], bool],
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = mvkit_process(*words(tmp_path / "killed", folder), before=STUCK)
    wait_until(lambda: bool([*tmp_path.glob("killed/neural/calcium.sessions/*/801.npz")]), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    capfd.readouterr()
    assert run([*words(tmp_path / "killed", folder), "--json"]) == 0
    files = {one["name"]: one["status"] for one in json.loads(capfd.readouterr().out)["files"]}
    assert files["session 801"] == "already there" and files["session 802"] == "read"
    assert run(words(tmp_path / "unharmed", folder)) == 0
    made = Path("neural", "calcium.h5")
    assert same_arrays(tmp_path / "killed" / made, tmp_path / "unharmed" / made)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--bin-ms", "10"], "--bin-ms: only for spikes, not for --dataset calcium"),
        (["--window-ms", "0", "250"], "--window-ms: only for spikes"),
        (["--presence-ratio", "0.5"], "--presence-ratio: only for spikes"),
        (["--areas", "VISrl"], "no imaging experiment with 'natural_scenes' in VISrl"),
        (["--sessions", "805"], "no session 805; did you mean '80"),
        (["--source", "published"], "only for recording sessions"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    assert run([*words(tmp_path / "home", folder), *wrong]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "home").exists()
