"""Scores of animals whose medians are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mvkit.scoring import Scores, ScoreSettings
from mvkit.scoring.results import POPULATION

#: (layer, area) -> animal -> scores of its units.
Values = Mapping[tuple[str, str], Mapping[int, list[float]]]


def build_scores(
    values: Values, *, context: Mapping[str, object] | None = None, population: bool = False, **settings: Any
) -> Scores:
    """Scores with these values and nothing else."""
    rows = [
        (layer, area, animal, POPULATION if population else 100 * animal + index, score)
        for (layer, area), animals in values.items()
        for animal, scores in animals.items()
        for index, score in enumerate(scores)
    ]
    layers, areas, animals, units, scores = zip(*rows, strict=True)
    columns = {
        "layer": np.array(layers, dtype=object),
        "area": np.array(areas, dtype=object),
        "specimen": np.array(animals, dtype=np.int64),
        "unit_id": np.array(units, dtype=np.int64),
        "score": np.array(scores, dtype=np.float64),
        "reason": np.where(np.isnan(scores), "constant_response", ""),
    }
    chosen = ScoreSettings(**{"n_splits": 1, "n_halves": 4, "n_resamples": 200, **settings})
    return Scores(columns, tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(areas)), chosen, context or {})


@pytest.fixture(scope="session")
def animal_scores() -> Callable[..., Scores]:
    """Builds scores from the scores of every animal's units."""
    return build_scores


@pytest.fixture(scope="session")
def models() -> dict[str, Scores]:
    """Two models: three animals in VISp, two in VISam; "dual" has two layers."""
    visp = {1: [0.4, 0.5, 0.6], 2: [0.3, 0.4, 0.5], 3: [0.2, 0.3, 0.4]}
    visam = {1: [0.5, 0.7], 2: [0.6, 0.8]}
    lower = {animal: [score - 0.1 for score in scores] for animal, scores in visp.items()}
    dual = {
        ("conv1", "VISp"): visp,
        ("conv1", "VISam"): {1: [0.1, 0.2], 2: [0.1, 0.2]},
        ("conv2", "VISp"): lower,
        ("conv2", "VISam"): visam,
    }
    pixels = {
        ("pixels", "VISp"): {1: [0.1, 0.2, 0.3], 2: [0.1, 0.1, 0.1], 3: [0.0, 0.1, 0.1]},
        ("pixels", "VISam"): {1: [0.2, 0.3], 2: [0.2, float("nan")]},
    }
    context = {"dataset": "neuropixels"}
    return {"dual": build_scores(dual, context=context), "pixels": build_scores(pixels, context=context)}
