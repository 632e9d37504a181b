"""What is done again and again in one process leaves nothing behind: objects, open files, threads, files."""

from __future__ import annotations

import gc
import runpy
import tempfile
import threading
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("part", "n_warm_up", "n_times"),
    [("loader", 240, 120), ("score", 3, 6), ("extract", 3, 6), ("figures", 4, 6), ("open", 3, 6)],
)
def test_nothing_grows(
    part: str, n_warm_up: int, n_times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the parts of benchmarks/flat_memory.py, which measures memory over thousands of repetitions."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    # Files in mvkit's home are its cache, which grows by design.
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path / "home"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    _, start = runpy.run_path(str(BENCHMARKS / "flat_memory.py"))["PARTS"][part]
    repeat = start(temporary)
    repeat(n_warm_up)
    objects, others = _count(temporary)
    repeat(n_times)
    more_objects, same_others = _count(temporary)
    assert same_others == others
    # Not one for each repetition.
    assert more_objects - objects < n_times


def _count(folder: Path) -> tuple[int, dict[str, int]]:
    gc.collect()
    n_files = sum(1 for path in folder.rglob("*") if path.is_file())
    open_files = sum(1 for _ in Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").is_dir() else 0
    counts = {"files": n_files, "open files": open_files, "threads": threading.active_count()}
    return len(gc.get_objects()), counts
