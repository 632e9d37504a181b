"""Split-half reliability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from mvkit.errors import UsageError
from mvkit.scoring import ScoreSettings, response_reliability, split_half_reliability
from mvkit.scoring.protocol import split_half_weights
from mvkit.scoring.reliability import correlate_all_sets, correlate_sets


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


def test_settings_give_what_the_direct_function_gives() -> None:
    responses = np.random.default_rng(2).poisson(3.0, (9, 30, 6)).astype(float)
    responses[4, 11] = np.nan
    found = response_reliability(responses, ScoreSettings(n_halves=7, halves_seed=3))
    np.testing.assert_array_equal(found, split_half_reliability(responses, n_halves=7, seed=3))


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("halving", ["split-half", "bootstrap"])
def test_rank_correlation_equals_scipy(halving: Any, synchronous: bool) -> None:
    """Trial by trial, with missing ones and ties."""
    responses = np.random.default_rng(3).poisson(2.0, (8, 25, 4)).astype(float)
    responses[2, 3] = np.nan
    responses[5, 20, 1] = np.nan
    settings = ScoreSettings(
        halving=halving, synchronous=synchronous, n_halves=6, correlation="spearman", halves_seed=1
    )
    weights = split_half_weights(8, 25, settings)
    found = response_reliability(responses, settings)
    for drawn, row in zip(weights, found, strict=True):
        for unit in range(4):
            means = [mean_by_hand(responses[:, :, unit], drawn[which]) for which in range(2)]
            expected = scipy.stats.spearmanr(*means).statistic
            if halving == "split-half":
                expected = 2 * expected / (1 + expected)
            assert row[unit] == pytest.approx(expected, abs=1e-12)


def mean_by_hand(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """Mean over trials of each image, every trial repeated as often as it was drawn."""
    means = []
    for image in range(values.shape[1]):
        times = weights if weights.ndim == 1 else weights[:, image]
        drawn = [float(values[trial, image]) for trial in range(len(times)) for _ in range(times[trial])]
        # Rounded, since ties decide ranks.
        means.append(round(float(np.nanmean(drawn)), 9))
    return means


def test_groups_of_halvings_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = np.random.default_rng(4).poisson(3.0, (9, 30, 6)).astype(float)
    settings = ScoreSettings(n_halves=7, halving="bootstrap")
    whole = response_reliability(responses, settings)
    monkeypatch.setattr("mvkit.scoring.protocol.GROUP_BYTES", 2 * 8 * 30 * 6 * 2)
    np.testing.assert_allclose(response_reliability(responses, settings), whole, rtol=0, atol=1e-14)


def test_a_grid_compares_every_set_with_every_other() -> None:
    responses = np.random.default_rng(5).poisson(3.0, (8, 30, 3)).astype(float)
    sets = split_half_weights(8, 30, ScoreSettings(n_halves=3, halving="bootstrap"))
    grid = correlate_all_sets(responses, sets[:, 0], sets[:2, 1])
    assert grid.shape == (2, 3, 3)
    for row in range(2):
        for column in range(3):
            pair = np.stack([sets[column, 0], sets[row, 1]])[None]
            np.testing.assert_array_equal(grid[row, column], correlate_sets(responses, pair)[0])


def test_one_trial_is_refused_by_settings_too() -> None:
    with pytest.raises(UsageError, match="needs two trials, got 1"):
        response_reliability(np.zeros((1, 5, 1)), ScoreSettings(halving="bootstrap"))
