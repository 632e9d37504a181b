"""Animals that see the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


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
