"""PLS2 regression of many target matrices on one set of images, compiled.

The algorithm is NIPALS with regression deflation (Wegelin 2000, section 4.1), rewritten so that
nothing as long as the features, and no deflated copy of anything, is ever formed. With the training
features ``X = U D V'`` (``SplitCoordinates``) and the targets ``Y``:

- all vectors in feature space are expressed in the coordinates ``V``, all scores in ``U``;
- ``M = U'Y``, and ``S_k = X_k'Y_k = D (I - sum_j t_j t_j'/|t_j|^2) M`` after k components with scores ``t_j``;
- a weight vector is an iterate of the power method on ``G = S_k S_k'``. It may as well be run on
  ``C = S_k'S_k`` in unit space, whichever is smaller (``w = S_k v``);
- scores are ``D w`` made orthogonal to earlier scores, the same steps on ``w`` give the rotation ``r``
  with ``t = X r``, and target loadings are ``q = M't / |t|^2``;
- removing a component changes ``G`` and ``C`` by a symmetric matrix of rank 2. Rounding errors of these
  updates stay as large as the first ``G``, so it is formed again whenever it has shrunk a lot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled
from mvkit.scoring.pls_direction import Stopping, leading_direction

Array = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
# A target column is constant, for scikit-learn, if no entry exceeds this.
ZERO_TARGET = 10 * EPSILON
# The iterated matrix is formed again when its trace has fallen by this factor since it was last formed.
REFRESH = 1e-4
# Covariance this small, relative to the first one (squared), is rounding error: nothing is left to explain.
EXHAUSTED = 1e-28


class Predictors(NamedTuple):
    """Training and test images in the principal coordinates of the features (see ``SplitCoordinates``)."""

    basis: Array
    scale: Array
    test: Array


class Components(NamedTuple):
    """Components of the fit at hand; the first ``count`` rows of each are valid."""

    scores: Array  # (n_components, rank), in the coordinates U, mutually orthogonal
    squares: Array  # (n_components,) squared lengths of the scores
    rotations: Array  # (n_components, rank), in the coordinates V
    loadings: Array  # (n_components, n_units)


@compiled
def _remove_scores(vector: Array, parts: Components, count: int) -> None:
    """Make a vector in the coordinates U orthogonal to the first ``count`` scores."""
    for component in range(count):
        overlap = np.dot(parts.scores[component], vector) / parts.squares[component]
        for i in range(vector.size):
            vector[i] -= overlap * parts.scores[component, i]


@compiled
def _covariance(projected: Array, scale: Array, parts: Components, count: int) -> Array:
    """Form ``S_k`` from ``M``."""
    if count:
        residual = projected - np.dot(parts.scores[:count].T, parts.loadings[:count])
    else:
        residual = projected.copy()
    for i in range(scale.size):
        for unit in range(residual.shape[1]):
            residual[i, unit] *= scale[i]
    return residual


@compiled
def _form(matrix: Array, covariance: Array, by_units: bool) -> float:
    """Write ``S'S`` or ``SS'`` into ``matrix``; return its trace."""
    if by_units:
        np.dot(covariance.T, covariance, matrix)
    else:
        np.dot(covariance, covariance.T, matrix)
    return np.trace(matrix)  # type: ignore[no-any-return]


@compiled
def _downdate(matrix: Array, x: Array, y: Array) -> float:
    """Subtract ``x y' + y x'``; return the trace of what is left."""
    size = matrix.shape[0]
    trace = 0.0
    for i in range(size):
        a = x[i]
        b = y[i]
        for j in range(size):
            matrix[i, j] -= a * y[j] + b * x[j]
        trace += matrix[i, i]
    return trace


@compiled
def _is_explained(targets: Array, unit: int, parts: Components, count: int, basis: Array) -> bool:
    """Tell whether what the components leave of a target column is zero for scikit-learn."""
    fitted = np.zeros(basis.shape[0])
    for component in range(count):
        for i in range(fitted.size):
            fitted[i] += parts.loadings[component, unit] * parts.scores[component, i]
    residual = targets[:, unit] - np.dot(basis.T, fitted)
    return np.abs(residual).max() < ZERO_TARGET  # type: ignore[no-any-return]


@compiled
def _next_start(targets: Array, unit: int, parts: Components, count: int, basis: Array) -> tuple[int, float]:
    """Find the column that the power iteration starts from, and its squared residual.

    It is the first whose residual is not zero. Only one that has lost nearly all of its variance is
    computed in full.
    """
    while unit < targets.shape[1]:
        total = 0.0
        for i in range(targets.shape[0]):
            total += targets[i, unit] * targets[i, unit]
        left = total
        for component in range(count):
            left -= parts.squares[component] * parts.loadings[component, unit] ** 2
        if total > 0.0 and (
            left > 1e-10 * total > 1e-20 or not _is_explained(targets, unit, parts, count, basis)
        ):
            return unit, max(left, EPSILON * total)
        unit += 1
    return -1, 0.0


@compiled
def fit_one(
    targets: Array, predictors: Predictors, stopping: Stopping, parts: Components, matrix: Array
) -> int:
    """Extract the components of one fit; return how many there are.

    Parameters
    ----------
    targets
        (n_train, n_units), centred; columns that take no part are zero.
    predictors
        Training images.
    stopping
        Rule of the power iteration.
    parts
        Overwritten with the components.
    matrix
        Work space (size, size), size = min(rank, n_units).
    """
    basis, scale, _ = predictors
    rank = scale.size
    n_components = parts.squares.size
    by_units = targets.shape[1] < rank
    projected = np.dot(basis, targets)
    reference = _form(matrix, _covariance(projected, scale, parts, 0), by_units)
    first_trace = reference
    start_unit = 0
    direction = np.empty(matrix.shape[0])
    image = np.empty(matrix.shape[0])
    weights = np.empty(rank)
    for count in range(min(n_components, rank)):
        start_unit, left = _next_start(targets, start_unit, parts, count, basis)
        if start_unit < 0 or not reference > EXHAUSTED * first_trace:
            return count
        # covariance of the features with the start column, S_k e
        for i in range(rank):
            weights[i] = projected[i, start_unit]
        for component in range(count):
            for i in range(rank):
                weights[i] -= parts.loadings[component, start_unit] * parts.scores[component, i]
        length = 0.0
        for i in range(rank):
            weights[i] *= scale[i]
            length += weights[i] * weights[i]
        length = np.sqrt(length)
        if length == 0.0:
            return count
        if by_units:
            direction[:] = 0.0
            direction[start_unit] = 1.0
        else:
            for i in range(rank):
                direction[i] = weights[i] / length
        # scikit-learn adds epsilon to the length of X'y / y'y when it makes the first vector a unit one
        shrink = 1.0 / (1.0 + EPSILON * left / length)
        stretch = leading_direction(matrix, direction, image, by_units, shrink, stopping)
        if by_units:
            # w = S_k v / |S_k v|
            weights[:] = np.dot(projected, direction)
            for component in range(count):
                overlap = np.dot(parts.loadings[component], direction)
                for i in range(rank):
                    weights[i] -= overlap * parts.scores[component, i]
            for i in range(rank):
                weights[i] *= scale[i] / np.sqrt(stretch)
        else:
            weights[:] = direction
        if not _add_component(weights, projected, scale, parts, count):
            return count
        trace = _update(matrix, projected, image, scale, parts, count, by_units)
        if not trace > REFRESH * reference:
            covariance = _covariance(projected, scale, parts, count + 1)
            trace = _form(matrix, covariance, by_units)
            reference = trace
    return min(n_components, rank)


@compiled
def _add_component(weights: Array, projected: Array, scale: Array, parts: Components, count: int) -> bool:
    """Append scores, rotation and loadings of a weight vector; False if it adds no new direction."""
    score = parts.scores[count]
    rotation = parts.rotations[count]
    before = 0.0
    for i in range(scale.size):
        score[i] = scale[i] * weights[i]
        rotation[i] = weights[i]
        before += score[i] * score[i]
    square = before
    for _ in range(2):  # twice is enough (Giraud and others 2005)
        for component in range(count):
            overlap = 0.0
            for i in range(scale.size):
                overlap += parts.scores[component, i] * score[i]
            overlap /= parts.squares[component]
            for i in range(scale.size):
                score[i] -= overlap * parts.scores[component, i]
                rotation[i] -= overlap * parts.rotations[component, i]
    square = 0.0
    for i in range(scale.size):
        square += score[i] * score[i]
    if not square > EXHAUSTED * before:
        return False
    parts.squares[count] = square
    loading = parts.loadings[count]
    loading[:] = 0.0
    for i in range(scale.size):
        share = score[i] / square
        for unit in range(loading.size):
            loading[unit] += share * projected[i, unit]
    return True


@compiled
def _update(
    matrix: Array, projected: Array, image: Array, scale: Array, parts: Components, count: int, by_units: bool
) -> float:
    """Remove the newest component from the iterated matrix; return the new trace.

    With ``g = D t`` and loadings ``q``, ``S_(k+1) = S_k - g q'``.
    """
    loading = parts.loadings[count]
    square = parts.squares[count]
    gain = scale * parts.scores[count]
    if by_units:
        # C - u q' - q u' + |g|^2 q q',  u = S_k'g
        seen = scale * gain
        _remove_scores(seen, parts, count)
        partner = np.dot(projected.T, seen) - 0.5 * np.dot(gain, gain) * loading
        return _downdate(matrix, loading, partner)
    # G - g (S_k q)' - (S_k q) g' + |q|^2 g g',  S_k q = G w / |t|^2
    partner = image / square - 0.5 * np.dot(loading, loading) * gain
    return _downdate(matrix, gain, partner)


@compiled
def fit_batch(
    targets: Array, predictors: Predictors, n_components: int, stopping: Stopping, predictions: Array
) -> None:
    """Fit every target matrix and predict its test images.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units), centred over images; columns that take no part are zero.
    predictors
        Training and test images.
    n_components
        Components per fit; fewer are taken where features or targets are exhausted before.
    stopping
        Rule of the power iteration.
    predictions
        float64 (n_fits, n_test, n_units), overwritten with deviations from the training mean.
    """
    rank = predictors.scale.size
    n_units = targets.shape[2]
    size = min(rank, n_units)
    parts = Components(
        np.empty((n_components, rank)),
        np.empty(n_components),
        np.empty((n_components, rank)),
        np.empty((n_components, n_units)),
    )
    matrix = np.empty((size, size))
    for fit in range(targets.shape[0]):
        count = fit_one(targets[fit], predictors, stopping, parts, matrix)
        if count == 0:
            predictions[fit] = 0.0
        else:
            scores = np.dot(predictors.test, parts.rotations[:count].T)
            np.dot(scores, parts.loadings[:count], predictions[fit])
