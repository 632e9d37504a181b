"""Split-half reliability."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.scoring import split_half_reliability


def test_reliability_is_that_of_the_mean_of_all_trials() -> None:
    """Signal variance 1, noise variance s^2: the mean of n trials has reliability 1 / (1 + s^2 / n)."""
    rng = np.random.default_rng(0)
    n_images, n_units, n_trials, noise = 4000, 10, 10, 2.0
    responses = rng.standard_normal((n_images, n_units)) + noise * rng.standard_normal(
        (n_trials, n_images, n_units)
    )
    found = split_half_reliability(responses, n_halves=20)
    assert found.shape == (20, n_units)
    assert found.mean() == pytest.approx(1 / (1 + noise**2 / n_trials), abs=0.01)


def test_missing_half_and_silent_unit_are_nan() -> None:
    responses = np.random.default_rng(1).standard_normal((4, 12, 3))
    responses[1:, 5, 1] = np.nan
    responses[:, :, 2] = 0.0
    found = split_half_reliability(responses, n_halves=5)
    np.testing.assert_array_equal(np.isnan(found), [[False, True, True]] * 5)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="unknown way of drawing halves 'per_trial'; did you mean"):
        split_half_reliability(np.zeros((4, 5, 1)), draws="per_trial")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs two trials, got 1"):
        split_half_reliability(np.zeros((1, 5, 1)))
