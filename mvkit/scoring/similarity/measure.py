"""What tells one similarity from another, and populations as vectors of it.

Every measure turns a population into a vector over pairs of images, and two populations are as similar as
the cosine of their vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.scoring.correlation import Drop
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.settings import ScoreSettings


@dataclass(frozen=True)
class Measure:
    """What tells one similarity from another.

    Attributes
    ----------
    population_matrices
        ``(patterns (n, n_images, n_units), present (n, n_units))`` -> float64 (n, n_images, n_images).
    layer_matrices
        ``(name, features (n_images, n_features), splits)`` -> per split float64 (n_test, n_test). With
        ``from_coordinates``, coordinates can stand in for features.
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
    from_coordinates
        Whether :class:`~mvkit.scoring.gram.LayerCoordinates` can stand in for the features of a layer.
    """

    population_matrices: Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]]
    layer_matrices: Callable[[str, Any, Sequence[ImageSplit]], Sequence[NDArray[np.float64]]]
    vectors: Callable[[NDArray[np.float64], ScoreSettings], NDArray[np.float64]]
    why_undefined: Callable[[NDArray[np.float64]], str]
    n_images_needed: Callable[[ScoreSettings], int]
    n_units_needed: int
    undefined: Drop
    from_coordinates: bool = False


@dataclass(frozen=True)
class PopulationHalves:
    """A population on one split.

    Attributes
    ----------
    first, second
        float64 (n_halves, n_entries), of length 1: the two halves of each halving; NaN if undefined.
    drops
        uint8 (n_halves,): why, see :class:`~mvkit.scoring.correlation.Drop`.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    drops: NDArray[np.uint8]

    def reliability(self) -> NDArray[np.float64]:
        """Similarity of the two halves of each halving."""
        return cosines(self.first, self.second)


def check_images(measure: Measure, splits: Sequence[ImageSplit], settings: ScoreSettings) -> None:
    """Refuse splits that have too few images.

    Raises
    ------
    UsageError
        Says how many are needed.
    """
    needed = measure.n_images_needed(settings)
    fewest = min(split.test.size for split in splits)
    if fewest < needed:
        advice = " or lower train_fraction" if settings.similarity_images == "test" else ""
        raise UsageError(
            f"{settings.mapping} of {fewest} images says nothing, it needs at least {needed}: "
            f"give more images{advice}"
        )


def population_halves(
    measure: Measure, means: NDArray[np.float64], split: ImageSplit, settings: ScoreSettings
) -> PopulationHalves:
    """Turn the halves of a group of halvings into vectors.

    Parameters
    ----------
    measure
        The similarity.
    means
        float64 (n_halves, 2, n_images, n_units), NaN where a half has no valid trial. A unit with NaN at a
        test image of the split is left out of both halves of that halving.
    split
        The images looked at are its test images.
    settings
        The kind of comparison.
    """
    n_halves, _, _, n_units = means.shape
    patterns = np.ascontiguousarray(means[:, :, split.test])
    lost: NDArray[np.bool_] = np.any(np.isnan(patterns), axis=(1, 2))
    if lost.any():
        np.copyto(patterns, 0.0, where=lost[:, None, None, :])
    matrices = measure.population_matrices(
        patterns.reshape(2 * n_halves, -1, n_units), np.repeat(~lost, 2, axis=0)
    )
    vectors = unit_length(measure.vectors(matrices, settings)).reshape(n_halves, 2, -1)
    undefined = np.isnan(vectors).any(axis=(1, 2))
    few = (~lost).sum(axis=1) < measure.n_units_needed
    drops = np.where(undefined, np.uint8(measure.undefined), np.uint8(Drop.KEPT))
    drops[few] = Drop.NO_TRIAL if n_units >= measure.n_units_needed else Drop.FEW_UNITS
    return PopulationHalves(vectors[:, 0], vectors[:, 1], drops)


def unit_length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each vector by its length; NaN if that is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        scaled: NDArray[np.float64] = vectors / lengths
    return scaled


def cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply matching vectors of length 1; ``second`` may be a single vector for all.

    One inner product after the other, so that none depends on how many are asked for.
    """
    products = np.matmul(first[:, None, :], second[..., :, None])[:, 0, 0]
    clipped: NDArray[np.float64] = np.clip(products, -1.0, 1.0)
    return clipped
