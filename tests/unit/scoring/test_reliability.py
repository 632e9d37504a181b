"""Reliabilities of responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from mvkit.errors import UsageError
from mvkit.scoring import ScoreSettings, response_reliability, split_half_reliability
from mvkit.scoring.protocol import halves_of, split_half_weights, trial_orders_in_sequence
from mvkit.scoring.reliability import split_half_moments


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


def test_groups_of_split_halves_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = np.random.default_rng(4).poisson(3.0, (9, 30, 6)).astype(float)
    settings = ScoreSettings(n_halves=7, halving="bootstrap")
    whole = response_reliability(responses, settings)
    monkeypatch.setattr("mvkit.scoring.protocol.GROUP_BYTES", 2 * 8 * 30 * 6 * 2)
    np.testing.assert_allclose(response_reliability(responses, settings), whole, rtol=0, atol=1e-14)


def test_one_trial_is_refused_by_settings_too() -> None:
    with pytest.raises(UsageError, match="needs two trials, got 1"):
        response_reliability(np.zeros((1, 5, 1)), ScoreSettings(halving="bootstrap"))


def members(n_trials: int, n_halves: int, seed: int = 0) -> np.ndarray:
    return halves_of(trial_orders_in_sequence(n_trials, n_halves=n_halves, seed=seed))


@pytest.mark.parametrize("kind", ["counts", "rates", "counts with gaps", "rates with gaps", "gaps of a unit"])
def test_equals_the_reliability_of_every_pair_of_halves(kind: str) -> None:
    rng = np.random.default_rng(1)
    responses = rng.poisson(rng.gamma(1.0, 2.0, (17, 90)), (11, 17, 90)).astype(np.float32)
    if kind.startswith("rates"):
        responses += rng.random(responses.shape).astype(np.float32)
    if kind.endswith("with gaps"):
        responses[[1, 4, 7], [2, 2, 11]] = np.nan
    if kind == "gaps of a unit":
        responses[rng.random(responses.shape) < 0.1] = np.nan
    found = split_half_moments(responses, members(11, 30))
    each = split_half_reliability(responses, n_halves=30, draws="per_unit_seed0")
    assert np.isfinite(each).mean() > 0.9
    np.testing.assert_allclose(found.mean, np.nanmean(each, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(each, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.n_used, np.isfinite(each).sum(axis=0))


def test_columns_do_not_depend_on_those_beside_them() -> None:
    """More columns than fit into one block, some of them with gaps."""
    rng = np.random.default_rng(2)
    responses = rng.poisson(2.0, (8, 118, 150)).astype(float)
    responses[3, 5, 70:80] = np.nan
    halves = members(8, 100)
    found = split_half_moments(responses, halves)
    for column in (0, 69, 74, 149):
        alone = split_half_moments(responses[:, :, [column]], halves)
        assert found.mean[column] == pytest.approx(alone.mean[0], abs=1e-13)


def test_undefined_split_halves_are_left_out_and_told_apart() -> None:
    rng = np.random.default_rng(3)
    responses = rng.poisson(4.0, (6, 40, 5)).astype(float)
    responses[:, :, 0] = 0.0  # silent
    responses[:, :, 1] = 0.1  # constant, and no whole number
    responses[1:, 7, 2] = np.nan  # one valid trial: never one in both halves
    responses[2:, 7, 3] = np.nan  # two valid trials: in both halves if they are parted
    halves = members(6, 40)
    found = split_half_moments(responses, halves)
    parted = int((halves[:, 0, 0] != halves[:, 0, 1]).sum())
    assert 0 < parted < 40
    assert found.n_used.tolist() == [0, 0, 0, parted, 40]
    assert found.n_missing.tolist() == [0, 0, 40, 40 - parted, 0]
    assert np.isnan(found.mean).tolist() == np.isnan(found.std).tolist() == [True, True, True, False, False]
    each = split_half_reliability(responses, n_halves=40, draws="per_unit_seed0")
    assert found.mean[3] == pytest.approx(np.nanmean(each[:, 3]), abs=1e-12)


def test_a_single_spike_is_undefined_because_the_other_half_is_silent() -> None:
    responses = np.zeros((6, 40, 1))
    responses[2, 9] = 1.0
    found = split_half_moments(responses, members(6, 25))
    assert (found.n_used[0], found.n_missing[0]) == (0, 0)
    assert np.isnan(found.mean[0])
