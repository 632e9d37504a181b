"""Scores of single halvings, and why some are missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.cross_decomposition import PLSRegression

from mvkit.scoring import protocol
from mvkit.scoring.correlation import Drop, correct_for_noise
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import SplitHalfScores, halves_of, image_splits, trial_orders
from mvkit.scoring.settings import ScoreSettings

Simulate = Callable[..., tuple[Any, Any]]


def score(features: Any, responses: Any, *, n_halves: int = 6, **options: Any) -> SplitHalfScores:
    settings = ScoreSettings(n_splits=2, n_halves=n_halves, n_components=8, **options)
    splits = image_splits(responses.shape[1], n_splits=2, train_fraction=0.5)
    layer = layer_coordinates("a", features)
    layers = [[split_coordinates(layer, split, settings.n_components) for split in splits]]
    members = halves_of(trial_orders(responses.shape[0], n_halves=n_halves))
    return MAPPINGS["pls"].score(responses, members, splits, layers, settings)[0]


@pytest.mark.parametrize("n_trials", [20, 21])
def test_against_a_plain_loop(noisy_linear: Simulate, n_trials: int) -> None:
    """The protocol written out with scikit-learn and scipy, including missing trials."""
    features, responses = noisy_linear(n_trials=n_trials, n_units=5)
    responses[np.random.default_rng(1).random(responses.shape[:2]) < 0.1] = np.nan
    found = score(features, responses, parity=True)
    for s, split in enumerate(image_splits(118, n_splits=2, train_fraction=0.5)):
        for b in range(6):
            order = list(range(n_trials))
            np.random.RandomState(b).shuffle(order)
            halves = [order[: n_trials // 2], order[n_trials // 2 :]]
            means = [np.nanmean(responses[half], axis=0) for half in halves]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                first, second = (
                    PLSRegression(8, scale=False)
                    .fit(features[split.train], mean[split.train])
                    .predict(features[split.test])
                    for mean in means
                )
            for unit in range(5):
                r_map = pearsonr(first[:, unit], second[:, unit])[0]
                r_target = pearsonr(means[0][split.test, unit], means[1][split.test, unit])[0]
                r_cross = pearsonr(first[:, unit], means[1][split.test, unit])[0]
                product = (2 * r_map / (1 + r_map)) * (2 * r_target / (1 + r_target))
                assert found.r_map[s, b, unit] == pytest.approx(r_map, abs=1e-9)
                assert found.r_target[s, b, unit] == pytest.approx(r_target, abs=1e-12)
                assert found.r_cross[s, b, unit] == pytest.approx(r_cross, abs=1e-9)
                if product > 0:
                    assert found.scores[s, b, unit] == pytest.approx(r_cross / np.sqrt(product), abs=1e-8)
                else:
                    assert np.isnan(found.scores[s, b, unit])


def test_groups_of_halvings_change_nothing(noisy_linear: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    features, responses = noisy_linear()
    whole = score(features, responses)
    monkeypatch.setattr(protocol, "GROUP_BYTES", 1)
    np.testing.assert_array_equal(score(features, responses).scores, whole.scores)


def test_noise_correction_and_negative_reliabilities() -> None:
    r_cross = np.array([0.4, 0.4, 0.4, 0.4, 0.4, np.nan])
    r_map = np.array([0.5, -0.2, 0.5, -0.2, 0.0, 0.5])
    r_target = np.array([0.6, 0.6, -0.1, -0.1, 0.5, 0.5])
    first = 0.4 / np.sqrt((1.0 / 1.5) * (1.2 / 1.6))
    both = 0.4 / np.sqrt((-0.4 / 0.8) * (-0.2 / 0.9))
    plain = correct_for_noise(r_cross, r_map, r_target, ScoreSettings())
    np.testing.assert_allclose(plain, [first, np.nan, np.nan, np.nan, np.nan, np.nan])
    old = correct_for_noise(r_cross, r_map, r_target, ScoreSettings(parity=True))
    np.testing.assert_allclose(old, [first, np.nan, np.nan, both, np.inf, np.nan])


def test_reasons_of_broken_units(noisy_linear: Simulate) -> None:
    features, responses = noisy_linear(noise=0.3)
    broken = responses.copy()
    broken[:, :, 0] = 2.5  # silent
    broken[1:, 31, 3] = np.nan  # one valid trial for image 31
    found = score(features, broken)
    assert (found.drops[:, :, 0] == Drop.CONSTANT_RESPONSE).all()
    assert (found.drops[:, :, 3] == Drop.NO_TRIAL).all()
    np.testing.assert_array_equal(found.missing_image, [-1, -1, -1, 31, -1, -1])
    assert np.isnan(found.scores[:, :, [0, 3]]).all()
    assert (found.drops[:, :, [1, 2, 4, 5]] == Drop.KEPT).all()
    # a unit missing from one half only still takes part in the other half's fit, so others shift slightly
    whole = score(features, np.delete(broken, [0, 3], axis=2))
    np.testing.assert_allclose(found.scores[:, :, [1, 2, 4, 5]], whole.scores, atol=0.05)
    np.testing.assert_allclose(found.r_target[:, :, [1, 2, 4, 5]], whole.r_target, rtol=0, atol=1e-12)


def test_reasons_of_unrelated_responses() -> None:
    rng = np.random.default_rng(3)
    features, responses = rng.standard_normal((118, 50)), rng.standard_normal((10, 118, 40))
    found = score(features, responses)
    first, second = found.r_map < 0, found.r_target < 0
    np.testing.assert_array_equal(found.drops == Drop.NEGATIVE_BOTH, first & second)
    np.testing.assert_array_equal(found.drops == Drop.NEGATIVE_MAP, first & ~second)
    np.testing.assert_array_equal(found.drops == Drop.NEGATIVE_RESPONSE, ~first & second)
    np.testing.assert_array_equal(found.drops == Drop.KEPT, ~first & ~second)
    np.testing.assert_array_equal(np.isnan(found.scores), found.drops != Drop.KEPT)
    assert set(np.unique(found.drops)) == {0, Drop.NEGATIVE_BOTH, Drop.NEGATIVE_MAP, Drop.NEGATIVE_RESPONSE}
    old = score(features, responses, parity=True)
    np.testing.assert_array_equal(np.isfinite(old.scores), first == second)


def test_layer_that_cannot_be_mapped_is_nan_without_stopping(noisy_linear: Simulate) -> None:
    _, responses = noisy_linear()
    found = score(np.ones((118, 50)), responses)
    assert np.isnan(found.scores).all() and np.isnan(found.r_cross).all()
    assert (found.drops == Drop.CONSTANT_PREDICTION).all()
    assert np.isfinite(found.r_target).all()


def test_one_trial_leaves_one_half_empty(noisy_linear: Simulate) -> None:
    features, responses = noisy_linear(n_trials=1)
    found = score(features, responses)
    assert (found.drops == Drop.NO_TRIAL).all() and (found.missing_image == 0).all()
