"""The search for the best feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from mvkit.scoring import ScoreSettings
from mvkit.scoring.correlation import Drop
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.one_to_one import Sources, best_sources, near_zero, unit_rows
from mvkit.scoring.protocol import ImageSplit, split_half_weights, splits_of


def test_features_that_differ_less_than_float32_can_tell_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal((1, 59))
    base = target + rng.standard_normal((1, 59))
    # Ever closer to the target, by steps of a correlation of about 1e-9.
    features = base + 1e-9 * np.arange(200)[:, None] * target
    order = rng.permutation(200)
    images = np.arange(59)
    sources = Sources(features[order].T)
    chosen = best_sources(unit_rows(target), sources, ImageSplit(images, images))
    assert order[chosen[0]] == 199


def test_unit_rows_multiply_to_correlations() -> None:
    rng = np.random.default_rng(1)
    plain = rng.standard_normal((4, 30))
    found = unit_rows(plain * [[1.0], [1e-200], [1e200], [-3.0]])
    expected = np.corrcoef(plain * [[1.0], [1.0], [1.0], [-1.0]])
    np.testing.assert_allclose(found @ found.T, expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(unit_rows(np.full((2, 5), 0.1)), 0.0)


def test_moving_rows_near_zero_keeps_their_differences() -> None:
    rng = np.random.default_rng(2)
    rows = np.round(rng.standard_normal((3, 50)), 2)
    rows[0] += 1e12
    rows[2] = 0.1
    found = near_zero(rows)
    np.testing.assert_array_equal(np.diff(found[0]), np.diff(rows[0]))
    np.testing.assert_array_equal(found[1], rows[1])
    np.testing.assert_array_equal(found[2], 0.0)


@pytest.mark.parametrize("parity", [False, True])
def test_unit_without_training_response(parity: bool, noisy_linear: Callable[..., Any]) -> None:
    """The 2020 code took the last feature where no correlation was defined; mvkit drops the halving."""
    features, responses = noisy_linear(n_units=3, n_trials=8)
    settings = ScoreSettings(mapping="one-to-one", n_splits=1, n_halves=5, parity=parity)
    weights, splits = split_half_weights(8, 118, settings), splits_of(118, settings)
    image = splits[0].train[0]
    responses[1:, image, 1] = np.nan
    row = MAPPINGS["one-to-one"]
    prepared = row.prepare("a", features, splits, settings)
    found = row.score(responses, weights, splits, [prepared], settings)[0]
    first_knows = weights[:, 0, 0].astype(bool)
    assert 0 < first_knows.sum() < 5
    if not parity:
        assert np.isnan(found.r_map[0, :, 1]).all()
        np.testing.assert_array_equal(np.isnan(found.r_cross[0, :, 1]), ~first_knows)
        assert (found.drops[0, :, 1] == Drop.NO_TRIAL).all()
        assert found.missing_image[1] == image
        return
    test = splits[0].test
    for halving in np.flatnonzero(~first_knows):
        second = responses[weights[halving, 1].astype(bool)][:, test, 1].mean(axis=0)
        expected = pearsonr(features[test, -1], second)[0]
        assert found.r_cross[0, halving, 1] == pytest.approx(expected, abs=1e-12)
