"""Comparing populations, whatever the measure: halves of the trials, left-out units, noise correction.

Every measure turns a population into a vector over pairs of images, and two populations are as similar as
the cosine of their vectors. A layer's vector is made once per split, a recording's twice per halving.

Noise correction is the reference's for maps with similarities in the place of correlations (goldens section
4, ``identity_rsa``; in Nayebi, Kong et al. 2023 equations 1 and 2, not checked against the paper's text)::

    score = r_cross / sqrt(SB(r_map) SB(r_target)),  SB(r) = 2 r / (1 + r)

    against a layer             between two recorded populations
    r_cross   layer, half 2     source half 1, target half 2
    r_map     1                 source half 1, source half 2
    r_target  half 1, half 2    target half 1, target half 2

The population is the units of one animal, or the pooled pseudo-population of an area
(:mod:`mvkit.scoring.similarity.pooling`); the formula is the same. Like the score of a map it compares halves
but corrects to all trials: noise leaves a factor of about sqrt((1 + r_target) / 2) in the score of a layer.
``ScoreSettings.correlation`` has no part in it; RSA has its own kind of comparison, CKA none.

SB (Spearman and Brown's formula) holds for correlations between averages whose noise is independent and adds
up. Dissimilarities and inner products are not linear in the responses: noise also shifts them. For RSA and
CKA the formula is borrowed, an approximation that is the better the more reliable the responses are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.protocol import (
    HalvingScores,
    ImageSplit,
    finished,
    half_means,
    halving_groups,
    note_missing,
)
from mvkit.scoring.rows import LayerInput
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.similarity.measure import Measure, check_images, cosines, population_halves, unit_length


@dataclass(frozen=True)
class DescribedLayer:
    """A layer as it is compared.

    Attributes
    ----------
    vectors
        Per split float64 (n_entries,), of length 1; NaN if the layer has none.
    reason
        Why it has none on some split, or "".
    """

    vectors: tuple[NDArray[np.float64], ...]
    reason: str = ""


def describe(
    measure: Measure,
    name: str,
    features: LayerInput,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> DescribedLayer:
    """Turn a layer into vectors, one per split.

    Parameters
    ----------
    measure
        The similarity.
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype, in memory or on disk; coordinates if the measure takes them.
    splits
        The image splits; their test images are looked at.
    settings
        The kind of comparison.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    UsageError
        If a split has too few images.
    """
    check_images(measure, splits, settings)
    vectors, reason = [], ""
    for matrix in measure.layer_matrices(name, features, splits):
        vector = unit_length(measure.vectors(matrix[None], settings))[0]
        if np.isnan(vector).any():
            reason = reason or measure.why_undefined(matrix)
        vectors.append(vector)
    return DescribedLayer(tuple(vectors), reason)


def compare(
    measure: Measure,
    responses: NDArray[np.floating],
    weights: NDArray[np.generic],
    splits: Sequence[ImageSplit],
    layers: Sequence[DescribedLayer],
    settings: ScoreSettings,
) -> list[HalvingScores]:
    """Compare the units of a recording, as one population, with several layers.

    A unit without a valid trial for some image of a split, in either half of a halving, is left out of both
    halves of that halving; the others stay.

    Parameters
    ----------
    measure
        The similarity.
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials[, n_images]): the halvings, see :func:`~mvkit.scoring.protocol.half_means`.
    splits
        The image splits; their test images are looked at.
    layers
        As :func:`describe` returns them. Features have no noise: r_map is 1.
    settings
        Kind of comparison and noise correction.

    Returns
    -------
    list of HalvingScores
        Per layer, with one "unit": the population.
    """
    _, n_images, n_units = responses.shape
    shape = (len(splits), weights.shape[0], 1)
    r_target, drops = np.empty(shape), np.zeros(shape, dtype=np.uint8)
    r_cross = np.empty((len(layers), *shape))
    missing = np.full(n_units, -1, dtype=np.int64)
    for group in halving_groups(shape[1], n_images * max(n_units, n_images)):
        means = half_means(responses, weights[group])
        note_missing(means, missing)
        for index, split in enumerate(splits):
            halves = population_halves(measure, means, split, settings)
            drops[index, group, 0] = halves.drops
            r_target[index, group, 0] = halves.reliability()
            for layer, described in enumerate(layers):
                r_cross[layer, index, group, 0] = cosines(halves.second, described.vectors[index])
    found = []
    for layer, described in enumerate(layers):
        exact = np.array([np.nan if np.isnan(vector).any() else 1.0 for vector in described.vectors])
        r_map = np.broadcast_to(exact[:, None, None], shape).copy()
        parts = (r_cross[layer], r_map, r_target)
        found.append(finished(parts, drops, _first_missing(missing), settings))
    return found


def between(
    measure: Measure,
    source_means: NDArray[np.float64],
    target_means: NDArray[np.float64],
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> HalvingScores:
    """Compare two populations that are both noisy.

    Parameters
    ----------
    measure
        The similarity.
    source_means, target_means
        float64 (n_halves, 2, n_images, n_units) as from :func:`~mvkit.scoring.protocol.half_means`, with the
        same halvings and images but any numbers of units. Units with NaN are left out as in :func:`compare`.
    splits
        The image splits; their test images are looked at.
    settings
        Kind of comparison and noise correction.

    Returns
    -------
    HalvingScores
        With one "unit". r_cross: source half 1, target half 2; r_map: source half 1, source half 2;
        r_target: target half 1, target half 2. The reason of a dropped halving is the target's, where both
        have one.

    Raises
    ------
    UsageError
        If a split has too few images.
    """
    check_images(measure, splits, settings)
    n_halves, _, n_images, n_units = target_means.shape
    shape = (len(splits), n_halves, 1)
    r_cross, r_map, r_target = np.empty((3, *shape))
    drops = np.zeros(shape, dtype=np.uint8)
    missing = np.full(source_means.shape[3], -1, dtype=np.int64)
    missing_target = np.full(n_units, -1, dtype=np.int64)
    note_missing(source_means, missing)
    note_missing(target_means, missing_target)
    for group in halving_groups(n_halves, n_images * max(n_units, missing.size, n_images)):
        for index, split in enumerate(splits):
            source = population_halves(measure, source_means[group], split, settings)
            target = population_halves(measure, target_means[group], split, settings)
            r_cross[index, group, 0] = cosines(source.first, target.second)
            r_map[index, group, 0] = source.reliability()
            r_target[index, group, 0] = target.reliability()
            drops[index, group, 0] = np.where(target.drops > 0, target.drops, source.drops)
    first = _first_missing(np.concatenate([missing_target, missing]))
    return finished((r_cross, r_map, r_target), drops, first, settings)


def _first_missing(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first image that some unit misses, or -1, as an array of one."""
    known = images[images >= 0]
    return np.array([known.min() if known.size else -1], dtype=np.int64)
