"""Compiled functions and their storage."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.scoring.pls import ALIGNMENT, LANES, add_rows, aligned_zeros, dot, padded, row_products


@pytest.mark.parametrize("size", [1, LANES - 1, LANES, LANES + 1, 58])
def test_rows_are_padded_and_aligned(size: int) -> None:
    assert size <= padded(size) < size + LANES and padded(size) % LANES == 0
    zeros = aligned_zeros(3, padded(size))
    assert zeros.ctypes.data % ALIGNMENT == 0
    np.testing.assert_array_equal(zeros, np.zeros((3, padded(size))))


@pytest.mark.parametrize("n_rows", [0, 1, 3, 4, 7, 8])
def test_products_equal_those_of_numpy(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    matrix, vector, weights = rng.standard_normal((9, 13)), rng.standard_normal(13), rng.standard_normal(9)
    result = np.full(9, -1.0)
    row_products(matrix, vector, n_rows, result)
    np.testing.assert_allclose(result[:n_rows], matrix[:n_rows] @ vector, atol=1e-14)
    np.testing.assert_array_equal(result[n_rows:], -1.0)
    total = np.ones(13)
    add_rows(matrix, weights, n_rows, total)
    np.testing.assert_allclose(total, 1.0 + weights[:n_rows] @ matrix[:n_rows], atol=1e-14)
    assert dot(vector, vector) == pytest.approx(float(vector @ vector))
