"""PLS maps from features to responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import FitError
from mvkit.scoring.gram import (
    LayerCoordinates,
    SplitCoordinates,
    gram_coordinates,
    layer_coordinates,
    split_coordinates,
)
from mvkit.scoring.pls_direction import Rule, krylov_space
from mvkit.scoring.pls_kernel import fit_batch
from mvkit.scoring.protocol import ImageSplit, training_targets
from mvkit.scoring.settings import DEFAULT_SETTINGS, ScoreSettings
from mvkit.scoring.vectors import aligned_zeros, padded


def prepare_pls(layer: LayerCoordinates, split: ImageSplit, settings: ScoreSettings) -> SplitCoordinates:
    """Make a layer ready for the PLS fits of one split."""
    return split_coordinates(layer, split, settings.n_components)


def prepare_pls_source(
    name: str, features: NDArray[np.floating], splits: Sequence[ImageSplit], settings: ScoreSettings
) -> tuple[SplitCoordinates, ...]:
    """Make features that serve one PLS fit per split ready for every split."""
    return gram_coordinates(name, features, splits, settings.n_components)


def predict_test_images(
    targets: NDArray[np.float64], coordinates: SplitCoordinates, settings: ScoreSettings
) -> NDArray[np.float64]:
    """Fit one PLS map per target matrix, all units of it jointly, and predict the test images.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.protocol.training_targets`.
    coordinates
        Features of the split; they must allow a fit (``reason`` empty).
    settings
        Number of components and stopping rule.

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units): deviations from the unit's mean over training images.
    """
    n_fits, _, n_units = targets.shape
    rank = coordinates.scale.size
    scale = aligned_zeros(padded(rank))
    scale[:rank] = coordinates.scale
    projected = aligned_zeros(n_fits, rank, padded(n_units))
    np.matmul(coordinates.basis, targets, out=projected[:, :, :n_units])
    covariance = coordinates.scale[:, None] * projected[:, :, :n_units]
    transposed = covariance.transpose(0, 2, 1)
    size = min(rank, n_units)
    matrices = aligned_zeros(n_fits, size, padded(size))
    factors = (transposed, covariance) if n_units < rank else (covariance, transposed)
    np.matmul(*factors, out=matrices[:, :, :size])
    rotations = aligned_zeros(n_fits, settings.n_components, padded(rank))
    loadings = aligned_zeros(n_fits, settings.n_components, padded(n_units))
    fit_batch(
        (np.array(coordinates.basis), scale),  # a read-only map of shared memory would be another type
        np.ascontiguousarray(targets),
        projected,
        matrices,
        _rule(settings, by_units=n_units < rank),
        krylov_space(size),
        (rotations, loadings),
    )
    scores = rotations[:, :, :rank] @ coordinates.test.T
    predictions: NDArray[np.float64] = scores.transpose(0, 2, 1) @ loadings[:, :, :n_units]
    return predictions


def _rule(settings: ScoreSettings, *, by_units: bool) -> Rule:
    converged = settings.pls_stopping == "converged"
    return Rule(settings.pls_tolerance, settings.pls_max_iterations, by_units, converged)


def prepare_kernel() -> None:
    """Compile the kernel, or load it from disk, by fitting next to nothing."""
    images = np.arange(3)
    coordinates = split_coordinates(
        layer_coordinates("none", np.eye(3)), ImageSplit(images, images), n_components=1
    )
    predict_test_images(np.eye(3)[None], coordinates, ScoreSettings(n_components=1))


def pls_predict(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    split: ImageSplit,
    settings: ScoreSettings = DEFAULT_SETTINGS,
) -> NDArray[np.float64]:
    """Fit a PLS2 map on the training images and predict the responses to the test images.

    25 components by default, centred, not scaled, all units jointly (goldens section 4; the weights follow
    scikit-learn's ``PLSRegression(scale=False)``).

    Parameters
    ----------
    features
        (n_images, n_features).
    responses
        (n_images, n_units); a unit with NaN on a training image is left out of the fit.
    split
        Training and test images.
    settings
        Number of components and stopping rule.

    Returns
    -------
    ndarray
        float64 (n_test, n_units), in the units of measure of the responses; NaN for a unit left out.

    Raises
    ------
    FitError
        If the features cannot be mapped: fewer than ``n_components`` of them, or constant.
    """
    coordinates = split_coordinates(layer_coordinates("features", features), split, settings.n_components)
    if coordinates.reason:
        raise FitError(coordinates.reason)
    train = np.asarray(responses, dtype=np.float64)[split.train]
    targets, _ = training_targets(train[None])
    deviations = predict_test_images(targets, coordinates, settings)[0]
    predictions: NDArray[np.float64] = deviations + train.mean(axis=0)
    return predictions
