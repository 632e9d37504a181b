"""Small products of vectors and matrices for compiled functions.

BLAS would spend more time in being called than in multiplying vectors of some sixty numbers. What is read
most often is stored in rows of whole SIMD registers that begin at a cache line.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled_part

Array = NDArray[np.float64]

# Rows are padded to a multiple of this many numbers, and begin at a multiple of this many bytes.
LANES = 8
ALIGNMENT = 64


def padded(size: int) -> int:
    """Return the length of a padded row of ``size`` numbers."""
    return -(-size // LANES) * LANES


def aligned_zeros(*shape: int) -> Array:
    """Return float64 zeros whose first entry begins at a cache line."""
    n_bytes = 8 * int(np.prod(shape))
    buffer = np.zeros(n_bytes + ALIGNMENT, dtype=np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    return buffer[begin : begin + n_bytes].view(np.float64).reshape(shape)


@compiled_part
def dot(x: Array, y: Array) -> float:
    """Return the inner product."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@compiled_part
def add_rows(matrix: Array, weights: Array, n_rows: int, result: Array) -> None:
    """Add ``weights @ matrix`` (first ``n_rows`` rows) to ``result``, four rows at a time."""
    n_columns = result.size
    row = 0
    while row + 3 < n_rows:
        a, b, c, d = weights[row], weights[row + 1], weights[row + 2], weights[row + 3]
        for j in range(n_columns):
            result[j] += (
                a * matrix[row, j] + b * matrix[row + 1, j] + c * matrix[row + 2, j] + d * matrix[row + 3, j]
            )
        row += 4
    while row < n_rows:
        a = weights[row]
        for j in range(n_columns):
            result[j] += a * matrix[row, j]
        row += 1


@compiled_part
def row_products(matrix: Array, vector: Array, n_rows: int, result: Array) -> None:
    """Write ``matrix[:n_rows] @ vector`` into ``result``, four rows at a time."""
    n_columns = vector.size
    row = 0
    while row + 3 < n_rows:
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for j in range(n_columns):
            value = vector[j]
            a += matrix[row, j] * value
            b += matrix[row + 1, j] * value
            c += matrix[row + 2, j] * value
            d += matrix[row + 3, j] * value
        result[row] = a
        result[row + 1] = b
        result[row + 2] = c
        result[row + 3] = d
        row += 4
    while row < n_rows:
        result[row] = dot(matrix[row], vector)
        row += 1
