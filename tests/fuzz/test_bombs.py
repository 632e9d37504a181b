"""Bombs and files that lead elsewhere: each is refused in a line, soon, and without filling memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BOMBS = Path(__file__).with_name("bombs.py")


@pytest.mark.slow
def test_bombs_are_refused_at_once_and_in_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, str(BOMBS), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, process.stderr[-2000:]
    assert len(rows) > 40
    accepted = [
        row for row in rows if "Error: " not in row["outcome"] or row["outcome"].startswith("finding")
    ]
    assert accepted == []
    # Decompressing a table until it is too much takes some seconds; nothing else does.
    assert [row for row in rows if row["s"] > (10 if ".gz" in row["name"] else 1)] == []
    assert [row for row in rows if row["MB"] > 200] == []
    said = {row["name"]: row["outcome"] for row in rows}
    assert "'responses' lies in another file" in said["h5, external storage"]
    assert "would take 10.0 GB of memory" in said["npz, 10 GB declared"]
    assert "would take 10.0 GB of memory" in said["pickle.gz, 10 GB declared"]
    assert "takes too long" in said["pattern, (a+)+"]
