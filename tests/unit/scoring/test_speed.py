"""How long this machine takes to score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mvkit.neural import Recording
from mvkit.scoring.gram import BLOCK_FEATURES
from mvkit.scoring.settings import resolve_settings
from mvkit.scoring.speed import Speed, measure_speed, sample_features

SPEED = Speed(feature_s=2.0**-20, wide_feature_s=2.0**-21, split_s=0.25, halving_s=0.5, unit_s=0.125)


def test_maps_that_look_at_every_feature_take_longer_for_wide_layers() -> None:
    wide = replace(SPEED, n_features=100)
    assert wide.fits(300, 8, n_splits=1, n_halves=1) == 3 * wide.fits(100, 8, n_splits=1, n_halves=1)
    assert SPEED.fits(300, 8, n_splits=1, n_halves=1) == SPEED.fits(100, 8, n_splits=1, n_halves=1)
    assert SPEED.preparing(2 * BLOCK_FEATURES, 0) == SPEED.preparing(BLOCK_FEATURES, 0)


@pytest.mark.parametrize("mapping", ["pls", "ridge", "one-to-one", "lasso", "rsa", "cka"])
def test_this_machine_is_measured(mapping: str) -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (12, 8, 8), dtype=np.uint8)
    recordings = [
        Recording(
            area="VISp",
            specimen=n_units,
            unit_ids=np.arange(n_units),
            responses=rng.normal(size=(8, 12, n_units)).astype(np.float32),
        )
        for n_units in (5, 7)
    ]
    settings = resolve_settings(mapping=mapping, n_components=2, n_halves=2, n_splits=2)
    ticks = iter(range(10**6))
    speed = measure_speed(images, recordings, [20], settings, clock=lambda: float(next(ticks)))
    # Every measurement takes one tick of this clock; all units are few.
    assert (speed.halving_s, speed.unit_s) == (0.0, 1.0 / 7)
    assert speed.preparing(20, 1) in (1.0, 2.0)
    assert speed.n_features == (20 if mapping in ("one-to-one", "lasso") else None)


def test_a_sample_of_features_has_no_two_equal() -> None:
    images = np.zeros((3, 4, 4), np.uint8)
    features = sample_features(images, 40)
    assert features.shape == (3, 40)
    assert np.unique(features, axis=1).shape[1] == 40
    ramp = np.arange(32, dtype=np.uint8).reshape(2, 16)
    np.testing.assert_allclose(sample_features(ramp, 2), [[0, 15], [16, 31]], atol=0.2)
