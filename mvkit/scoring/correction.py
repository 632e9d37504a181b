"""Corrections for noise: from correlations between halves of the trials to scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import spearman_brown
from mvkit.scoring.reasons import Drop
from mvkit.scoring.settings import ScoreSettings

#: Ways of drawing in which each set is as large as all trials: nothing is to be extrapolated.
FULL_SIZE = ("bootstrap", "bootstrap-full-mean")


def whole_reliability(correlation: NDArray[np.float64], settings: ScoreSettings) -> NDArray[np.float64]:
    """Reliability of the mean of all trials from the correlation of two sets of them.

    Spearman and Brown's formula for halves; sets as large as all trials need none.
    """
    return correlation if settings.halving in FULL_SIZE else spearman_brown(correlation)


def noise_corrected(
    r_cross: NDArray[np.float64],
    r_map: NDArray[np.float64],
    r_target: NDArray[np.float64],
    settings: ScoreSettings,
) -> NDArray[np.float64]:
    """Divide a raw correlation by what noise allows.

    Parameters
    ----------
    r_cross, r_map, r_target
        float64, equal shapes: prediction from half 1 with half 2; prediction from half 1 with prediction from
        half 2; half 1 with half 2.
    settings
        ``correction`` says how, ``parity`` whether two negative reliabilities count.

    Returns
    -------
    ndarray
        float64, same shape; NaN where the product of the reliabilities is negative or undefined. If both are
        negative the quotient is finite but means nothing: it is kept with ``parity``, else NaN, as is the
        infinite quotient of a reliability of exactly zero.
    """
    if settings.correction == "none":
        return r_cross.copy()
    by_denominator = settings.correction == "spearman-brown-denominator"
    first, second = (
        whole_reliability(part, settings) if by_denominator else part for part in (r_map, r_target)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: NDArray[np.float64] = r_cross / np.sqrt(first * second)
    if settings.correction == "spearman-brown-ratio":
        scores = whole_reliability(scores, settings)
    if not settings.parity:
        scores[~(first > 0.0) | ~(second > 0.0) | ~np.isfinite(scores)] = np.nan
    return scores


def reasons_for_gaps(
    scores: NDArray[np.float64],
    parts: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    drops: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Find out why scores are NaN.

    Parameters
    ----------
    scores
        What :func:`noise_corrected` returned for ``parts`` (r_cross, r_map, r_target).
    parts
        Its arguments.
    drops
        uint8, same shape: what was known before a map was fitted (:class:`Drop`).
    """
    r_cross, r_map, r_target = parts
    flat = np.isnan(r_cross) | np.isnan(r_map)
    map_negative, target_negative = r_map < 0.0, r_target < 0.0
    # Numbers of the type of ``drops``: numpy 1 takes others for int64, which it does not narrow.
    kept, flat_map, both, of_map, of_target, otherwise = (
        np.uint8(drop)
        for drop in (
            Drop.KEPT,
            Drop.CONSTANT_PREDICTION,
            Drop.NEGATIVE_BOTH,
            Drop.NEGATIVE_MAP,
            Drop.NEGATIVE_RESPONSE,
            Drop.UNDEFINED,
        )
    )
    reasons: NDArray[np.uint8] = np.select(
        [
            np.isfinite(scores),
            drops > 0,
            flat,
            map_negative & target_negative,
            map_negative,
            target_negative,
        ],
        [kept, drops, flat_map, both, of_map, of_target],
        default=otherwise,
    )
    return reasons
