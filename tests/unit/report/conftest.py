"""Scores whose medians are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mvkit.scoring import Scores, ScoreSettings
from mvkit.scoring.correlation import DROPPED_COLUMNS
from mvkit.scoring.results import POPULATION

UNITS = 4


def _scores_of(
    values: dict[tuple[str, str], list[float]],
    context: dict[str, object] | None = None,
    *,
    by_fold: dict[tuple[str, str], list[list[float]]] | None = None,
    populations: bool = False,
    **settings: object,
) -> Scores:
    """Scores with given values for every (layer, area); two units in one of three specimens."""
    layers = tuple(dict.fromkeys(layer for layer, _ in values))
    areas = tuple(dict.fromkeys(area for _, area in values))
    flat = np.array([value for row in values.values() for value in row])
    repeated = [(layer, area, specimen) for layer, area in values for specimen in (11, 11, 22, 33)]
    if populations:
        repeated = [(layer, area, specimen) for layer, area in values for specimen in range(UNITS)]
    count = len(flat)
    columns = {
        "layer": np.array([layer for layer, _, _ in repeated], dtype=object),
        "area": np.array([area for _, area, _ in repeated], dtype=object),
        "specimen": np.array([specimen for _, _, specimen in repeated]),
        "unit_id": np.full(count, POPULATION) if populations else np.tile(np.arange(UNITS), len(values)),
        "score": flat,
        "raw_correlation": flat / 2,
        "map_reliability": np.full(count, 0.5),
        "response_reliability": np.full(count, 0.5),
        "halves_used": np.where(np.isnan(flat), 0, 10),
        "halves_dropped": np.where(np.isnan(flat), 10, 0),
        "reason": np.where(np.isnan(flat), "constant_response", ""),
        "detail": np.full(count, ""),
        **{
            column: np.where(np.isnan(flat) & (reason == "constant_response"), 10, 0)
            for reason, column in DROPPED_COLUMNS.items()
        },
    }
    splits = (
        np.empty((0, 0)) if by_fold is None else np.concatenate([np.array(by_fold[key]) for key in values], 1)
    )
    chosen = ScoreSettings(**{"n_splits": 1, "n_halves": 10, **settings})
    return Scores(columns, layers, areas, chosen, context or {}, splits)


@pytest.fixture(scope="session")
def scores_of() -> Callable[..., Scores]:
    """Builds scores from values for every (layer, area): four units (three animals), or four populations.

    ``by_fold`` has (n_splits, 4) values for the same keys; further keywords are settings.
    """
    return _scores_of
