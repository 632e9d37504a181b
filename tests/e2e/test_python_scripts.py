"""Scripts as a scientist writes them, without ``if __name__ == "__main__"``: workers start all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCORE = """
import mvkit

options = {"n_splits": 1, "n_halves": 4, "areas": "VISp,VISl"}
print("started")
scores = mvkit.score("pixels", "simulated", n_jobs=2, cache=False, **options)
alone = mvkit.score("pixels", "simulated", n_jobs=1, cache=False, **options)
print(scores.table().equals(alone.table()), len(scores.table()))
ceiling = mvkit.ceiling("simulated", "VISp", n_splits=1, n_halves=4, n_jobs=2)
print(ceiling)
"""

TRAIN = """
import sys
import mvkit

report = mvkit.train(
    "demo",
    {"train.max_steps": 2, "train.batch_size": 4, "evaluate": []},
    images=sys.argv[1], out=sys.argv[2], workers=2, device="cpu",
)
print(report.fit.step, (report.folder / "last.pt").is_file())
"""


def run_script(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, str(script), *words],
        cwd=folder,
        env={**os.environ, "MVKIT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_script_scores_with_two_workers_and_starts_once(tmp_path: Path) -> None:
    done = run_script(tmp_path, SCORE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "started" and lines.count("started") == 1
    assert lines[1].startswith("True ")
    assert lines[2].startswith("Scores(ceiling (holdout) on simulated, pls, 1 layer")
    assert "Traceback" not in done.stderr and "freeze_support" not in done.stderr


@pytest.mark.slow
def test_a_script_trains_with_two_loader_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        folder = tmp_path / "images" / "train" / name
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 255, (72, 72, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    done = run_script(tmp_path, TRAIN, str(tmp_path / "images"), str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "True"]
