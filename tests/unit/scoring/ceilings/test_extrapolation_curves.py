"""Curves through ceilings: against scipy, numpy and curves of known parameters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from mvkit.errors import UsageError
from mvkit.scoring.extrapolation import (
    HIGHEST_EXPONENT,
    LOWEST_EXPONENT,
    fit_log_linear,
    fit_saturating,
)

SIZES = np.array([4, 8, 16, 32, 64, 128])


def saturating(size, asymptote, half, exponent):
    return asymptote * (size / (size + half)) ** exponent


@pytest.mark.parametrize(
    ("asymptote", "half", "exponent"), [(0.7, 30.0, 0.5), (0.5, 6.0, 1.0), (1.0, 80.0, 0.3), (0.4, 3.0, 3.0)]
)
def test_parameters_of_exact_curves_come_back(asymptote, half, exponent):
    values = saturating(SIZES, asymptote, half, exponent)[None]
    found = fit_saturating(SIZES, values)
    assert [found.asymptote[0], found.half[0], found.exponent[0]] == pytest.approx(
        [asymptote, half, exponent], rel=1e-4
    )
    assert found.at(1000.0)[0] == pytest.approx(saturating(1000.0, asymptote, half, exponent), rel=1e-5)
    assert not found.still_rising[0]


def test_noisy_curves_have_the_least_squares_that_scipy_finds():
    rng = np.random.default_rng(0)
    values = saturating(SIZES, 0.7, 30.0, 0.5) + 0.01 * rng.standard_normal((40, SIZES.size))
    found = fit_saturating(SIZES, values)
    bounds = (
        [0.0, found.half_bounds[0], LOWEST_EXPONENT],
        [np.inf, found.half_bounds[1], HIGHEST_EXPONENT],
    )
    for index, row in enumerate(values):
        expected, _ = curve_fit(
            saturating, SIZES, row, p0=[0.7, 30.0, 0.5], bounds=bounds, x_scale=[0.1, 10.0, 0.1]
        )
        ours = saturating(SIZES, found.asymptote[index], found.half[index], found.exponent[index])
        theirs = saturating(SIZES, *expected)
        assert np.square(ours - row).sum() <= np.square(theirs - row).sum() * (1 + 1e-6)
        assert found.asymptote[index] == pytest.approx(expected[0], abs=2e-3)


def test_a_set_is_fitted_as_if_it_were_alone():
    rng = np.random.default_rng(1)
    values = saturating(SIZES, 0.6, 20.0, 0.6) + 0.02 * rng.standard_normal((30, SIZES.size))
    together = fit_saturating(SIZES, values)
    alone = np.array([fit_saturating(SIZES, row[None]).asymptote[0] for row in values])
    # Each to the precision of its own search.
    np.testing.assert_allclose(together.asymptote, alone, rtol=1e-6)


def test_values_that_do_not_rise_have_their_mean_as_asymptote():
    flat, falling = np.full(SIZES.size, 0.5), np.linspace(0.6, 0.4, SIZES.size)
    found = fit_saturating(SIZES, np.stack([flat, falling]))
    assert found.asymptote == pytest.approx([0.5, 0.5], abs=2e-3)


def test_a_power_law_shows_no_asymptote():
    found = fit_saturating(SIZES, (0.01 * SIZES**0.8)[None])
    assert found.still_rising[0]


def test_sets_with_nan_stay_nan_and_leave_the_others_alone():
    values = np.stack([np.full(SIZES.size, np.nan), saturating(SIZES, 0.7, 30.0, 0.5)])
    values[0, 1:] = 0.4
    found = fit_saturating(SIZES, values)
    assert np.isnan(found.asymptote[0]) and np.isnan(found.exponent[0])
    assert found.asymptote[1] == pytest.approx(0.7, rel=1e-4)


def test_zero_everywhere_has_asymptote_zero():
    found = fit_saturating(SIZES, np.zeros((1, SIZES.size)))
    assert found.asymptote[0] == 0.0
    assert found.at(1e6)[0] == 0.0


def test_log_linear_fit_is_numpys_polynomial_in_the_logarithm():
    rng = np.random.default_rng(2)
    values = 0.2 + 0.05 * np.log(SIZES) + 0.02 * rng.standard_normal((3, SIZES.size))
    found = fit_log_linear(SIZES, values)
    for index, row in enumerate(values):
        slope, intercept = np.polyfit(np.log(SIZES), row, 1)
        assert found.slope[index] == pytest.approx(slope, rel=1e-10)
        assert found.value[index] == pytest.approx(intercept + slope * np.log(128), rel=1e-10)
        assert found.at(500.0)[index] == pytest.approx(intercept + slope * np.log(500), rel=1e-10)


@pytest.mark.parametrize("sizes", [[4, 8, 16], [4, 8, 8, 16], [0, 4, 8, 16]])
def test_too_few_equal_or_zero_sizes_are_refused(sizes):
    with pytest.raises(UsageError, match="at least 4 different positive sizes"):
        fit_saturating(np.array(sizes), np.ones((1, len(sizes))))
