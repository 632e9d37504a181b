"""Draws of trials and source units."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.scoring.ceilings import PairSize, draw_pair
from mvkit.scoring.protocol import draw_split_half, split_half_weights
from mvkit.scoring.settings import ScoreSettings

HALVINGS = ["split-half", "bootstrap", "bootstrap-full-mean", "subsample-half", "subsample-half-replacement"]


@pytest.mark.parametrize("halving", HALVINGS)
@pytest.mark.parametrize("synchronous", [True, False])
def test_the_target_is_halved_as_for_a_model(halving: str, synchronous: bool) -> None:
    settings = ScoreSettings.model_validate(
        {"halving": halving, "synchronous": synchronous, "n_halves": 4, "halves_seed": 3}
    )
    draws = draw_pair(PairSize(9, 7, 5, 6, 6), settings)
    np.testing.assert_array_equal(draws.target, split_half_weights(9, 5, settings))
    generator = np.random.RandomState(3 + 2)
    n_images = None if synchronous else 5
    draw_split_half(generator, 9, settings.halving, n_images=n_images)
    np.testing.assert_array_equal(
        draws.source[2], draw_split_half(generator, 7, settings.halving, n_images=n_images)
    )


def test_source_units_are_drawn_only_where_a_source_has_more() -> None:
    settings = ScoreSettings(n_halves=3, n_subsamples=2)
    all_of_them = draw_pair(PairSize(9, 7, 5, 6, 6), settings)
    assert all_of_them.units is None
    assert len(all_of_them.target) == 3
    some = draw_pair(PairSize(9, 7, 5, 6, 4), settings)
    assert some.units is not None
    assert some.units.shape == (6, 6)
    assert some.n_kept == 4
    np.testing.assert_array_equal(np.sort(some.units, axis=1), np.tile(np.arange(6), (6, 1)))


def test_one_generator_per_halving_makes_all_its_sub_samples() -> None:
    draws = draw_pair(PairSize(9, 7, 5, 6, 4), ScoreSettings(n_halves=2, n_subsamples=2, halves_seed=5))
    assert draws.units is not None
    generator = np.random.RandomState(5 + 1)
    for row in (2, 3):
        units = list(range(6))
        generator.shuffle(units)
        np.testing.assert_array_equal(draws.units[row], units)
        for weights, n_trials in ((draws.target, 9), (draws.source, 7)):
            trials = list(range(n_trials))
            generator.shuffle(trials)
            np.testing.assert_array_equal(np.flatnonzero(weights[row, 0]), sorted(trials[: n_trials // 2]))


def test_one_generator_per_sub_sample_where_these_outnumber_halvings() -> None:
    draws = draw_pair(PairSize(9, 7, 5, 6, 4), ScoreSettings(n_halves=2, n_subsamples=3, halves_seed=5))
    assert draws.units is not None
    assert len(draws.units) == 6
    for subsample in range(3):
        units = list(range(6))
        np.random.RandomState(5 + subsample).shuffle(units)
        np.testing.assert_array_equal(draws.units[2 * subsample], units)
        np.testing.assert_array_equal(draws.units[2 * subsample + 1], units)
        assert (draws.target[2 * subsample] != draws.target[2 * subsample + 1]).any()
