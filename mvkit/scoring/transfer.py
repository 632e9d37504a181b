"""Transfer tasks: how well a linear readout of a layer tells what is in an image.

Features are reduced to principal components of the training images, and read out by a linear support vector
machine (labels that are names) or by ridge regression (labels that are numbers), as in Nayebi, Kong et al.
2023 (methods, transfer tasks); all of it is scikit-learn's. Scores are of images that neither the components
nor the readout have seen.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

#: Penalties to choose from, for features whose mean squared length is 1.
SVM_COSTS = tuple(10.0**power for power in range(-2, 5))
RIDGE_PENALTIES = tuple(10.0**power for power in range(-7, 3))
#: Parts of the training images between which a cost is chosen.
INNER_FOLDS = 3


@dataclass(frozen=True)
class TransferSettings:
    """How a readout is fitted and tested.

    Attributes
    ----------
    n_components
        Principal components of the training images, at most.
    n_folds
        Parts of the images; each is tested once by a readout of the others.
    seed
        Of the division into parts, and of the support vector machine.
    """

    n_components: int = 1000
    n_folds: int = 5
    seed: int = 0


def is_category(labels: NDArray[Any]) -> bool:
    """Return whether labels are names to be told apart, not numbers to be predicted."""
    return labels.dtype.kind not in "fiu"


def chance_level(labels: NDArray[Any]) -> float:
    """Return the score without any features: the share of the most frequent name; 0 for numbers."""
    if not is_category(labels):
        return 0.0
    return float(np.unique(labels, return_counts=True)[1].max() / labels.size)


def transfer_scores(
    features: NDArray[np.floating], labels: NDArray[Any], settings: TransferSettings | None = None
) -> NDArray[np.float64]:
    """Score a linear readout of features on each part of the images.

    Parameters
    ----------
    features
        (n_images, n_features), finite. Rotated features give the same scores, so that
        :class:`~mvkit.scoring.gram.LayerCoordinates` can stand in for those of a wide layer.
    labels
        (n_images,): text, read out by ``LinearSVC``, its cost chosen within the training images; or numbers,
        read out by ``RidgeCV``.
    settings
        Components, parts, seed.

    Returns
    -------
    ndarray
        float64 (n_folds,): accuracy, or Pearson's correlation of predicted and true numbers;
        :func:`chance_level` for features that do not vary.

    Raises
    ------
    UsageError
        If there are fewer than two names, too few images of one, or numbers that are all equal.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    chosen = settings or TransferSettings()
    check_labels(labels, chosen)
    values = np.asarray(features, dtype=np.float64)
    # Penalties are then of one scale for every layer.
    length = float(np.sqrt(np.mean(np.sum((values - values.mean(axis=0)) ** 2, axis=1))))
    if length == 0.0:
        return np.full(chosen.n_folds, chance_level(labels))
    values = values / length
    kind = StratifiedKFold if is_category(labels) else KFold
    folds = kind(chosen.n_folds, shuffle=True, random_state=chosen.seed)
    scores = []
    for train, test in folds.split(values, labels):
        readout = _readout(labels, chosen, n_most=min(train.size - 1, values.shape[1]))
        with warnings.catch_warnings():
            # Of costs that are too high to be chosen.
            warnings.filterwarnings("ignore", message="Liblinear failed to converge")
            readout.fit(values[train], labels[train])
        predicted = readout.predict(values[test])
        if is_category(labels):
            scores.append(float(np.mean(predicted == labels[test])))
        else:
            scores.append(_correlation(predicted, labels[test]))
    return np.array(scores)


def check_labels(labels: NDArray[Any], settings: TransferSettings) -> None:
    """Check that labels can be divided into parts.

    Raises
    ------
    UsageError
        As :func:`transfer_scores`.
    """
    if not is_category(labels):
        if labels.size < 2 * settings.n_folds:
            raise UsageError(f"{labels.size} images cannot be divided into {settings.n_folds} parts of two")
        if np.ptp(labels) == 0:
            raise UsageError(f"every image has the number {labels[0]:g}: there is nothing to predict")
        return
    names, counts = np.unique(labels, return_counts=True)
    if names.size < 2:
        raise UsageError(f"every image is of '{names[0]}': there is nothing to tell apart")
    # A part of the training images trains the cost, and needs an image of every name too.
    least = max(settings.n_folds, INNER_FOLDS + 1)
    if counts.min() < least:
        rarest = names[counts.argmin()]
        raise UsageError(f"'{rarest}' has {counts.min()} images; at least {least} are needed of every name")


def _readout(labels: NDArray[Any], settings: TransferSettings, *, n_most: int) -> BaseEstimator:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    components = PCA(min(settings.n_components, n_most), svd_solver="full")
    if not is_category(labels):
        return make_pipeline(components, RidgeCV(RIDGE_PENALTIES))
    machine = LinearSVC(random_state=settings.seed)
    return make_pipeline(components, GridSearchCV(machine, {"C": SVM_COSTS}, cv=INNER_FOLDS))


def _correlation(predicted: NDArray[np.float64], true: NDArray[Any]) -> float:
    """Return Pearson's correlation; 0 for predictions that are all equal."""
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(np.corrcoef(predicted, true)[0, 1])
