"""Pooled animals and the units that can have a say."""

from __future__ import annotations

import numpy as np

from mvkit.scoring.ceilings import pool_responses, predicting_units
from mvkit.scoring.protocol import half_means, halves_of, trial_orders


def test_animals_side_by_side_with_gaps_where_trials_are_fewer() -> None:
    first = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2)
    second = 100 + np.arange(4 * 3 * 1, dtype=np.float32).reshape(4, 3, 1)
    pooled = pool_responses([first, second])
    assert pooled.shape == (4, 3, 3)
    np.testing.assert_array_equal(pooled[:2, :, :2], first)
    assert np.isnan(pooled[2:, :, :2]).all()
    np.testing.assert_array_equal(pooled[:, :, 2:], second)


def test_one_animal_is_left_as_it_is() -> None:
    only = np.ones((2, 3, 4), dtype=np.float32)
    assert pool_responses([only]) is only


def test_units_without_a_trial_in_some_half_have_no_say() -> None:
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((6, 8, 7))
    responses[1:, 4, 2] = np.nan  # one trial left: never in both halves
    responses[:, 5, 3] = np.nan
    responses[0, :, 4] = np.nan  # a trial lost: the others are in both halves
    responses[2:, 0, 6] = np.nan  # two trials left: in both halves of some halvings only
    weights = halves_of(trial_orders(6, n_halves=5))
    known = ~np.isnan(half_means(responses, weights)).any(axis=(0, 1, 2))
    assert list(np.flatnonzero(~known)) == [2, 3, 6]
    np.testing.assert_array_equal(predicting_units(responses, weights), np.flatnonzero(known))
