"""Ridge maps from features to responses, in the row space of the training images.

With the centred training features ``X = U'DV'`` (:class:`~mvkit.scoring.reduction.SplitCoordinates`: ``U``
is ``basis``, ``D`` is ``scale``, ``Z`` are the test images in coordinates ``V``) and centred responses ``y``,
ridge regression with an intercept that is not penalised predicts (Hastie, Tibshirani & Friedman, "The
Elements of Statistical Learning", equations 3.44 to 3.47)

    Z D (D^2 + alpha)^-1 U y = H y.

``H`` does not depend on the responses: one small matrix serves all halvings and units of a split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.gram import gram_coordinates
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.reduction import LayerCoordinates, SplitCoordinates, split_coordinates
from mvkit.scoring.settings import ScoreSettings


def prepare_ridge(layer: LayerCoordinates, split: ImageSplit, settings: ScoreSettings) -> SplitCoordinates:
    """Make a layer ready for the ridge fits of one split; one feature is enough."""
    return split_coordinates(layer, split, n_components=1)


def prepare_ridge_source(
    name: str, features: NDArray[np.floating], splits: Sequence[ImageSplit], settings: ScoreSettings
) -> tuple[SplitCoordinates, ...]:
    """Make features that serve one fit per split ready for every split."""
    return gram_coordinates(name, features, splits, n_components=1)


def predict_ridge(
    targets: NDArray[np.float64], coordinates: SplitCoordinates, settings: ScoreSettings
) -> NDArray[np.float64]:
    """Fit one ridge regression per target column and predict the test images.

    Equals scikit-learn's ``Ridge(alpha, fit_intercept=True)``. With ``ridge_alpha="cv"`` every column (a unit
    in one half of one halving) gets its own penalty, see :func:`choose_penalties`.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.targets.training_targets`.
    coordinates
        Features of the split; they must vary (``reason`` empty).
    settings
        ``ridge_alpha``, ``ridge_grid``.

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units), in the units of measure of the targets: deviations from the unit's
        mean over training images.
    """
    squares = coordinates.scale**2
    predictions: NDArray[np.float64]
    if settings.ridge_alpha == "cv":
        penalties = np.asarray(settings.ridge_grid, dtype=np.float64)
        chosen = choose_penalties(targets, coordinates, penalties)
        shrinkage = coordinates.scale / (squares + penalties[:, None])
        projected = coordinates.basis @ targets
        projected *= shrinkage[chosen].transpose(0, 2, 1)
        predictions = coordinates.test @ projected
    else:
        shrunk = coordinates.test * (coordinates.scale / (squares + settings.ridge_alpha))
        predictions = (shrunk @ coordinates.basis) @ targets
    return predictions


def choose_penalties(
    targets: NDArray[np.float64], coordinates: SplitCoordinates, penalties: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Find each target column's penalty by leave-one-out within the training images.

    No model is refitted. With ``R = I - 1/n - U' D^2 (D^2 + alpha)^-1 U``, the matrix that turns responses
    into residuals, the error at image i of the fit without it is ``(R y)_i / R_ii`` (Allen 1974,
    Technometrics 16:125; intercept refitted as well). The penalty with the smallest sum of squared errors
    wins, the first one of the grid where sums are equal. scikit-learn's
    ``RidgeCV(alphas, alpha_per_target=True)`` follows the same rule.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units), centred over images.
    coordinates
        Features of the split.
    penalties
        float64 (n_penalties,).

    Returns
    -------
    ndarray
        int64 (n_fits, n_units): positions in ``penalties``; 0 for columns of zeros.
    """
    lowest = np.full((targets.shape[0], targets.shape[2]), np.inf)
    chosen = np.zeros(lowest.shape, dtype=np.int64)
    for index, penalty in enumerate(penalties):
        errors = residual_matrix(coordinates, float(penalty)) @ targets
        np.multiply(errors, errors, out=errors)
        total = errors.sum(axis=1)
        better = total < lowest
        np.copyto(lowest, total, where=better)
        chosen[better] = index
    return chosen


def residual_matrix(coordinates: SplitCoordinates, penalty: float) -> NDArray[np.float64]:
    """Return the matrix that turns centred responses into leave-one-out residuals, (n_train, n_train).

    Infinite rows belong to images whose left-out response cannot be predicted at all: the penalty is lost
    beside the features in float64, and the features tell that image apart from all others.
    """
    basis, scale = coordinates.basis, coordinates.scale
    rank, n_train = basis.shape
    kept = basis.T * (penalty / (scale**2 + penalty))
    residual: NDArray[np.float64] = kept @ basis
    if rank < n_train - 1:
        # What no feature explains. With full rank it is exactly nothing, and its rounding errors would drown
        # the residuals of a small penalty.
        residual += np.eye(n_train) - 1.0 / n_train - basis.T @ basis
    left: NDArray[np.float64] = np.diagonal(residual).copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        residual /= left[:, None]
    residual[~(left > 0.0)] = np.inf
    return residual
