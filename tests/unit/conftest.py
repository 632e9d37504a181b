"""Fixtures of unit tests: a script run as several processes that work together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RunGroup = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def run_group(tmp_path_factory: pytest.TempPathFactory) -> RunGroup:
    """Return a function that runs a script in n processes and returns what each saved.

    The script gets rank, n, a file to meet at and a file to save to (``torch.save`` of a dict).
    """

    def run(script: Path, n: int, *words: str) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("group")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        running = []
        for rank in range(n):
            command = [sys.executable, str(script), str(rank), str(n), str(folder / "meet")]
            running.append(
                subprocess.Popen(
                    [*command, str(folder / f"{rank}.pt"), *words],
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        errors = [process.communicate(timeout=300)[1] for process in running]
        assert [process.returncode for process in running] == [0] * n, "\n".join(errors)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(n)]

    return run
