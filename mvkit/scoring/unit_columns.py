"""From halvings to one row per unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import Drop, explain, noise_corrected, whole_reliability
from mvkit.scoring.protocol import HalvingScores
from mvkit.scoring.results import Column
from mvkit.scoring.settings import ScoreSettings

#: Splits of the images: all, and the two sets between which a layer is chosen and scored.
EVERY, EVEN, ODD = slice(None), slice(0, None, 2), slice(1, None, 2)


@dataclass(frozen=True)
class UnitScores:
    """One layer and one specimen, condensed over halvings.

    Attributes
    ----------
    columns
        The measured columns of :class:`~mvkit.scoring.results.Scores`, each (n_units,).
    by_fold
        float64 (2, n_units): the score from the even splits of the images alone, and from the odd ones; no
        rows where there is one split only.
    """

    columns: Mapping[str, Column]
    by_fold: NDArray[np.float64]


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


def estimate(halvings: HalvingScores, settings: ScoreSettings, splits: slice = EVERY) -> NDArray[np.float64]:
    """Estimate scores from halvings of some splits: the mean of corrected values, or the corrected mean.

    The first drops halvings whose reliabilities cannot correct anything, which favours the luckier halvings
    of unreliable units. The second drops none; NaN only where a mean reliability is not positive.
    """
    if settings.estimator == "mean-of-corrected":
        return mean_ignoring_nan(halvings.scores[splits])
    return noise_corrected(*_mean_parts(halvings, splits), settings)


def _mean_parts(
    halvings: HalvingScores, splits: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Average r_cross, r_map and r_target over the halvings in which all three are defined."""
    parts = (halvings.r_cross[splits], halvings.r_map[splits], halvings.r_target[splits])
    undefined = np.isnan(parts[0]) | np.isnan(parts[1]) | np.isnan(parts[2])
    if undefined.any():
        parts = tuple(np.where(undefined, np.nan, part) for part in parts)  # type: ignore[assignment]
    return mean_ignoring_nan(parts[0]), mean_ignoring_nan(parts[1]), mean_ignoring_nan(parts[2])


def _by_fold(halvings: HalvingScores, settings: ScoreSettings) -> NDArray[np.float64]:
    if len(halvings.scores) < 2:
        return np.empty((0, halvings.scores.shape[-1]))
    return np.stack([estimate(halvings, settings, splits) for splits in (EVEN, ODD)])


def unit_scores(halvings: HalvingScores, layer_reason: str, settings: ScoreSettings) -> UnitScores:
    """Condense the halvings of one layer and specimen.

    Parameters
    ----------
    halvings
        Every split and halving.
    layer_reason
        Why the layer cannot be mapped on some split, or ""; it takes the place of the halvings' reasons.
    settings
        Estimator and correction.
    """
    n_units = halvings.scores.shape[-1]
    total = int(np.prod(halvings.scores.shape[:2]))
    flat = halvings.drops.reshape(total, n_units)
    counts = np.stack([(flat == drop).sum(axis=0) for drop in Drop])
    score = estimate(halvings, settings)
    why = [
        layer_reason or explain(counts[:, unit], total, int(halvings.missing_image[unit]))
        for unit in range(n_units)
    ]
    kept = counts[Drop.KEPT]
    reasons = why if settings.estimator == "mean-of-corrected" else _reasons_of_means(halvings, why)
    with np.errstate(invalid="ignore", divide="ignore"):
        r_map, r_target = (whole_reliability(part, settings) for part in (halvings.r_map, halvings.r_target))
    columns: dict[str, Column] = {
        "raw_correlation": mean_ignoring_nan(halvings.r_cross),
        "map_reliability": mean_ignoring_nan(r_map),
        "response_reliability": mean_ignoring_nan(r_target),
        "score": score,
        "map_correlation": mean_ignoring_nan(halvings.r_map),
        "response_correlation": mean_ignoring_nan(halvings.r_target),
        "halves_used": kept,
        "halves_dropped": total - kept,
        "reason": np.array(
            [text if np.isnan(score[unit]) else "" for unit, text in enumerate(reasons)], dtype=object
        ),
        "dropped_because": np.array(why, dtype=object),
    }
    return UnitScores(columns, _by_fold(halvings, settings))


def _reasons_of_means(halvings: HalvingScores, why: Sequence[str]) -> list[str]:
    """Say why averages cannot be corrected; where there is nothing to average, ``why`` says it already."""
    _, r_map, r_target = _mean_parts(halvings, EVERY)
    causes = np.where(r_map > 0.0, "response", np.where(r_target > 0.0, "map", "map and response"))
    return [
        text if np.isnan(mean) else f"mean {cause} reliability not positive"
        for text, mean, cause in zip(why, r_map, causes, strict=True)
    ]
