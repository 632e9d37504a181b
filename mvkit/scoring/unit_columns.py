"""From halvings to one row per unit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import spearman_brown
from mvkit.scoring.halvings import HalvingScores
from mvkit.scoring.reasons import Drop, explain

Column = NDArray[np.generic]


def mean_ignoring_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over splits and halvings at once, ignoring NaN; NaN if there is nothing else.

    Parameters
    ----------
    values
        float64 (n_splits, n_halves, n_units).
    """
    valid = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(valid, values, 0.0).sum(axis=(0, 1)) / valid.sum(axis=(0, 1))
    return mean


def unit_columns(halvings: HalvingScores, layer_reason: str) -> Mapping[str, Column]:
    """Condense the halvings of one layer and specimen.

    Parameters
    ----------
    halvings
        Every split and halving.
    layer_reason
        Why the layer cannot be mapped on some split, or ""; it takes the place of the halvings' reasons.

    Returns
    -------
    mapping
        The measured columns of :class:`~mvkit.scoring.results.Scores`, each (n_units,).
    """
    n_units = halvings.scores.shape[-1]
    total = int(np.prod(halvings.scores.shape[:2]))
    flat = halvings.drops.reshape(total, n_units)
    counts = np.stack([(flat == drop).sum(axis=0) for drop in Drop])
    score = mean_ignoring_nan(halvings.scores)
    why = [
        layer_reason or explain(counts[:, unit], total, int(halvings.missing_image[unit]))
        for unit in range(n_units)
    ]
    kept = counts[Drop.KEPT]
    with np.errstate(invalid="ignore"):
        r_map, r_target = spearman_brown(halvings.r_map), spearman_brown(halvings.r_target)
    return {
        "raw_correlation": mean_ignoring_nan(halvings.r_cross),
        "map_reliability": mean_ignoring_nan(r_map),
        "response_reliability": mean_ignoring_nan(r_target),
        "score": score,
        "map_correlation": mean_ignoring_nan(halvings.r_map),
        "response_correlation": mean_ignoring_nan(halvings.r_target),
        "halves_used": kept,
        "halves_dropped": total - kept,
        "reason": np.array(
            [text if np.isnan(score[unit]) else "" for unit, text in enumerate(why)], dtype=object
        ),
        "dropped_because": np.array(why, dtype=object),
    }
