"""Coarse correlations and their bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mvkit.scoring import ScoreSettings
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.one_to_one import screen_halves, screening_error, unit_rows
from mvkit.scoring.protocol import (
    half_means,
    halves_of,
    image_splits,
    split_half_weights,
    training_targets,
    trial_orders,
)

SPLIT = image_splits(40, n_splits=1, train_fraction=0.5)[0]


def half_targets(n_trials: int, *, n_units: int = 5, n_halves: int = 30, gaps: bool = False) -> Any:
    """Training targets (n_fits, n_train, n_units) of halvings of noisy trials."""
    rng = np.random.default_rng(n_trials)
    responses = 10.0 + rng.standard_normal((40, n_units)) + rng.standard_normal((n_trials, 40, n_units))
    if gaps:
        responses[0, SPLIT.train[3], 2] = np.nan
        responses[:, :, 4] = 1.0
    means = half_means(responses, halves_of(trial_orders(n_trials, n_halves=n_halves)))
    return training_targets(means[:, :, SPLIT.train].reshape(2 * n_halves, 20, n_units))[0]


def columns_of(targets: Any) -> Any:
    return unit_rows(targets.transpose(0, 2, 1).reshape(-1, targets.shape[1]))


@pytest.mark.parametrize("n_images", [2, 10, 59, 1000])
def test_products_in_float32_stay_within_the_bound(n_images: int) -> None:
    """Also for vectors without changes of sign, whose rounding errors add up."""
    rng = np.random.default_rng(n_images)
    for rows in (rng.standard_normal((300, n_images)), rng.uniform(0.5, 1.0, (300, n_images))):
        vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        coarse = vectors.astype(np.float32)
        error = np.abs((coarse @ coarse.T).astype(np.float64) - vectors @ vectors.T).max()
        assert 0.0 < error < screening_error(n_images)


def test_second_halves_follow_where_halves_add_up() -> None:
    whole = screen_halves(half_targets(8), columns_of(half_targets(8)))
    assert whole.direct.size == 30 * 5
    odd = half_targets(9)  # halves of 4 and 5 trials: only the first halving adds up to its own sum
    assert screen_halves(odd, columns_of(odd)).direct.size == (2 * 30 - 1) * 5
    broken = half_targets(8, gaps=True)
    found = screen_halves(broken, columns_of(broken))
    derived = np.setdiff1d(np.arange(2 * 30 * 5), found.direct)
    counts = np.bincount(derived % 5, minlength=5)
    np.testing.assert_array_equal(counts[[0, 1, 3, 4]], [30, 30, 30, 0])
    assert 1 <= counts[2] < 5  # the first halving, and those that happen to be the same one
    assert (derived // 5 % 2 == 1).all()
    assert not np.isin(found.partner[derived], derived).any()


@pytest.mark.parametrize("gaps", [False, True])
def test_what_follows_stays_within_its_bound(gaps: bool) -> None:
    targets = half_targets(8, gaps=gaps)
    columns = columns_of(targets)
    screening = screen_halves(targets, columns)
    features = unit_rows(np.random.default_rng(0).standard_normal((200, 20)))
    exact = columns @ features.T
    products = columns.astype(np.float32) @ features.astype(np.float32).T
    sums = screening.sums @ features.astype(np.float32).T
    for column in screening.direct:
        for about in (column, screening.partner[column]):
            if about < 0:
                continue
            share, weight = screening.share[about], screening.weight[about]
            coarse = share * sums[screening.sum_of[about]] + weight * products[column]
            assert np.abs(coarse - exact[about]).max() < screening.bound[about]
    assert screening.bound.max() < 1e-4


@pytest.mark.parametrize("halving", ["split-half", "bootstrap", "bootstrap-full-mean"])
@pytest.mark.parametrize("n_trials", [2, 8, 9])
def test_fits_in_pairs_choose_what_single_fits_choose(halving: str, n_trials: int) -> None:
    rng = np.random.default_rng(n_trials)
    responses = rng.poisson(2.0, (n_trials, 40, 6)).astype(np.float32)
    responses[0, SPLIT.train[0], 1] = np.nan
    responses[:, SPLIT.train[0], 2] = np.nan
    settings = ScoreSettings(mapping="one-to-one", halving=halving, n_halves=20)
    means = half_means(responses, split_half_weights(n_trials, 40, settings))
    targets = training_targets(means[:, :, SPLIT.train].reshape(40, 20, 6))[0]
    row = MAPPINGS["one-to-one"]
    features = np.round(rng.standard_normal((40, 700)), 1)
    prepared = row.prepare("a", features, [SPLIT], settings)[0]
    together = row.predict(targets, prepared, settings)
    for fit in range(40):
        np.testing.assert_array_equal(
            row.predict(targets[fit : fit + 1], prepared, settings)[0], together[fit]
        )
