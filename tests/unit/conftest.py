"""Fixtures of unit tests: scripts run as several processes that work together; simulated recordings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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


@dataclass(frozen=True)
class ArrayRecording:
    """What scoring needs of a recording."""

    area: str
    specimen: int
    unit_ids: Any
    responses: Any


@pytest.fixture(scope="session")
def recording() -> Callable[..., ArrayRecording]:
    """Build a recording from responses (n_trials, n_images, n_units)."""

    def build(responses: Any, *, area: str = "VISp", specimen: int = 1) -> ArrayRecording:
        return ArrayRecording(area, specimen, 10 + np.arange(responses.shape[2]), responses)

    return build


@pytest.fixture(scope="session")
def animals() -> Callable[..., list[Any]]:
    """Simulate animals whose units are tuned to shared latents: arrays (n_trials, n_images, n_units)."""

    def simulate(
        n_units: tuple[int, ...],
        *,
        n_trials: tuple[int, ...] | int = 10,
        n_images: int = 40,
        noise: float = 1.0,
        rank: int = 3,
        seed: int = 0,
    ) -> list[Any]:
        rng = np.random.default_rng(seed)
        latents = rng.standard_normal((n_images, rank))
        trials = (n_trials,) * len(n_units) if isinstance(n_trials, int) else n_trials
        return [
            latents @ rng.standard_normal((rank, n)) + noise * rng.standard_normal((count, n_images, n))
            for n, count in zip(n_units, trials, strict=True)
        ]

    return simulate
