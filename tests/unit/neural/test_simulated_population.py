"""Simulated animals are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.neural.simulated import draw_shares, simulate_population

N_MANY = 20_000


def test_share_is_the_correlation_of_the_best_linear_map_with_the_response() -> None:
    shares = np.array([[-0.6, 0.0, 0.3, 0.8, 1.0], [0.1, 0.5, 0.5, 0.9, 0.2]])
    population = simulate_population(shares, n_images=N_MANY, seed=3)
    design = np.column_stack([np.ones(N_MANY), population.features])
    for signal, wanted in zip(population.signals, shares, strict=True):
        fitted = design @ np.linalg.lstsq(design, signal, rcond=None)[0]
        explained = np.sqrt(fitted.var(axis=0))
        # The sign of a share is that of its direction, which is drawn: only the size can be told.
        # 48 independent features explain sqrt(48 / N_MANY) of a response by chance alone.
        np.testing.assert_allclose(explained, np.abs(wanted), atol=1.4 * np.sqrt(48 / N_MANY))


def test_signals_have_mean_zero_and_variance_one() -> None:
    signals = simulate_population(np.full((2, 7), 0.4), n_images=30, seed=1).signals
    np.testing.assert_allclose(signals.mean(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(signals.var(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("n_trials", [10, 50])
def test_mean_of_all_trials_has_the_reliability_asked_for(n_trials: int) -> None:
    wanted = np.array([[0.1, 0.5, 0.95]])
    population = simulate_population(np.full((1, 3), 0.5), n_images=4000, seed=2)
    (recording,) = population.recordings(reliability=wanted, n_trials=n_trials, seed=5)
    noise = recording.responses.mean(axis=0) - population.signals[0]
    np.testing.assert_allclose(1.0 / (1.0 + noise.var(axis=0)), wanted[0], rtol=0.1)


def test_reliability_of_one_means_no_noise() -> None:
    population = simulate_population(np.full((2, 3), 0.5), seed=2)
    for recording, signal in zip(
        population.recordings(reliability=1.0, n_trials=4, seed=5), population.signals, strict=True
    ):
        np.testing.assert_array_equal(recording.responses, np.broadcast_to(signal, (4, *signal.shape)))


def test_another_noise_seed_is_the_same_truth_recorded_again() -> None:
    population = simulate_population(np.full((1, 3), 0.5), seed=2)
    draws = [population.recordings(reliability=0.5, n_trials=6, seed=seed)[0].responses for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.any(draws[0] == draws[2])
    assert [recording.specimen for recording in population.recordings(reliability=1, n_trials=2, seed=0)] == [
        1
    ]


def test_drawn_shares_have_the_median_and_the_spreads_asked_for() -> None:
    shares = draw_shares(n_animals=2000, n_units=50, median=0.5, spreads=(0.2, 0.3), seed=1)
    assert np.median(shares) == pytest.approx(0.5, abs=0.02)
    scale = np.arctanh(shares)
    assert scale.std(axis=1, ddof=1).mean() == pytest.approx(0.3, rel=0.03)
    assert scale.mean(axis=1).std(ddof=1) == pytest.approx(np.hypot(0.2, 0.3 / np.sqrt(50)), rel=0.06)


@pytest.mark.parametrize("shares", [np.zeros(3), np.full((1, 2), 1.5), np.full((1, 2), np.nan)])
def test_wrong_shares_are_refused(shares: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"shares must be \(n_animals, n_units\)"):
        simulate_population(shares)


@pytest.mark.parametrize("reliability", [0.0, -0.1, 1.1, np.nan])
def test_wrong_reliabilities_are_refused(reliability: float) -> None:
    with pytest.raises(UsageError, match="reliability must be above 0"):
        simulate_population(np.zeros((1, 2))).recordings(reliability=reliability, n_trials=4, seed=0)
