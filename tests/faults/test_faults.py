"""A few faults of most classes; all of them by ``make faults``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "run.py"
QUICK = ("convert",)
CLASSES = ("kill", "interrupt", "full", "damage")


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc"), reason="preloads a library: Linux, gcc"
)
def test_a_few_faults(tmp_path: Path) -> None:
    words = [sys.executable, str(RUN), "--quick", "--root", str(tmp_path / "faults")]
    words += [word for name in CLASSES for word in ("--only", name)]
    words += [word for name in QUICK for word in ("--command", name)]
    path = os.pathsep.join((str(RUN.parents[2]), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "damage      checkpoint" in done.stdout
