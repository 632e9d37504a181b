"""The weight vector of a PLS component: power iteration, stopped as scikit-learn stops it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled

Array = NDArray[np.float64]


class Stopping(NamedTuple):
    """Rule that ends the power iteration."""

    tolerance: float
    max_iterations: int
    converged: bool


@compiled
def symmetric_product(matrix: Array, vector: Array, result: Array) -> None:
    """Write ``matrix @ vector`` for a symmetric matrix, four rows at a time."""
    size = matrix.shape[0]
    result[:] = 0.0
    i = 0
    while i + 3 < size:
        a, b, c, d = vector[i], vector[i + 1], vector[i + 2], vector[i + 3]
        for j in range(size):
            result[j] += a * matrix[i, j] + b * matrix[i + 1, j] + c * matrix[i + 2, j] + d * matrix[i + 3, j]
        i += 4
    while i < size:
        a = vector[i]
        for j in range(size):
            result[j] += a * matrix[i, j]
        i += 1


@compiled
def leading_direction(
    matrix: Array, direction: Array, image: Array, by_units: bool, shrink: float, stopping: Stopping
) -> float:
    symmetric_product(matrix, direction, image)
    size = direction.size
    stretch = np.dot(direction, image)
    length = np.sqrt(np.dot(image, image))
    for iteration in range(2, stopping.max_iterations + 1):
        previous_stretch = stretch
        previous_length = length
        for i in range(size):
            direction[i] = image[i] / length
        symmetric_product(matrix, direction, image)
        stretch = np.dot(direction, image)
        length = np.sqrt(np.dot(image, image))
        if by_units:
            cosine = previous_length / np.sqrt(previous_stretch * stretch)
        else:
            cosine = previous_stretch / previous_length
        distance = 1.0 + shrink * shrink - 2.0 * shrink * cosine
        if distance < stopping.tolerance:
            break
        shrink = 1.0
    return stretch
