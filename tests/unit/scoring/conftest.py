"""Recordings made of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest


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
def noisy_linear() -> Callable[..., tuple[Any, Any]]:
    """Simulate features, and responses that are linear in them plus trial noise."""

    def simulate(
        *,
        n_features: int = 60,
        n_units: int = 6,
        n_images: int = 118,
        n_trials: int = 20,
        noise: float = 1.0,
        rank: int = 5,
        seed: int = 0,
    ) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        latents = rng.standard_normal((n_images, rank))
        features = latents @ rng.standard_normal((rank, n_features)) + 0.05 * rng.standard_normal(
            (n_images, n_features)
        )
        tuning = latents @ rng.standard_normal((rank, n_units)) / np.sqrt(rank)
        responses = tuning + noise * rng.standard_normal((n_trials, n_images, n_units))
        return features, responses

    return simulate
