"""Correlations over images, their correction for noise, and why a corrected one can be missing."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.settings import ScoreSettings

#: Ways of drawing in which each set is as large as all trials: nothing is to be extrapolated.
FULL_SIZE = ("bootstrap", "bootstrap-full-mean")
# A response counts as constant if it differs from its mean by no more than rounding.
CONSTANT = 64 * float(np.finfo(np.float64).eps)


class ExclusionReason(IntEnum):
    """Why a pair of trial halves has no score; the first one where several apply."""

    NONE = 0
    NO_TRIAL = 1
    CONSTANT_RESPONSE = 2
    CONSTANT_PREDICTION = 3
    NEGATIVE_BOTH = 4
    NEGATIVE_MAP = 5
    NEGATIVE_RESPONSE = 6
    UNDEFINED = 7
    FEW_UNITS = 8
    UNDEFINED_RDM = 9
    NOT_CONVERGED = 10
    UNMAPPED = 11
    NO_REPEATS = 12
    NO_EXPLAINABLE_VARIANCE = 13

    @property
    def code(self) -> str:
        """The reason as tables have it, for instance ``"negative_map"``."""
        return self.name.lower()


#: Why a unit has no score (column ``reason``) -> words. Halves are dropped for those of
#: :class:`ExclusionReason`; the last three are of means over halves (``estimator="corrected-mean"``).
REASONS = {
    ExclusionReason.NO_TRIAL.code: "no valid trial in one half",
    ExclusionReason.CONSTANT_RESPONSE.code: "constant response",
    ExclusionReason.CONSTANT_PREDICTION.code: "constant prediction",
    ExclusionReason.NEGATIVE_BOTH.code: "two negative reliabilities",
    ExclusionReason.NEGATIVE_MAP.code: "negative map reliability",
    ExclusionReason.NEGATIVE_RESPONSE.code: "negative response reliability",
    ExclusionReason.UNDEFINED.code: "reliability of zero",
    ExclusionReason.FEW_UNITS.code: "fewer than two units",
    ExclusionReason.UNDEFINED_RDM.code: (
        "undefined dissimilarities (all units respond alike to an image, or all are equal)"
    ),
    ExclusionReason.NOT_CONVERGED.code: "map did not converge",
    ExclusionReason.UNMAPPED.code: "no map from the layer",
    ExclusionReason.NO_REPEATS.code: "no test image with two trials",
    ExclusionReason.NO_EXPLAINABLE_VARIANCE.code: "no explainable variance",
    "mean_both": "mean map and response reliability not positive",
    "mean_map": "mean map reliability not positive",
    "mean_response": "mean response reliability not positive",
}

#: Reason for dropping halves -> the column that counts them.
DROPPED_COLUMNS = {
    one.code: f"dropped_{one.code}" for one in ExclusionReason if one is not ExclusionReason.NONE
}

#: Reason of layers and sources that cannot be mapped at all; the column ``detail`` says why.
UNMAPPED = ExclusionReason.UNMAPPED.code


def correct_for_noise(
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
        negative the quotient is finite but means nothing: it stays with ``parity``, else it is NaN, as is the
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


def whole_reliability(correlation: NDArray[np.float64], settings: ScoreSettings) -> NDArray[np.float64]:
    """Reliability of the mean of all trials from the correlation of two sets of them.

    Spearman and Brown's formula for halves; sets as large as all trials need none.
    """
    return correlation if settings.halving in FULL_SIZE else spearman_brown(correlation)


def spearman_brown(reliability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reliability of the whole from the correlation of its halves: ``2 r / (1 + r)``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected: NDArray[np.float64] = 2.0 * reliability / (1.0 + reliability)
    return corrected


def exclusion_reasons(
    scores: NDArray[np.float64],
    parts: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    exclusions: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Return why scores are NaN.

    Parameters
    ----------
    scores
        What :func:`correct_for_noise` returned for ``parts`` (r_cross, r_map, r_target).
    parts
        Its arguments.
    exclusions
        uint8, same shape: :class:`ExclusionReason` as far as it was known before a map was fitted.
    """
    r_cross, r_map, r_target = parts
    map_negative, target_negative = r_map < 0.0, r_target < 0.0
    rules = [
        (np.isfinite(scores), ExclusionReason.NONE),
        (exclusions > 0, exclusions),
        (np.isnan(r_cross) | np.isnan(r_map), ExclusionReason.CONSTANT_PREDICTION),
        (map_negative & target_negative, ExclusionReason.NEGATIVE_BOTH),
        (map_negative, ExclusionReason.NEGATIVE_MAP),
        (target_negative, ExclusionReason.NEGATIVE_RESPONSE),
    ]
    conditions, reasons = zip(*rules, strict=True)
    # Numbers of the type of ``exclusions``: numpy 1 takes others for int64, which it does not narrow.
    choices = [np.asarray(reason, dtype=np.uint8) for reason in reasons]
    selected: NDArray[np.uint8] = np.select(conditions, choices, np.uint8(ExclusionReason.UNDEFINED))
    return selected


def correlate_by(kind: str, first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate matching columns over the last but one axis by ``"pearson"`` or ``"spearman"``.

    Spearman's is Pearson's correlation of the ranks, ties sharing their mean rank. Shapes as in
    :func:`correlate`.
    """
    if kind == "spearman":
        return correlate(_ranks(first), _ranks(second))
    return correlate(first, second)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(values, axis=-2)
    ranks[np.broadcast_to(np.isnan(values).any(axis=-2, keepdims=True), ranks.shape)] = np.nan
    return ranks


def correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of matching columns, over the last but one axis.

    Parameters
    ----------
    first, second
        float64 (..., n_images, n_units).

    Returns
    -------
    ndarray
        float64 (..., n_units); NaN where either is constant or holds NaN.
    """
    from mvkit.scoring.kernels import column_correlations

    shape = first.shape
    result = np.empty((int(np.prod(shape[:-2])), shape[-1]))
    column_correlations(
        np.ascontiguousarray(first).reshape(-1, *shape[-2:]),
        np.ascontiguousarray(second).reshape(-1, *shape[-2:]),
        np.empty((5, shape[-1])),
        result,
    )
    return result.reshape(*shape[:-2], shape[-1])


def mean_ignoring_nan(values: NDArray[np.float64], *, axis: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Average over axes, ignoring NaN; NaN where there is nothing else."""
    valid = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(valid, values, 0.0).sum(axis=axis) / valid.sum(axis=axis)
    return mean


def centre(values: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Subtract the mean along an axis; values that are equal up to rounding become exactly zero.

    NaN anywhere along the axis makes all of it NaN.
    """
    means = values.mean(axis=axis, keepdims=True)
    deviations: NDArray[np.float64] = values - means
    clear_rounding(deviations, CONSTANT * np.abs(means), axis=axis)
    return deviations


def clear_rounding(deviations: NDArray[np.float64], error: NDArray[np.float64] | float, *, axis: int) -> None:
    """Set to zero, in place, values within rounding error all along an axis; NaN stays NaN."""
    rounding = spread(deviations, axis=axis) <= error
    if rounding.any():
        np.multiply(deviations, 0.0, out=deviations, where=rounding)


def spread(deviations: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Return the largest absolute value along an axis, which stays with length 1."""
    high: NDArray[np.float64] = deviations.max(axis=axis, keepdims=True)
    low: NDArray[np.float64] = deviations.min(axis=axis, keepdims=True)
    largest: NDArray[np.float64] = np.maximum(high, -low)
    return largest
