"""A run that is killed at random steps ends bit for bit where the unbroken one ends (on a CPU)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "runs_to_kill.py"
VIEW = (
    "{crop: {name: random_resized}, steps: [{name: flip}, {name: colour_jitter, brightness: 0.4, hue: 0.1}]"
)

#: What each recipe adds: bank, queue and momentum copy, adapted rates and a probe, dropout of a head.
RECIPES = {
    "bank": f"""
views: {{size_px: 16, views: [{VIEW}}}]}}
objective: {{name: instance_recognition, width: 4, noise_samples: 8}}
optimiser: {{name: sgd, learning_rate: 0.05, weight_decay: 1e-3}}
schedule: {{name: step, milestones: [2], warmup_epochs: 1, unit: step}}
evaluate: [{{name: bank_neighbours}}, {{name: linear_probe}}]
""",
    "queue": f"""
views: {{size_px: 16, views: [{VIEW}, copies: 2}}]}}
objective: {{name: mocov2, hidden: 8, width: 4, queue: 20}}
optimiser: {{name: lars, learning_rate: 0.5, weight_decay: 1e-3}}
schedule: {{name: cosine, warmup_epochs: 1}}
evaluate: [{{name: feature_neighbours, k: 3, every_epochs: 2}}]
""",
    "patches": """
views:
  size_px: 48
  views: [{crop: {name: random, resize_px: 50, crop_px: 48}}]
  expand: {name: patches, cell_px: 16, patch_px: 16}
objective: {name: relative_location, hidden: 8}
optimiser: {name: adamw, learning_rate: 0.01}
""",
}
COMMON = """
name: {name}
source: a test
model: {{architecture: tiny}}
validation: {{size_px: 16, views: [{{crop: {{name: centre, resize_px: 20, crop_px: 16}}}}]}}
train: {{epochs: 3, batch_size: 8, seed: 7}}
checkpoint: {{every_epochs: 1, every_steps: 3}}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, coloured_images: Path) -> Path:
    """Folder of all runs, whole and killed."""
    folder = tmp_path_factory.mktemp("kills")
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(COMMON.format(name=name) + text)
    seed = os.environ.get("MVKIT_KILL_SEED", "1")
    words = [sys.executable, str(SCRIPT), str(folder), str(coloured_images), seed]
    # One core for each process: what is compared must be computed alike.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(params=RECIPES)
def run(request: pytest.FixtureRequest, runs: Path) -> Path:
    """Folder of one recipe's runs."""
    return runs / request.param


def happened(run: Path) -> dict[str, Any]:
    return json.loads((run.parent / "kills.json").read_text())[run.name]


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    found = [record for record in map(json.loads, lines) if record["kind"] == kind]
    # How fast it went is no result.
    return [{k: v for k, v in one.items() if k not in ("images_per_s", "waiting")} for one in found]


def assert_same(left: Any, right: Any, path: str) -> None:
    assert type(left) is type(right), path
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), path
    elif isinstance(left, dict):
        assert list(left) == list(right), path
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for position, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}[{position}]")
    else:
        assert left == right, path


def test_processes_were_killed(run: Path) -> None:
    said = happened(run)
    assert said["whole"] == said["finish"] == 0
    assert [os.WTERMSIG(status) for status in said["killed"]] == [signal.SIGKILL] * 3


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "epoch_0002.pt"])
def test_checkpoints_are_the_same(run: Path, name: str) -> None:
    whole, killed = (torch.load(run / kind / name, weights_only=True) for kind in ("whole", "killed"))
    assert_same(whole, killed, name)


@pytest.mark.parametrize("kind", ["step", "evaluation", "epoch"])
def test_the_log_has_every_record_once(run: Path, kind: str) -> None:
    whole = records(run / "whole", kind)
    assert records(run / "killed", kind) == whole
    if kind == "step":
        assert [record["step"] for record in whole] == list(range(1, 3 * 9 + 1))


def test_sigterm_finishes_the_step_saves_and_leaves_with_130(runs: Path) -> None:
    run = runs / "bank"
    said = happened(run)
    assert said["rest"] == 0
    assert_same(
        *(torch.load(run / kind / "last.pt", weights_only=True) for kind in ("whole", "stopped")), "last"
    )
    assert os.waitstatus_to_exitcode(said["stopped"]) == 130
    # Not the last multiple of three steps: the very step at which the signal came.
    assert said["asked_at"] <= said["stopped_at"] <= said["asked_at"] + 3
    (interrupted,) = records(run / "stopped", "interrupted")
    assert interrupted["step"] == said["stopped_at"]


def test_runs_are_no_trivial_comparison(run: Path) -> None:
    first, last = (torch.load(run / "whole" / f"epoch_000{n}.pt", weights_only=True) for n in (1, 3))
    assert any(not torch.equal(first["model"][key], last["model"][key]) for key in first["model"])
    assert any(not torch.equal(first["objective"][key], last["objective"][key]) for key in first["objective"])


def test_two_processes_save_on_ctrl_c_and_go_on(coloured_images: Path, tmp_path: Path) -> None:
    """``mvkit train --processes 2`` ends with 130, and goes on to the bits of an unbroken run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    settings = ("evaluate=[]", "train.batch_size=4", "train.max_steps=8")

    def start(name: str) -> subprocess.Popen[str]:
        words = ["train", "demo", "--images", str(coloured_images), "--out", str(tmp_path / name)]
        words += ["--device=cpu", "--workers=1", "--processes=2", *(f"--set={one}" for one in settings)]
        command = [sys.executable, "-m", "mvkit", *words]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    # A shell that runs tests in the background has Ctrl-C ignored; children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        whole, stopped = start("whole"), start("stopped")
    finally:
        signal.signal(signal.SIGINT, before)
    log = tmp_path / "stopped" / "log.jsonl"
    while not (log.exists() and '"kind": "step"' in log.read_text()) and stopped.poll() is None:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    _, error = stopped.communicate(timeout=120)
    assert stopped.returncode == 130
    assert error.count("stopping after this step") == error.count("interrupted") == 1
    assert "Traceback" not in error and "Warning" not in error
    at = torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)["progress"]["step"]
    assert 1 <= at < 8
    rest = start("stopped")
    for process in (whole, rest):
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert f"step {at}" in error
    one, other = (torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "stopped"))
    assert_same(one, other, "last.pt")
    assert not any("module." in key for key in (*one["model"], *one["objective"]))
    assert [record["step"] for record in records(tmp_path / "stopped", "step")] == list(range(1, 9))
