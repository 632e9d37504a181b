"""Correction for several tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p values so that the chance of any false rejection in the family stays at the level.

    Holm 1979, Scand. J. Stat. 6:65: the k-th smallest of m is multiplied by m - k + 1, made at least as large
    as the one before, and at most 1. NaN is no test: it stays NaN and is not counted.

    Parameters
    ----------
    p_values
        float64 (n_tests,).
    """
    adjusted = np.full(p_values.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p_values))
    order = tests[np.argsort(p_values[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted
