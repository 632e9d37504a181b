"""Which PLS is fitted: of how many components, and to all units jointly or to each by itself.

The number of components can be chosen by cross-validation within the training images, as scikit-learn's
``GridSearchCV(PLSRegression(scale=False), {"n_components": grid}, cv=KFold(5))`` does: the number whose mean
R^2, over units and parts of the training images, is highest; the first one of equal ones.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import FitError
from mvkit.scoring.gram import (
    LayerCoordinates,
    SplitCoordinates,
    layer_coordinates,
    shared_products,
    split_coordinates,
)
from mvkit.scoring.pls import predict_test_images
from mvkit.scoring.protocol import ImageSplit, training_targets
from mvkit.scoring.settings import DEFAULT_SETTINGS, ScoreSettings

Array = NDArray[np.float64]

#: Parts of the training images between which a number of components is chosen.
N_FOLDS = 5


def n_train_needed(settings: ScoreSettings) -> int:
    """Return the fewest training images: one per component, in every part if the number is chosen."""
    if settings.n_components == "cv":
        return math.ceil(min(settings.component_grid) * N_FOLDS / (N_FOLDS - 1)) + 1
    return settings.n_components


def n_features_needed(settings: ScoreSettings) -> int:
    """Return the fewest features: one per component, of the fewest there are to choose from."""
    return min(settings.component_grid) if settings.n_components == "cv" else settings.n_components


def predict_pls(targets: Array, coordinates: SplitCoordinates, settings: ScoreSettings) -> Array:
    """Fit PLS as settings say and predict the test images.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.protocol.training_targets`.
    coordinates
        Features of the split; they must allow a fit (``reason`` empty).
    settings
        ``n_components``, ``component_grid``, ``pls_targets`` and the stopping rule.

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units): deviations from the unit's mean over training images.
    """
    predict = _predict_with_chosen if settings.n_components == "cv" else predict_test_images
    if settings.pls_targets == "joint":
        return predict(targets, coordinates, settings)
    units = (targets[:, :, unit : unit + 1] for unit in range(targets.shape[2]))
    return np.concatenate([predict(unit, coordinates, settings) for unit in units], axis=2)


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
        As for :func:`predict_pls`.

    Returns
    -------
    ndarray
        float64 (n_test, n_units), in the units of measure of the responses; NaN for a unit left out.

    Raises
    ------
    FitError
        If the features cannot be mapped: fewer than ``n_components`` of them, or constant.
    """
    coordinates = split_coordinates(
        layer_coordinates("features", features), split, n_features_needed(settings)
    )
    if coordinates.reason:
        raise FitError(coordinates.reason)
    train = np.asarray(responses, dtype=np.float64)[split.train]
    targets, _ = training_targets(train[None])
    deviations = predict_pls(targets, coordinates, settings)[0]
    predictions: NDArray[np.float64] = deviations + train.mean(axis=0)
    return predictions


def _predict_with_chosen(targets: Array, coordinates: SplitCoordinates, settings: ScoreSettings) -> Array:
    chosen = choose_components(targets, coordinates, settings)
    predictions = np.empty((targets.shape[0], coordinates.test.shape[0], targets.shape[2]))
    for count in np.unique(chosen):
        fits = chosen == count
        predictions[fits] = predict_test_images(targets[fits], coordinates, _with(settings, int(count)))
    return predictions


def choose_components(
    targets: Array, coordinates: SplitCoordinates, settings: ScoreSettings
) -> NDArray[np.int64]:
    """Choose the number of components of every fit by cross-validation within the training images.

    Parameters
    ----------
    targets, coordinates
        As for :func:`predict_pls`.
    settings
        ``component_grid``: numbers that the training images of a part, or the features, do not allow are
        left out, but for the smallest.

    Returns
    -------
    ndarray
        int64 (n_fits,).
    """
    n_fits, n_train, _ = targets.shape
    features = coordinates.basis.T * coordinates.scale
    most = min(n_train - math.ceil(n_train / N_FOLDS) - 1, coordinates.scale.size)
    grid = sorted(settings.component_grid)
    counts = [count for count in grid if count <= most] or grid[:1]
    quality = np.zeros((len(counts), n_fits))
    layer = LayerCoordinates("training images", features, max(features.shape[1], most), noise=0.0)
    parts = [
        ImageSplit(np.setdiff1d(np.arange(n_train), held_out), held_out)
        for held_out in np.array_split(np.arange(n_train), N_FOLDS)
    ]
    products = shared_products(layer, parts)
    for part in parts:
        inner = split_coordinates(layer, part, 1, products, counts[-1] + 1)
        if inner.reason:
            continue
        train, _ = training_targets(targets[:, part.train])
        mean = targets[:, part.train].mean(axis=1, keepdims=True)
        for index, count in enumerate(counts):
            predictions = mean + predict_test_images(train, inner, _with(settings, count))
            quality[index] += _mean_r2(targets[:, part.test], predictions, targets)
    chosen: NDArray[np.int64] = np.array(counts, dtype=np.int64)[quality.argmax(axis=0)]
    return chosen


def _mean_r2(true: Array, predicted: Array, targets: Array) -> Array:
    """Return R^2 averaged over units that vary at all, (n_fits,); 0 for one that does not vary here."""
    error = np.square(true - predicted).sum(axis=1)
    total = np.square(true - true.mean(axis=1, keepdims=True)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(total > 0.0, 1.0 - error / total, 0.0)
    present = targets.any(axis=1)
    mean: Array = np.where(present, r2, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return mean


def _with(settings: ScoreSettings, n_components: int) -> ScoreSettings:
    return settings.model_copy(update={"n_components": n_components})
