"""Hierarchical bootstrap: by arithmetic, against numpy's medians, and against numpy's own draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mvkit.errors import DataError
from mvkit.scoring.intervals import (
    Draws,
    medians_of_counts,
    resampled_column_medians,
    resampled_counts,
    resampled_medians,
)


def test_medians_of_counts_are_those_of_repeated_values() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(3, 31))
    columns[1] = np.round(columns[1])  # ties
    counts = rng.integers(0, 4, size=(50, 31)).astype(np.int32)
    expected = [[np.median(np.repeat(row, times)) for times in counts] for row in columns]
    np.testing.assert_array_equal(medians_of_counts(columns, counts), expected)


def test_animals_come_whole_and_with_as_many_units_as_they_have() -> None:
    sizes = np.array([3, 1, 7])
    counts = resampled_counts(sizes, n_resamples=3000, seed=5)
    of_animals = np.add.reduceat(counts, [0, 3, 4], axis=1)
    times, rest = np.divmod(of_animals, sizes)
    assert not rest.any() and (times.sum(axis=1) == 3).all()
    # Each animal is drawn Binomial(3, 1/3) times: mean 1, variance 2/3.
    np.testing.assert_allclose(times.mean(axis=0), 1.0, atol=5 * np.sqrt(2 / 3 / 3000))
    np.testing.assert_allclose(times.var(axis=0), 2 / 3, atol=0.08)
    # Units of an animal are drawn evenly.
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.12)


def test_spread_is_that_of_a_plain_loop_with_numpy() -> None:
    rng = np.random.default_rng(1)
    animals = np.repeat([4, 9, 2, 7], [30, 10, 25, 15])
    values = rng.normal(size=80) + 0.5 * rng.normal(size=10)[animals]
    found = resampled_medians(values, animals, n_resamples=4000, seed=0)
    labels = np.unique(animals)
    plain = []
    for _ in range(4000):
        units = [values[animals == animal] for animal in rng.choice(labels, labels.size)]
        plain.append(np.median(np.concatenate([rng.choice(part, part.size) for part in units])))
    # Kolmogorov and Smirnov's distance of two samples of 4000 exceeds .044 once in 1000 times.
    assert stats.ks_2samp(found, plain).statistic < 0.044
    assert np.std(found) == pytest.approx(np.std(plain), rel=0.06)


def test_columns_share_their_draws_and_gaps() -> None:
    rng = np.random.default_rng(2)
    animals = np.repeat([1, 2, 3], 12)
    first = rng.normal(size=36)
    gap = first.copy()
    gap[5] = np.nan
    medians = resampled_column_medians(np.stack([first, 2 * gap + 1]), animals, n_resamples=200, seed=3)
    np.testing.assert_allclose(medians[1], 2 * medians[0] + 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(medians[0], resampled_medians(gap, animals, n_resamples=200, seed=3))


def test_seeds_and_kept_draws() -> None:
    values, animals = np.arange(20.0), np.repeat([0, 1], 10)
    first, again, other = (
        resampled_medians(values, animals, n_resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    sizes = np.array([10, 10])
    draws = Draws(n_resamples=100, seed=1)
    assert draws.counts(sizes) is draws.counts(sizes.copy())
    np.testing.assert_array_equal(draws.counts(sizes), resampled_counts(sizes, n_resamples=100, seed=1))


def test_nothing_gives_nan_and_wrong_shapes_are_refused() -> None:
    assert np.isnan(resampled_medians(np.full(3, np.nan), np.arange(3), n_resamples=5, seed=0)).all()
    with pytest.raises(DataError, match=r"animals of shape \(4,\)"):
        resampled_medians(np.zeros(3), np.arange(4), n_resamples=5, seed=0)
