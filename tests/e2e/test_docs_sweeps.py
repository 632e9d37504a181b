"""The commands of docs/sweeps.md and the script for SLURM, run as printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mvkit.cli.main import run

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "sweeps.md").read_text(encoding="utf-8")
SCRIPT = DOCS / "sweep.sbatch"
SETTINGS = "--dataset simulated --areas VISp --splits 1 --halves 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands were run, from top to bottom."""
    found = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        patch.setenv("MVKIT_HOME", str(found / "home"))
        for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL):
            for line in filter(None, block.splitlines()):
                words = shlex.split(line)
                assert words[0] == "mvkit"
                assert run(words[1:]) == 0, line
    return found


def same_scores(one: Path, other: Path, models: list[str]) -> None:
    for model in models:
        for name in ("scores.parquet", "folds.parquet", "scores.csv"):
            assert (one / model / name).read_bytes() == (other / model / name).read_bytes(), (model, name)


@pytest.mark.parametrize("other", ["again", "merged"])
def test_repeated_and_merged_runs_give_the_bytes_of_the_first(folder: Path, other: str) -> None:
    same_scores(folder / "first", folder / other, ["gabor", "pixels"])
    first, second = (folder / name / "comparison.csv" for name in ("first", other))
    assert first.read_bytes() == second.read_bytes()


def test_the_script_for_slurm_scores_every_part(folder: Path, tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    header = SCRIPT.read_text().split("set -euo")[0]
    assert "#SBATCH --array=1-8" in header
    merge = re.search(r'--wrap "(mvkit score --merge \w+)"', header)
    assert merge is not None and merge[0] in PAGE
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "MVKIT_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PARTS": "2",
        "MODELS": "gabor pixels",
        "SETTINGS": SETTINGS,
    }
    for part in ("1", "2"):
        environment["SLURM_ARRAY_TASK_ID"] = part
        subprocess.run(["bash", str(SCRIPT)], check=True, cwd=tmp_path, env=environment)
    subprocess.run(shlex.split(merge[1]), check=True, cwd=tmp_path, env=environment)
    same_scores(folder / "first", tmp_path / "sweep", ["gabor", "pixels"])
