"""Half-means."""

from __future__ import annotations

import warnings

import numpy as np

from mvkit.scoring.protocol import half_means, halves_of, trial_orders


def test_means_ignore_missing_trials() -> None:
    rng = np.random.default_rng(0)
    responses = rng.poisson(3.0, (9, 11, 5)).astype(np.float32)
    responses[rng.random(responses.shape) < 0.3] = np.nan
    responses[1:, 4, 2] = np.nan  # one valid trial, so one half has none
    responses[0, 4, 2] = 7.0
    members = halves_of(trial_orders(9, n_halves=6))
    means = half_means(responses, members)
    assert means.shape == (6, 2, 11, 5)
    for halving in range(6):
        for half in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                expected = np.nanmean(responses[members[halving, half]].astype(np.float64), axis=0)
            np.testing.assert_allclose(means[halving, half], expected, rtol=1e-14)
    assert np.isnan(means[:, :, 4, 2]).sum() == 6


def test_complete_recordings_give_plain_means() -> None:
    responses = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    members = halves_of(np.array([[3, 1, 0, 2]]))
    np.testing.assert_array_equal(half_means(responses, members)[0, 0], (responses[3] + responses[1]) / 2)
    np.testing.assert_array_equal(half_means(responses, members)[0, 1], (responses[0] + responses[2]) / 2)
