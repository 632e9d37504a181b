"""Lasso and elastic net, scikit-learn's unchanged."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import FitError, wording
from mvkit.machine import available_memory
from mvkit.scoring.gram import BLOCK_FEATURES, Features, check_features
from mvkit.scoring.one_to_one import Sources, SourceSplit, layer_sources
from mvkit.scoring.settings import ScoreSettings

# Rounds of coordinate descent: ten times scikit-learn's own limit.
MAX_ROUNDS = 10000
# Copies of a layer in float64: training and test images, and scikit-learn's own centred training images.
_COPIES = 2


def sparse_sources(name: str, features: Features, settings: ScoreSettings) -> Sources:
    """Compare with every feature of a layer, if all of them fit in memory in float64.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    FitError
        If they do not fit; with the memory needed and available.
    """
    n_images, n_features = check_features(name, features).shape
    needed = sparse_bytes(n_images, n_features)
    available = available_memory()
    if available is not None and needed > available:
        raise FitError(
            f"layer '{name}': {settings.mapping} needs {needed / 1e9:.1f} GB in every worker process for "
            f"{n_features} features of {n_images} images, and {available / 1e9:.1f} GB are available: "
            + wording(
                "use --map ridge, or leave wide layers out (--layers)",
                'use mapping="ridge", or leave wide layers out (layers=)',
            )
        )
    return layer_sources(name, features)


def sparse_bytes(n_images: int, n_features: int) -> int:
    """Return the bytes that a worker process needs for a layer."""
    return _COPIES * n_images * n_features * np.dtype(np.float64).itemsize


def predict_sparse(model: Any, targets: NDArray[np.float64], prepared: SourceSplit) -> NDArray[np.float64]:
    """Fit scikit-learn's ``Lasso`` or ``ElasticNet`` per target column and predict the test images.

    Coordinate descent stops where scikit-learn takes it to have converged. A target for which it has not
    after 10000 rounds is left out. Penalties are on the scale of the responses times that of the
    features.

    Parameters
    ----------
    model
        The estimator, not fitted.
    targets
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.protocol.training_targets`.
    prepared
        Features and split.

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units), in the units of measure of the targets: deviations from the unit's
        mean over training images. Zero for columns of zeros; NaN, and by it
        :attr:`~mvkit.scoring.correlation.ExclusionReason.NOT_CONVERGED`, for targets whose fit did not
        converge.
    """
    model.set_params(max_iter=MAX_ROUNDS)
    split = prepared.split
    train, test = _columns(prepared.sources, split.train), _columns(prepared.sources, split.test)
    predictions = np.zeros((targets.shape[0], split.test.size, targets.shape[2]))
    for fit, responses in enumerate(targets):
        units = np.flatnonzero(responses.any(axis=0))
        if units.size:
            converged = _fit(model, train, np.asfortranarray(responses[:, units]))
            predicted = model.predict(test).reshape(split.test.size, -1)
            predictions[fit][:, units] = np.where(converged, predicted, np.nan)
    return predictions


def _columns(sources: Sources, images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return all features, float64 (n_images, n_features), in the order that coordinate descent wants."""
    columns = np.empty((images.size, sources.n_features), order="F")
    for positions, values in sources.blocks(images, BLOCK_FEATURES):
        columns[:, positions] = values.T
    return columns


def _fit(model: Any, train: NDArray[np.float64], responses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Fit all columns; return which of them converged (scikit-learn only warns that some did not)."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(train, responses)
    n_units = responses.shape[1]
    others = [item for item in caught if not issubclass(item.category, ConvergenceWarning)]
    for item in others:
        warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    if len(others) == len(caught):
        return np.ones(n_units, dtype=np.bool_)
    rounds = np.broadcast_to(np.asarray(model.n_iter_), (n_units,))
    converged: NDArray[np.bool_] = rounds < model.max_iter
    return converged
