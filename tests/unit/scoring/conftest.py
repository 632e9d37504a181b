"""Simulated features, responses and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mvkit.scoring import Scores, ScoreSettings


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


#: area, specimen, unit
Unit = tuple[str, int, int]


@pytest.fixture(scope="session")
def scores_of() -> Callable[..., Scores]:
    """Build scores from values (n_layers, n_units), or by split (n_splits, n_layers, n_units)."""

    def build(
        units: Sequence[Unit],
        values: Any,
        *,
        settings: ScoreSettings | None = None,
        context: Mapping[str, object] | None = None,
    ) -> Scores:
        table = np.asarray(values, dtype=np.float64)
        score = table.mean(axis=0) if table.ndim == 3 else table
        folds = np.empty((0, 0))
        if table.ndim == 3 and len(table) > 1:
            halves = [np.ma.masked_invalid(table[first::2]).mean(axis=0).filled(np.nan) for first in (0, 1)]
            folds = np.stack(halves).reshape(2, -1)
        layers = tuple(f"layer{index}" for index in range(len(score)))
        area, specimen, unit = zip(*units, strict=True)
        columns: dict[str, Any] = {
            "layer": np.repeat(np.array(layers, dtype=object), len(units)),
            "area": np.array(area * len(layers), dtype=object),
            "specimen": np.array(specimen * len(layers), dtype=np.int64),
            "unit_id": np.array(unit * len(layers), dtype=np.int64),
            "score": score.ravel(),
        }
        areas = tuple(dict.fromkeys(area))
        return Scores(columns, layers, areas, settings or ScoreSettings(), context or {}, folds)

    return build
