"""Intervals over animals and units, and the resamples they come from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mvkit.errors import DataError
from mvkit.scoring import ScoreSettings, intervals
from mvkit.scoring.intervals import (
    MEDIAN,
    NO_UNITS,
    few_animals,
    median_interval,
    medians_of_counts,
    p_value,
    resampled_column_medians,
    resampled_counts,
    standard_error,
    statistic_interval,
)

SETTINGS = ScoreSettings(n_resamples=400)


def test_equal_numbers_of_units_give_the_t_interval_of_animal_medians() -> None:
    rng = np.random.default_rng(0)
    animals = np.repeat(np.arange(5), 21)
    values = rng.normal(size=105) + rng.normal(size=5)[animals]
    medians = np.median(values.reshape(5, 21), axis=1)
    expected = 2 * stats.t.ppf(0.975, 4) * stats.sem(medians)
    found = median_interval(values, animals, SETTINGS)
    assert found.high - found.low == pytest.approx(expected, rel=1e-12)
    assert found.low < np.median(values) < found.high
    assert (found.n_units, found.n_animals, found.reason) == (105, 5, "")
    narrower = median_interval(values, animals, ScoreSettings(n_resamples=400, confidence=0.8))
    assert narrower.high - narrower.low == pytest.approx(
        2 * stats.t.ppf(0.9, 4) * stats.sem(medians), rel=1e-12
    )


def test_one_unit_per_animal_gives_the_t_interval_of_the_values() -> None:
    values = np.array([0.1, 0.5, 0.3, 0.4])
    found = median_interval(values, np.arange(4), SETTINGS)
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 3) * stats.sem(values), rel=1e-12)


def test_animals_that_differ_much_more_than_units_count_by_their_units() -> None:
    # With all variance between animals, var(sum w_a y_a) = var(y) sum(w_a^2).
    values = np.repeat([0.0, 1.0, 5.0], [10, 20, 50])
    sizes = np.array([10, 20, 50])
    expected = math.sqrt(np.var([0.0, 1.0, 5.0], ddof=1) * ((sizes / 80) ** 2).sum())
    assert standard_error(values[None], sizes, np.ones(1)) == pytest.approx(expected, rel=1e-12)


def test_without_three_animals_there_is_a_reason_and_no_number() -> None:
    two = median_interval(np.array([0.1, 0.2, 0.4]), np.array([7, 7, 8]), SETTINGS)
    assert math.isnan(two.low) and math.isnan(two.high)
    assert (two.n_units, two.n_animals, two.reason) == (3, 2, "2 animals: no interval")
    one = median_interval(np.array([0.1, 0.2, np.nan]), np.array([7, 7, 8]), SETTINGS)
    assert math.isnan(one.low) and math.isnan(one.high)
    assert (one.n_units, one.n_animals, one.reason) == (2, 1, few_animals(1))
    none = median_interval(np.full(2, np.nan), np.array([7, 8]), SETTINGS)
    assert (none.n_units, none.n_animals, none.reason) == (0, 0, NO_UNITS)
    assert math.isnan(p_value(0.15, one, SETTINGS))


def test_equal_values_give_an_interval_of_no_width() -> None:
    found = median_interval(np.full(30, 0.4), np.repeat([1, 2, 3], 10), SETTINGS)
    assert (found.low, found.high) == (0.4, 0.4)
    assert p_value(0.4, found, SETTINGS) == 0.0 and p_value(0.0, found, SETTINGS) == 1.0


def test_p_is_below_the_level_where_the_interval_excludes_zero() -> None:
    rng = np.random.default_rng(3)
    animals = np.repeat(np.arange(4), [10, 20, 30, 40])
    outside = 0
    for shift in np.linspace(-0.3, 0.3, 41):
        values = shift + 0.2 * rng.normal(size=100) + 0.05 * rng.normal(size=4)[animals]
        found = median_interval(values, animals, SETTINGS)
        p = p_value(float(np.median(values)), found, SETTINGS)
        assert (p < 0.05) == (found.low > 0.0 or found.high < 0.0)
        outside += p < 0.05
    assert 5 < outside < 36


def test_a_symmetric_interval_has_the_p_of_the_t_test() -> None:
    # Two animals mirrored about their middle: bootstrap medians are symmetric up to the luck of the draws.
    values = np.concatenate([np.linspace(0.0, 1.0, 51), np.linspace(0.5, 1.5, 51), np.linspace(1.0, 2.0, 51)])
    animals = np.repeat([0, 1, 2], 51)
    settings = ScoreSettings(n_resamples=20000)
    found = median_interval(values, animals, settings)
    expected = stats.ttest_1samp([0.5, 1.0, 1.5], 0.0).pvalue
    assert p_value(1.0, found, settings) == pytest.approx(expected, rel=0.1)


def test_shared_draws_change_nothing() -> None:
    values, animals = np.arange(40.0) ** 2, np.repeat([1, 2, 3, 4], 10)
    intervals._shared.clear()
    alone = median_interval(values, animals, SETTINGS)
    assert len(intervals._shared) == 1
    assert [median_interval(values, animals, SETTINGS) for _ in range(2)] == [alone, alone]
    assert statistic_interval(values[None], animals, MEDIAN, SETTINGS) == alone


def test_levels_of_areas_are_no_differences_between_animals() -> None:
    # Four animals without effects of their own; the first two have most units in an area of high scores.
    rng = np.random.default_rng(0)
    cells = [
        (animal, area, 40 if (animal < 2) == (area == 0) else 10) for animal in range(4) for area in (0, 1)
    ]
    animals, areas = (
        np.repeat([cell[part] for cell in cells], [cell[2] for cell in cells]) for part in (0, 1)
    )
    noise = 0.2 * rng.normal(size=200)
    level = np.where(areas == 0, 0.3, -0.3)
    flat = median_interval(noise, animals, SETTINGS)
    told = median_interval(noise + level, animals, SETTINGS, areas=areas)
    untold = median_interval(noise + level, animals, SETTINGS)
    assert told.high - told.low < 3 * (flat.high - flat.low) < untold.high - untold.low


def test_areas_that_share_no_animal_keep_their_difference() -> None:
    rng = np.random.default_rng(1)
    animals = np.repeat([0, 1, 2], 20)
    values = rng.normal(size=60) + animals
    apart = median_interval(values, animals, SETTINGS, areas=animals)
    assert apart == median_interval(values, animals, SETTINGS)


def _skewed(rng: np.random.Generator, n_units: int) -> NDArray[np.float64]:
    """Scores of standard deviation .2, skewed to the right; their median is that of a gamma distribution."""
    return 0.2 * (rng.gamma(2.0, size=n_units) - stats.gamma.ppf(0.5, 2.0)) / math.sqrt(2.0)


def _covered(
    n_animals: int, effects: float, draw: Callable[[np.random.Generator, int], NDArray[np.float64]]
) -> float:
    """Share of 200 simulated data sets whose interval holds the true median, 0."""
    rng = np.random.default_rng(n_animals)
    hits = 0
    for _ in range(200):
        sizes = np.round(np.exp(rng.uniform(np.log(10), np.log(150), n_animals))).astype(int)
        animals = np.repeat(np.arange(n_animals), sizes)
        values = draw(rng, len(animals)) + effects * rng.normal(size=n_animals)[animals]
        found = median_interval(values, animals, ScoreSettings(n_resamples=200))
        hits += found.low <= 0.0 <= found.high
    return hits / 200


@pytest.mark.parametrize("n_animals", [3, 6])
@pytest.mark.parametrize(
    ("effects", "draw"),
    # With animal effects the distribution must be symmetric for the true median to stay 0.
    [
        (0.0, _skewed),
        (0.05, lambda rng, n: 0.2 * rng.normal(size=n)),
        (0.1, lambda rng, n: 0.2 * rng.normal(size=n)),
    ],
    ids=["none", "small", "large"],
)
def test_intervals_hold_the_truth_in_95_of_100_cases(
    n_animals: int, effects: float, draw: Callable[[np.random.Generator, int], NDArray[np.float64]]
) -> None:
    # Binomial(200, .95): 3 standard deviations are .046. The plain hierarchical bootstrap covers 80 to 99 %.
    assert 0.904 <= _covered(n_animals, effects, draw) <= 0.996


def test_medians_of_counts_are_those_of_repeated_values() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(3, 31))
    columns[1] = np.round(columns[1])  # ties
    counts = rng.integers(0, 4, size=(50, 31)).astype(np.uint16)
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


def test_draws_are_those_of_splitmix64_in_whole_numbers() -> None:
    mask, step = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(state: int) -> int:
        word = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        word = (word ^ word >> 27) * 0x94D049BB133111EB & mask
        return word ^ word >> 31

    state = mix(7 + step)

    def draw(below: int) -> int:
        nonlocal state
        state = state + step & mask
        return (mix(state) >> 32) * below >> 32

    sizes, starts = [3, 1, 70], [0, 3, 4]
    expected = np.zeros((20, 74), np.uint16)
    for resample in expected:
        for _ in sizes:
            animal = draw(3)
            for _ in range(sizes[animal]):
                resample[starts[animal] + draw(sizes[animal])] += 1
    np.testing.assert_array_equal(resampled_counts(np.array(sizes), n_resamples=20, seed=7), expected)


def test_spread_is_that_of_a_plain_loop_with_numpy() -> None:
    rng = np.random.default_rng(1)
    animals = np.repeat([4, 9, 2, 7], [30, 10, 25, 15])
    values = rng.normal(size=80) + 0.5 * rng.normal(size=10)[animals]
    found = resampled_column_medians(values[None], animals, n_resamples=4000, seed=0)[0]
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
    alone = resampled_column_medians(gap[None], animals, n_resamples=200, seed=3)
    np.testing.assert_array_equal(medians[:1], alone)


def test_seeds_and_shared_draws() -> None:
    values, animals = np.arange(20.0), np.repeat([0, 1], 10)
    first, again, other = (
        resampled_column_medians(values[None], animals, n_resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    sizes = np.array([10, 10])
    settings = ScoreSettings(n_resamples=100, resampling_seed=1)
    shared = intervals._shared_counts(sizes, settings)
    assert intervals._shared_counts(sizes.copy(), settings) is shared
    np.testing.assert_array_equal(shared, resampled_counts(sizes, n_resamples=100, seed=1))
    for other_settings in ({"n_resamples": 101}, {"resampling_seed": 2}):
        changed = settings.model_copy(update=other_settings)
        expected = resampled_counts(sizes, n_resamples=changed.n_resamples, seed=changed.resampling_seed)
        np.testing.assert_array_equal(intervals._shared_counts(sizes, changed), expected)


def test_draws_of_many_sizes_take_no_more_memory_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ScoreSettings(n_resamples=100)
    monkeypatch.setattr(intervals, "_MOST_SHARED", 100 * 70 * 2)
    monkeypatch.setattr(intervals, "_shared", {})
    for n_units in range(20, 40):
        sizes = np.array([n_units, 1])
        expected = resampled_counts(sizes, n_resamples=100, seed=settings.resampling_seed)
        np.testing.assert_array_equal(intervals._shared_counts(sizes, settings), expected)
        assert sum(kept.nbytes for kept in intervals._shared.values()) <= 100 * 70 * 2
    assert len(intervals._shared) == 1
    # What is too large to be kept with others is drawn all the same.
    assert intervals._shared_counts(np.array([99, 1]), settings).shape == (100, 100)


def test_nothing_gives_nan_and_wrong_shapes_are_refused() -> None:
    assert np.isnan(
        resampled_column_medians(np.full((1, 3), np.nan), np.arange(3), n_resamples=5, seed=0)
    ).all()
    with pytest.raises(DataError, match=r"animals of shape \(4,\)"):
        resampled_column_medians(np.zeros((1, 3)), np.arange(4), n_resamples=5, seed=0)
