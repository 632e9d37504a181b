"""Comparing populations, whatever the measure: halves of the trials, left-out units, noise correction.

Every measure turns a population into a vector over pairs of images, and two populations are as similar as
the cosine of their vectors. A layer's vector is made once per split, a recording's twice per halving.

Noise correction is the paper's for maps with similarities in the place of correlations (Nayebi, Kong et al.
2023, methods, equations 1 and 2; goldens section 4, ``identity_rsa``)::

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.scoring.halves import half_means
from mvkit.scoring.halvings import HalvingScores, finished, halving_groups, note_missing
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.reasons import Drop
from mvkit.scoring.settings import ScoreSettings


@dataclass(frozen=True)
class Measure:
    """What tells one similarity from another.

    Attributes
    ----------
    population_matrices
        ``(patterns (n, n_images, n_units), present (n, n_units))`` -> float64 (n, n_images, n_images).
    layer_matrices
        ``(name, features (n_images, n_features), splits)`` -> per split float64 (n_test, n_test).
    vectors
        ``(matrices, settings)`` -> float64 (n, n_entries), whose cosine is the similarity; zero or NaN where
        it is undefined.
    why_undefined
        ``(matrix)`` -> why a layer has no vector.
    n_images_needed
        ``(settings)`` -> fewest images for which the similarity can differ from 1.
    n_units_needed
        Fewest units that a population can have.
    undefined
        The reason if a population has no vector although it has enough units.
    """

    population_matrices: Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]]
    layer_matrices: Callable[[str, NDArray[np.floating], Sequence[ImageSplit]], Sequence[NDArray[np.float64]]]
    vectors: Callable[[NDArray[np.float64], ScoreSettings], NDArray[np.float64]]
    why_undefined: Callable[[NDArray[np.float64]], str]
    n_images_needed: Callable[[ScoreSettings], int]
    n_units_needed: int
    undefined: Drop


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


@dataclass(frozen=True)
class _Halves:
    """A population on one split.

    Attributes
    ----------
    first, second
        float64 (n_halves, n_entries), of length 1: the two halves of each halving; NaN if undefined.
    drops
        uint8 (n_halves,): why, see :class:`~mvkit.scoring.reasons.Drop`.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    drops: NDArray[np.uint8]

    def reliability(self) -> NDArray[np.float64]:
        """Similarity of the two halves of each halving."""
        return _cosines(self.first, self.second)


def describe(
    measure: Measure,
    name: str,
    features: NDArray[np.floating],
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
        (n_images, n_features), any real dtype.
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
    _check_images(measure, splits, settings)
    vectors, reason = [], ""
    for matrix in measure.layer_matrices(name, features, splits):
        vector = _unit_length(measure.vectors(matrix[None], settings))[0]
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
        (n_halves, 2, n_trials[, n_images]): the halvings, see :func:`~mvkit.scoring.halves.half_means`.
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
            halves = _halves(measure, means, split, settings)
            drops[index, group, 0] = halves.drops
            r_target[index, group, 0] = halves.reliability()
            for layer, described in enumerate(layers):
                r_cross[layer, index, group, 0] = _cosines(halves.second, described.vectors[index])
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
        float64 (n_halves, 2, n_images, n_units) as from :func:`~mvkit.scoring.halves.half_means`, with the
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
    _check_images(measure, splits, settings)
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
            source = _halves(measure, source_means[group], split, settings)
            target = _halves(measure, target_means[group], split, settings)
            r_cross[index, group, 0] = _cosines(source.first, target.second)
            r_map[index, group, 0] = source.reliability()
            r_target[index, group, 0] = target.reliability()
            drops[index, group, 0] = np.where(target.drops > 0, target.drops, source.drops)
    first = _first_missing(np.concatenate([missing_target, missing]))
    return finished((r_cross, r_map, r_target), drops, first, settings)


def _halves(
    measure: Measure, means: NDArray[np.float64], split: ImageSplit, settings: ScoreSettings
) -> _Halves:
    """Turn the halves of a group of halvings into vectors."""
    n_halves, _, _, n_units = means.shape
    patterns = np.ascontiguousarray(means[:, :, split.test])
    lost: NDArray[np.bool_] = np.isnan(patterns).max(axis=(1, 2))
    if lost.any():
        np.copyto(patterns, 0.0, where=lost[:, None, None, :])
    matrices = measure.population_matrices(
        patterns.reshape(2 * n_halves, -1, n_units), np.repeat(~lost, 2, axis=0)
    )
    vectors = _unit_length(measure.vectors(matrices, settings)).reshape(n_halves, 2, -1)
    undefined = np.isnan(vectors).any(axis=(1, 2))
    few = (~lost).sum(axis=1) < measure.n_units_needed
    drops = np.where(undefined, np.uint8(measure.undefined), np.uint8(Drop.KEPT))
    drops[few] = Drop.NO_TRIAL if n_units >= measure.n_units_needed else Drop.FEW_UNITS
    return _Halves(vectors[:, 0], vectors[:, 1], drops)


def _unit_length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each vector by its length; NaN if that is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        scaled: NDArray[np.float64] = vectors / lengths
    return scaled


def _cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply matching vectors of length 1; ``second`` may be a single vector for all.

    One inner product after the other, so that none depends on how many are asked for.
    """
    products = np.matmul(first[:, None, :], second[..., :, None])[:, 0, 0]
    cosines: NDArray[np.float64] = np.clip(products, -1.0, 1.0)
    return cosines


def _first_missing(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first image that some unit misses, or -1, as an array of one."""
    known = images[images >= 0]
    return np.array([known.min() if known.size else -1], dtype=np.int64)


def _check_images(measure: Measure, splits: Sequence[ImageSplit], settings: ScoreSettings) -> None:
    needed = measure.n_images_needed(settings)
    fewest = min(split.test.size for split in splits)
    if fewest < needed:
        advice = " or lower train_fraction" if settings.similarity_images == "test" else ""
        raise UsageError(
            f"{settings.mapping} of {fewest} images says nothing, it needs at least {needed}: "
            f"give more images{advice}"
        )
