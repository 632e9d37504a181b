"""Scores of simulated units by every estimator and correction, and the truth they estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.neural.simulated import SimulatedPopulation, noise_deviation
from mvkit.scoring.correlation import correct_for_noise, exclusion_reasons
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import (
    ImageSplit,
    SplitHalfScores,
    split_half_weights,
    splits_of,
    training_targets,
)
from mvkit.scoring.run import unit_scores
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
ESTIMATORS = ("mean-of-corrected", "corrected-mean")
CORRECTIONS = ("spearman-brown-denominator", "spearman-brown-ratio", "attenuation", "none")
#: Fits over which a map's expected prediction is averaged.
N_TRUTH_FITS = 300


@dataclass(frozen=True)
class Prepared:
    """Features ready for every split, as scoring prepares them."""

    splits: Sequence[ImageSplit]
    layer: Any
    settings: ScoreSettings


def prepare(features: Array, settings: ScoreSettings) -> Prepared:
    """Make features ready once for many data sets."""
    splits = splits_of(len(features), settings)
    with threadpool_limits(limits=1):
        layer = MAPPINGS[settings.mapping].prepare("features", features, splits, settings)
    return Prepared(splits, layer, settings)


def true_predictivity(
    population: SimulatedPopulation, ready: Prepared, half_noise: float, seed: int
) -> Array:
    """Correlate a map's expected prediction with the noise-free response; (n_animals, n_units).

    Over the test images, mean over splits. The expectation is over the noise of half of the trials that the
    map is fitted on (``half_noise``: its standard deviation in the mean of those trials); it is the estimand
    of r_cross / sqrt(r_map r_target). ``half_noise`` 0 is the map fitted without noise. What averaging over
    finitely many fits leaves of the noise is taken out of the prediction's variance.
    """
    mapping = MAPPINGS[ready.settings.mapping]
    rng = np.random.default_rng(seed)
    n_fits = N_TRUTH_FITS if half_noise > 0.0 else 2
    truth = np.zeros(population.shares.shape)
    with threadpool_limits(limits=1):
        for animal, signal in enumerate(population.signals):
            for split, prepared in zip(ready.splits, ready.layer, strict=True):
                means = signal[split.train] + half_noise * rng.standard_normal(
                    (n_fits, len(split.train), signal.shape[1])
                )
                targets, _ = training_targets(means)
                predictions = mapping.predict(targets, prepared, ready.settings)
                predictions -= predictions.mean(axis=1, keepdims=True)
                mean = predictions.mean(axis=0)
                leftover = (predictions - mean).var(axis=0, ddof=1).mean(axis=0) / n_fits
                test = signal[split.test] - signal[split.test].mean(axis=0)
                variance = np.square(mean).mean(axis=0) - leftover
                truth[animal] += (mean * test).mean(axis=0) / np.sqrt(variance * np.square(test).mean(axis=0))
    return truth / len(ready.splits)


def measured(responses: Array, ready: Prepared) -> SplitHalfScores:
    """Score one specimen by every split and halving, as score_features does."""
    mapping, settings = MAPPINGS[ready.settings.mapping], ready.settings
    weights = split_half_weights(responses.shape[0], responses.shape[1], settings)
    with threadpool_limits(limits=1):
        return mapping.score(responses, weights, ready.splits, [ready.layer], settings)[0]


def estimates(halvings: SplitHalfScores, settings: ScoreSettings) -> dict[tuple[str, str], Any]:
    """Condense the same halvings by every (estimator, correction): the columns of each unit."""
    found = {}
    parts = (halvings.r_cross, halvings.r_map, halvings.r_target)
    for correction in CORRECTIONS:
        for estimator in ESTIMATORS:
            chosen = settings.model_copy(update={"correction": correction, "estimator": estimator})
            scores = correct_for_noise(*parts, chosen)
            drops = exclusion_reasons(scores, parts, np.zeros_like(halvings.exclusions))
            again = replace(halvings, scores=scores, exclusions=drops)
            found[estimator, correction] = unit_scores(again, "", chosen).columns
    return found


def half_noise(reliability: float) -> float:
    """Noise in the mean of half of the trials around a response of variance 1, its standard deviation.

    It depends on the reliability of all trials only, not on their number.
    """
    return float(noise_deviation(np.array(reliability), n_trials=2))
