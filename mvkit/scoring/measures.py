"""Measures of predictions from all trials: FEVE, single-trial correlation, correlation to average.

The map is fitted once per split, to the mean responses of all trials to the training images, and its
predictions p of the test images are compared with the responses r (trials t, images i, mean over trials
``r_i``) of each unit:

- ``"feve"``, the fraction of explainable variance explained (Cadena et al. 2019 in PLOS Computational
  Biology 15(4):e1006897, equations of "Fraction of explainable variance explained")::

      FEVE = 1 - (mean of (r_ti - p_i)^2 - noise) / (variance of r_ti - noise)

  with the noise variance: the variance over trials of each image, averaged over images. Both variances are
  the unbiased ones (ddof 1);
- ``"single-trial"``: Pearson's correlation of p_i and r_ti over all trials of all test images;
- ``"to-average"``: correlation of p_i and r_i over test images (both: Willeke et al. 2022, arXiv:2206.08666,
  "Single trial correlation" and "Correlation to average").

The explainable variance of a unit is the fraction (variance - noise) / variance, over all images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import ExclusionReason, centre, correlate_by
from mvkit.scoring.protocol import (
    ImageSplit,
    PreparedSplit,
    SplitHalfScores,
    half_means,
    note_missing,
    training_targets,
)
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
#: ``predict(targets (n_fits, n_train, n_units), prepared, settings) -> (n_fits, n_test, n_units)``
PredictSplit = Callable[[Array, Any, ScoreSettings], Array]

#: Measures -> their names in sentences.
MEASURES = {
    "corrected": "correlation corrected for noise",
    "feve": "fraction of explainable variance explained",
    "single-trial": "single-trial correlation",
    "to-average": "correlation to average",
}

#: An explainable variance is zero if it is no more than this part of the variance.
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class TrialVariance:
    """How the single trials of units vary.

    Attributes
    ----------
    total
        float64 (n_units,): variance over all trials of all images, in squared units of measure; NaN where
        there are fewer than two trials.
    noise
        float64 (n_units,): variance over the trials of an image, averaged over the images that have at least
        two; NaN where none has.
    """

    total: Array
    noise: Array

    def explainable(self) -> Array:
        """Return the explainable variance, float64 (n_units,), a fraction of ``total``; NaN if undefined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.total - self.noise) / self.total


def trial_variance(responses: NDArray[np.floating]) -> TrialVariance:
    """Measure the variance of single trials, in all and within images.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    """
    values = np.asarray(responses, dtype=np.float64)
    count = np.sum(~np.isnan(values), axis=0)
    n_valid = count.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values, axis=0) / count
        of_image = np.nansum((values - mean) ** 2, axis=0) / (count - 1)
        overall = np.nansum(values, axis=(0, 1)) / n_valid
        total = np.nansum((values - overall) ** 2, axis=(0, 1)) / (n_valid - 1)
        repeated = count > 1
        noise = np.where(repeated, of_image, 0.0).sum(axis=0) / repeated.sum(axis=0)
    return TrialVariance(np.where(n_valid > 1, total, np.nan), noise)


def feve(predictions: Array, responses: NDArray[np.floating], variance: TrialVariance | None = None) -> Array:
    """Measure the fraction of explainable variance that predictions explain.

    Parameters
    ----------
    predictions
        float64 (n_images, n_units), in the units of measure of the responses.
    responses
        (n_trials, n_images, n_units), NaN = missing.
    variance
        That of the responses, if it is known.

    Returns
    -------
    ndarray
        float64 (n_units,): 1 for the true mean responses, 0 for the overall mean, negative for worse; NaN
        where trials explain all of the variance, or no image has two trials.
    """
    if variance is None:
        variance = trial_variance(responses)
    squares = (np.asarray(responses, dtype=np.float64) - predictions) ** 2
    explainable = variance.total - variance.noise
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.nansum(squares, axis=(0, 1)) / np.sum(~np.isnan(squares), axis=(0, 1))
        fraction: Array = 1.0 - (error - variance.noise) / explainable
    fraction[~(explainable > _ROUNDING * variance.total)] = np.nan
    return fraction


def single_trial_correlation(predictions: Array, responses: NDArray[np.floating]) -> Array:
    """Correlate predictions with the responses of every trial, over all trials and images.

    Parameters
    ----------
    predictions, responses
        As for :func:`feve`, the predictions up to a constant.

    Returns
    -------
    ndarray
        float64 (n_units,): Pearson's correlation; NaN where either does not vary.
    """
    values = np.asarray(responses, dtype=np.float64)
    present = ~np.isnan(values)
    repeated = np.broadcast_to(predictions, values.shape)
    n_valid = present.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (
            np.where(present, part - np.where(present, part, 0.0).sum(axis=(0, 1)) / n_valid, 0.0)
            for part in (repeated, values)
        )
        correlation: Array = np.sum(x * y, axis=(0, 1)) / np.sqrt(
            np.sum(x**2, axis=(0, 1)) * np.sum(y**2, axis=(0, 1))
        )
    flat = np.ptp(predictions, axis=0) == 0.0
    return np.where(flat | ~np.isfinite(correlation), np.nan, correlation)


def score_all_trials(
    responses: NDArray[np.floating],
    splits: Sequence[ImageSplit],
    layers: Sequence[Sequence[PreparedSplit]],
    predict: PredictSplit,
    settings: ScoreSettings,
) -> list[SplitHalfScores]:
    """Score one recording against several layers by one of the measures of this module.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    splits
        The image splits.
    layers
        Per layer one prepared split per split, as for
        :func:`~mvkit.scoring.protocol.score_split_halves`.
    predict
        The map.
    settings
        ``measure``, the map, and ``correlation`` of ``"to-average"``.

    Returns
    -------
    list of SplitHalfScores
        Per layer, with all trials as the one "half" of every split: ``scores`` is the measure, ``r_cross``
        the correlation to average; there is no ``r_map`` and no ``r_target`` (NaN).
    """
    values = np.asarray(responses, dtype=np.float64)
    all_trials = half_means(values, np.ones((1, 1, len(values))))
    missing_image = np.full(all_trials.shape[3], -1, dtype=np.int64)
    note_missing(all_trials, missing_image)
    means = all_trials[0, 0]
    shape = (len(splits), 1, means.shape[1])
    scores, r_cross = np.full((2, len(layers), *shape), np.nan)
    exclusions = np.zeros((len(layers), *shape), dtype=np.uint8)
    for index, split in enumerate(splits):
        targets, usable = training_targets(means[split.train][None])
        intercept = means[split.train].mean(axis=0)
        test, average = values[:, split.test], means[split.test]
        variance = trial_variance(test) if settings.measure == "feve" else None
        excluded = _exclusions(means, usable[0], split, variance)
        for layer, prepared in enumerate(layers):
            if prepared[index].reason:
                exclusions[layer, index, 0] = ExclusionReason.CONSTANT_PREDICTION
                continue
            predictions = predict(targets, prepared[index], settings)[0]
            to_average = correlate_by(settings.correlation, predictions[None], centre(average, axis=0)[None])
            r_cross[layer, index] = to_average
            if settings.measure == "feve":
                found = feve(predictions + intercept, test, variance)
            elif settings.measure == "single-trial":
                found = single_trial_correlation(predictions, test)
            else:
                found = to_average[0]
            unfitted = np.isnan(predictions).any(axis=0)
            why = np.where(unfitted, ExclusionReason.NOT_CONVERGED, ExclusionReason.CONSTANT_PREDICTION)
            why = np.where(np.isnan(found), why, ExclusionReason.NONE)
            exclusions[layer, index, 0] = np.where(excluded > 0, excluded, why)
            scores[layer, index, 0] = np.where(excluded > 0, np.nan, found)
    undefined = np.full(shape, np.nan)
    return [
        SplitHalfScores(r_cross[layer], undefined, undefined, scores[layer], exclusions[layer], missing_image)
        for layer in range(len(layers))
    ]


def _exclusions(
    means: Array, usable: NDArray[np.bool_], split: ImageSplit, variance: TrialVariance | None
) -> NDArray[np.uint8]:
    """Return why units cannot be scored on a split whatever predicts them, uint8 (n_units,).

    ``variance`` is that of the test images, where the measure needs it.
    """
    average = means[split.test]
    rules = [
        (np.isnan(means[np.r_[split.train, split.test]]).any(axis=0), ExclusionReason.NO_TRIAL),
        (~usable | ~np.any(centre(average, axis=0), axis=0), ExclusionReason.CONSTANT_RESPONSE),
    ]
    if variance is not None:
        explained = variance.total - variance.noise > _ROUNDING * variance.total
        rules += [
            (np.isnan(variance.noise), ExclusionReason.NO_REPEATS),
            (~explained, ExclusionReason.NO_EXPLAINABLE_VARIANCE),
        ]
    conditions, reasons = zip(*rules, strict=True)
    choices = [np.asarray(reason, dtype=np.uint8) for reason in reasons]
    selected: NDArray[np.uint8] = np.select(conditions, choices, np.uint8(ExclusionReason.NONE))
    return selected
