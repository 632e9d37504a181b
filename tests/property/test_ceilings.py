"""Scores between animals over shapes: few and many units, unequal trials, missing ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from mvkit.scoring.ceilings import PairSize, draw_pair, score_pair
from mvkit.scoring.protocol import image_splits
from mvkit.scoring.settings import ScoreSettings

N_IMAGES = 16


def correlation(x: Any, y: Any) -> float:
    return float(np.corrcoef(x, y)[0, 1])


@given(
    n_target=st.integers(1, 4),
    n_source=st.sampled_from([1, 3, 7, 8, 40]),
    trials=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    dtype=st.sampled_from([np.float32, np.float64]),
    n_missing=st.integers(0, 6),
    n_constant=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=20, deadline=None)
def test_ridge_between_animals_is_scikit_learns(
    n_target: int,
    n_source: int,
    trials: tuple[int, int],
    dtype: type,
    n_missing: int,
    n_constant: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((N_IMAGES, 2))
    target, source = (
        (latents @ rng.standard_normal((2, n)) + rng.standard_normal((count, N_IMAGES, n))).astype(dtype)
        for n, count in zip((n_target, n_source), trials, strict=True)
    )
    source[:, :, : min(n_constant, n_source - 1)] = 2.0
    for responses in (target, source):
        for _ in range(n_missing):
            responses[
                rng.integers(len(responses)), rng.integers(N_IMAGES), rng.integers(responses.shape[2])
            ] = np.nan
    chosen = ScoreSettings(mapping="ridge", n_splits=1, n_halves=2)
    draws = draw_pair(PairSize(*trials, N_IMAGES, n_source, n_source), chosen)
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)
    found = score_pair(target, source, draws, [split], chosen)

    def means(responses: Any, weights: Any) -> Any:
        values = responses[weights > 0].astype(np.float64)
        known = ~np.isnan(values)
        counts = known.sum(axis=0)
        return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)

    sources = [[means(source, draws.source[b, h]) for h in (0, 1)] for b in (0, 1)]
    usable = ~np.isnan(np.array(sources)).any(axis=(0, 1, 2))
    assert found.n_source_units == usable.sum()
    if not usable.any():
        assert found.reason == "no source unit is known for every image"
        return
    for halving in (0, 1):
        targets = [means(target, draws.target[halving, half]) for half in (0, 1)]
        for unit in range(n_target):
            if np.isnan(targets)[:, :, unit].any():
                assert np.isnan(found.halves.scores[0, halving, unit])
                continue
            first, second = (
                Ridge(1.0)
                .fit(x[split.train][:, usable], y[split.train, unit])
                .predict(x[split.test][:, usable])
                for x, y in zip(sources[halving], targets, strict=True)
            )
            if min(np.ptp(first), np.ptp(second)) < 1e-6:
                continue  # only constant units are left to predict from
            parts = found.halves
            expected = correlation(first, targets[1][split.test, unit])
            np.testing.assert_allclose(parts.r_cross[0, halving, unit], expected, rtol=0, atol=1e-8)
            np.testing.assert_allclose(
                parts.r_map[0, halving, unit], correlation(first, second), rtol=0, atol=1e-8
            )
