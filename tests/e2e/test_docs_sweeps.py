"""The commands of docs/howto/machines.md and the script for SLURM, run as printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from mvkit.cli.main import run

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "howto" / "machines.md").read_text(encoding="utf-8")
SCRIPT = DOCS / "sweep.sbatch"
SETTINGS = "gabor pixels --dataset simulated --areas VISp --splits 1 --halves 2"


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


def same_scores(one: Path, other: Path) -> None:
    for name in ("scores.parquet", "scores.csv", "summary.csv", "best_layers.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("other", ["again", "sharded"])
def test_repeated_and_sharded_runs_give_the_bytes_of_the_first(folder: Path, other: str) -> None:
    same_scores(folder / "first", folder / other)
    first, second = (folder / name / "comparison.csv" for name in ("first", other))
    assert first.read_bytes() == second.read_bytes()


def test_the_script_for_slurm_scores_every_shard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    script = SCRIPT.read_text(encoding="utf-8")
    assert "#SBATCH --array=1-8\n" in script
    assert "SHARDS:-8" in script
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for index in ("1", "2"):
        words = words_of_task(index, tmp_path)
        assert words[-2:] == ["--shard", f"{index}/2"]
        assert run(words) == 0, words
    finish = re.search(r'--wrap "mvkit (score \$SETTINGS --out sweep)"', PAGE)
    assert finish is not None
    monkeypatch.setattr("mvkit.scoring.run._score_recording", lambda *arguments: pytest.fail("all cached"))
    assert run(shlex.split(finish[1].replace("$SETTINGS", SETTINGS))) == 0
    same_scores(folder / "first", tmp_path / "sweep")


def test_the_code_for_dask_jobqueue_compiles() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    compile(code, "docs/howto/machines.md", "exec")


def words_of_task(index: str, folder: Path) -> list[str]:
    """What the script gives to mvkit in a task of an array, told by a stand-in that starts faster."""
    stand_in = folder / "bin" / "mvkit"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stand_in.chmod(0o755)
    environment = {
        "PATH": f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": index,
        "SHARDS": "2",
        "SETTINGS": SETTINGS,
    }
    done = subprocess.run(["bash", str(SCRIPT)], check=True, env=environment, capture_output=True, text=True)
    return done.stdout.splitlines()
