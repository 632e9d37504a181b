"""Conversions that are killed or run out of room leave nothing under the final name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CONVERT = """
import sys, time
from pathlib import Path
from mvkit.errors import DataError
from mvkit.neural import convert_pickle
"""

STALL = (
    CONVERT
    + """
def stall(done, total):
    print(done, flush=True)
    time.sleep(600)

convert_pickle(Path(sys.argv[1]), Path(sys.argv[2]), dataset="neuropixels", progress=stall)
"""
)

LIMITED = (
    CONVERT
    + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    convert_pickle(Path(sys.argv[1]), Path(sys.argv[2]), dataset="neuropixels")
except DataError as error:
    print(error)
"""
)


def test_a_killed_conversion_leaves_nothing_under_the_final_name(pickled: Any, tmp_path: Path) -> None:
    source, target = pickled().path, tmp_path / "out" / "neuropixels.h5"
    with subprocess.Popen(
        [sys.executable, "-c", STALL, str(source), str(target)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()  # it is writing now
        assert list(target.parent.iterdir())
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    assert all(".tmp-" in path.name for path in target.parent.iterdir())


def test_a_full_disk_is_reported_and_nothing_stays(pickled: Any, tmp_path: Path) -> None:
    source, target = pickled().path, tmp_path / "out" / "neuropixels.h5"
    for limit in (2_000, 20_000, 30_000):
        result = subprocess.run(
            [sys.executable, "-c", LIMITED, str(source), str(target), str(limit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "is the disk full?" in result.stdout
        assert str(target) in result.stdout
        assert list(target.parent.iterdir()) == []
