"""The steps of one PLS fit, compiled: where a component starts, its parts, and its removal.

Notation and algorithm are those of :mod:`mvkit.scoring.pls_kernel`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import expanded_part
from mvkit.scoring.pls_direction import Rule
from mvkit.scoring.protocol import ZERO_TARGET
from mvkit.scoring.vectors import add_rows, dot, row_products

Array = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
# A target column that keeps more than this share of its variance is surely not constant.
SURELY_LEFT = 1e-10
# A squared length this small, relative to the first one, is rounding error: nothing is left to explain.
EXHAUSTED = 1e-28


class Fit(NamedTuple):
    """One fit: its data, and the components found so far (the first rows of the last three).

    Rows are padded with zeros as in :mod:`mvkit.scoring.vectors`.
    """

    basis: Array  # (rank, n_train)
    scale: Array  # (rank,), padded
    targets: Array  # (n_train, n_units), centred; columns that take no part are zero
    projected: Array  # (rank, n_units), basis @ targets; rows padded
    scores: Array  # (n_components, rank), orthonormal, in the coordinates U; rows padded
    rotations: Array  # (n_components, rank), in the coordinates V; rows padded
    loadings: Array  # (n_components, n_units); rows padded


@expanded_part
def form_matrix(matrix: Array, fit: Fit, count: int, rule: Rule) -> float:
    """Write ``S'S`` or ``SS'`` into ``matrix``; return its trace."""
    covariance = fit.projected.copy()
    rank, n_units = covariance.shape
    negative = np.empty(count)
    for i in range(rank):
        for component in range(count):
            negative[component] = -fit.scores[component, i]
        add_rows(fit.loadings, negative, count, covariance[i])
        for unit in range(n_units):
            covariance[i, unit] *= fit.scale[i]
    rows = covariance.T.copy() if rule.by_units else covariance
    trace = 0.0
    for i in range(matrix.shape[0]):
        for j in range(i + 1):
            matrix[i, j] = dot(rows[i], rows[j])
            matrix[j, i] = matrix[i, j]
        trace += matrix[i, i]
    return trace


@expanded_part
def _is_explained(fit: Fit, unit: int, count: int) -> bool:
    """Tell whether what the components leave of a target column is zero for scikit-learn."""
    for image in range(fit.targets.shape[0]):
        residual = fit.targets[image, unit]
        for component in range(count):
            fitted = 0.0
            for i in range(fit.basis.shape[0]):
                fitted += fit.scores[component, i] * fit.basis[i, image]
            residual -= fitted * fit.loadings[component, unit]
        if abs(residual) >= ZERO_TARGET:
            return False
    return True


@expanded_part
def start_column(fit: Fit, unit: int, count: int) -> tuple[int, float]:
    """Find the column that the power iteration starts from, and its squared residual.

    It is the first from ``unit`` on whose residual is not zero; -1 if there is none.
    """
    for column in range(unit, fit.targets.shape[1]):
        total = 0.0
        for image in range(fit.targets.shape[0]):
            total += fit.targets[image, column] ** 2
        left = total
        for component in range(count):
            left -= fit.loadings[component, column] ** 2
        if total > 0.0 and (left > SURELY_LEFT * total or not _is_explained(fit, column, count)):
            return column, max(left, EPSILON * total)
    return -1, 0.0


@expanded_part
def first_direction(direction: Array, matrix: Array, fit: Fit, place: tuple[int, int], rule: Rule) -> float:
    """Write the first iterate of component ``place[1]`` from start column ``place[0]``; return |S_k e|.

    It is the column itself in unit space, and its covariance with the features in feature space. The limit
    of the iteration does not depend on it, so that ``converged`` may start from where most covariance lies.
    """
    start, count = place
    size = matrix.shape[0]
    if rule.converged:
        start = 0
        for i in range(size):
            if matrix[i, i] > matrix[start, start]:
                start = i
    if rule.by_units or rule.converged:
        for i in range(size):
            direction[i] = 0.0
        direction[start] = 1.0
        return float(np.sqrt(max(matrix[start, start], 0.0)))
    for i in range(size):
        direction[i] = fit.projected[i, start]
    for component in range(count):
        for i in range(size):
            direction[i] -= fit.loadings[component, start] * fit.scores[component, i]
    for i in range(size):
        direction[i] *= fit.scale[i]
    length = np.sqrt(dot(direction, direction))
    for i in range(size):
        direction[i] /= length
    return float(length)


@expanded_part
def to_feature_space(direction: Array, weights: Array, fit: Fit, count: int) -> None:
    """Write the weight vector ``S_k v / |S_k v|`` of a direction v in unit space."""
    rank = fit.scale.size
    row_products(fit.projected, direction, fit.projected.shape[0], weights)
    for component in range(count):
        overlap = dot(fit.loadings[component], direction)
        for i in range(rank):
            weights[i] -= overlap * fit.scores[component, i]
    for i in range(rank):
        weights[i] *= fit.scale[i]
    length = np.sqrt(dot(weights, weights))
    for i in range(rank):
        weights[i] /= length


@expanded_part
def add_component(weights: Array, fit: Fit, count: int) -> float:
    """Append score, rotation and loadings of a weight vector; return |X_k w|, 0 if nothing is left of it."""
    rank = fit.scale.size
    score = fit.scores[count]
    rotation = fit.rotations[count]
    for i in range(rank):
        score[i] = fit.scale[i] * weights[i]
        rotation[i] = weights[i]
    first = dot(score, score)
    for _pass in range(2):  # once leaves rounding errors, twice does not
        for component in range(count):
            overlap = dot(fit.scores[component], score)
            for i in range(rank):
                score[i] -= overlap * fit.scores[component, i]
                rotation[i] -= overlap * fit.rotations[component, i]
    square = dot(score, score)
    if not square > EXHAUSTED * first:
        return 0.0
    length = np.sqrt(square)
    for i in range(rank):
        score[i] /= length
        rotation[i] /= length
    fit.loadings[count, :] = 0.0
    add_rows(fit.projected, score, fit.projected.shape[0], fit.loadings[count])
    return float(length)


@expanded_part
def remove_component(matrix: Array, image: Array, fit: Fit, count: int, rule: Rule) -> float:
    """Remove the newest component from the iterated matrix; return the new trace.

    With ``g = D t``, ``S_(k+1) = S_k - g q'``. ``image`` is ``G w / |X_k w| = S_k q`` (not used by units).
    """
    size, width = matrix.shape
    loading = fit.loadings[count]
    gain = fit.scale * fit.scores[count]
    partner = np.zeros(width)
    if rule.by_units:
        # C - q u' - u q' + |g|^2 q q',  u = S_k'g
        seen = fit.scale * gain
        for component in range(count):
            overlap = dot(fit.scores[component], seen)
            for i in range(seen.size):
                seen[i] -= overlap * fit.scores[component, i]
        add_rows(fit.projected, seen, fit.projected.shape[0], partner)
        half = 0.5 * dot(gain, gain)
        x = loading
    else:
        # G - g (S_k q)' - (S_k q) g' + |q|^2 g g'
        half = 0.5 * dot(loading, loading)
        x = gain
        for i in range(width):
            partner[i] = image[i]
    for i in range(width):
        partner[i] -= half * x[i]
    trace = 0.0
    for i in range(size):
        a = x[i]
        b = partner[i]
        for j in range(width):
            matrix[i, j] -= a * partner[j] + b * x[j]
        trace += matrix[i, i]
    return trace
