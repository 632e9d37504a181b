"""Correlations, and reasons for those that are missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from mvkit.scoring.correlation import centre, correlate, spearman_brown


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_correlation_is_pearsons(offset: float) -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((3, 30, 4)) + offset
    second = first + rng.standard_normal(first.shape)
    found = correlate(first, second)
    expected = [[pearsonr(first[i, :, j], second[i, :, j])[0] for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 if offset == 0 else 1e-8)


def test_constant_or_missing_columns_are_undefined() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((1, 10, 3)), rng.standard_normal((1, 10, 3))
    first[0, :, 0] = 0.0
    second[0, 2, 1] = np.nan
    found = correlate(first, second)
    np.testing.assert_array_equal(np.isnan(found), [[True, True, False]])


def test_identical_columns_do_not_exceed_one() -> None:
    values = np.random.default_rng(2).standard_normal((1, 59, 200))
    found = correlate(values, values)
    assert found.max() <= 1.0
    np.testing.assert_allclose(found, 1.0, atol=1e-15)


def test_centring_makes_constants_exactly_zero() -> None:
    values = np.full((59, 2), 0.1)
    values[:, 1] = np.linspace(0, 1, 59)
    deviations = centre(values, axis=0)
    np.testing.assert_array_equal(deviations[:, 0], 0.0)
    assert abs(deviations[:, 1].sum()) < 1e-13
    values[4, 0] = np.nan
    assert np.isnan(centre(values, axis=0)[:, 0]).all()


@pytest.mark.parametrize(("r", "corrected"), [(0.5, 2 / 3), (1.0, 1.0), (0.0, 0.0), (-0.5, -2.0)])
def test_spearman_brown(r: float, corrected: float) -> None:
    assert spearman_brown(np.array([r]))[0] == pytest.approx(corrected)
