"""Pseudo-populations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mvkit.scoring.protocol import half_means, halves_of, trial_orders
from mvkit.scoring.similarity import POOLED_SPECIMEN, pool_animals

RNG = np.random.default_rng(0)


def test_units_of_an_area_stand_side_by_side(recording: Callable[..., Any]) -> None:
    first, second, third = (RNG.random((6, 9, n)).astype(np.float32) for n in (3, 2, 4))
    animals = [
        recording(first, area="VISl", specimen=5),
        recording(second, area="VISp", specimen=5),
        recording(third, area="VISl", specimen=6),
    ]
    lateral, primary = pool_animals(animals)
    assert (lateral.area, primary.area) == ("VISl", "VISp")
    assert lateral.specimen == primary.specimen == POOLED_SPECIMEN
    np.testing.assert_array_equal(lateral.responses, np.concatenate([first, third], axis=2))
    np.testing.assert_array_equal(lateral.unit_ids, np.r_[animals[0].unit_ids, animals[2].unit_ids])
    np.testing.assert_array_equal(primary.responses, second)
    assert lateral.responses.dtype == np.float32


def test_trials_are_aligned_by_position(recording: Callable[..., Any]) -> None:
    few, many = RNG.random((4, 9, 3)), RNG.random((7, 9, 2))
    (pool,) = pool_animals([recording(few, specimen=1), recording(many, specimen=2)])
    np.testing.assert_array_equal(pool.responses[:4, :, :3], few)
    assert np.isnan(pool.responses[4:, :, :3]).all()
    np.testing.assert_array_equal(pool.responses[:, :, 3:], many)
    members = halves_of(trial_orders(7, n_halves=3))
    means = half_means(pool.responses, members)
    np.testing.assert_allclose(means[..., 3:], half_means(many, members), rtol=1e-14)
    np.testing.assert_allclose(means[..., :3], half_means(few, members[:, :, :4]), rtol=1e-14)
