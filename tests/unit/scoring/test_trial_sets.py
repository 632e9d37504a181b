"""Ways of drawing the two sets of trials of a halving."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from mvkit.scoring import ScoreSettings, response_reliability
from mvkit.scoring.protocol import DRAWS, draw_split_half, halves_of, split_half_weights, trial_orders
from mvkit.scoring.settings import Halving

HALVINGS = get_args(Halving)


def test_every_way_that_settings_name_has_a_row() -> None:
    assert tuple(DRAWS) == HALVINGS


@pytest.mark.parametrize(
    ("halving", "sizes"),
    [
        ("split-half", (4, 5)),
        ("bootstrap", (9, 9)),
        ("bootstrap-full-mean", (9, 9)),
        ("subsample-half", (4, 5)),
        ("subsample-half-replacement", (4, 4)),
    ],
)
@pytest.mark.parametrize("n_images", [None, 6])
def test_sizes_of_sets(halving: Halving, sizes: tuple[int, int], n_images: int | None) -> None:
    generator = np.random.RandomState(3)
    weights = np.stack([draw_split_half(generator, 9, halving, n_images=n_images) for _ in range(50)])
    assert (weights.sum(axis=2) == np.reshape(sizes, (1, 2, *[1] * (weights.ndim - 3)))).all()
    replaced = halving.startswith("bootstrap") or halving.endswith("replacement")
    assert (weights[:, 0].max() > 1) == replaced
    assert (weights[:, 1] == 1).all() == (halving == "bootstrap-full-mean")
    disjoint = ((weights[:, 0] > 0) & (weights[:, 1] > 0)).sum() == 0
    assert disjoint == (halving == "split-half")


@pytest.mark.parametrize("halving", HALVINGS)
@pytest.mark.parametrize("synchronous", [True, False])
def test_every_halving_has_its_own_seed(halving: Halving, synchronous: bool) -> None:
    settings = ScoreSettings(halving=halving, synchronous=synchronous, n_halves=4, halves_seed=11)
    weights = split_half_weights(8, 5, settings)
    assert weights.shape == ((4, 2, 8) if synchronous else (4, 2, 8, 5))
    for index in range(4):
        generator = np.random.RandomState(11 + index)
        drawn = draw_split_half(generator, 8, halving, n_images=None if synchronous else 5)
        np.testing.assert_array_equal(weights[index], drawn)
    if not synchronous:
        # The first image's draw is the one that would serve all images.
        together = split_half_weights(8, 5, settings.model_copy(update={"synchronous": True}))
        np.testing.assert_array_equal(weights[..., 0], together)
        assert (weights[..., 1:] != weights[..., :1]).any()


def test_default_halvings_are_the_shuffled_halves() -> None:
    weights = split_half_weights(7, 3, ScoreSettings(n_halves=5, halves_seed=2))
    np.testing.assert_array_equal(weights, halves_of(trial_orders(7, n_halves=5, seed=2)))


def shared(weights: np.ndarray, one: int, other: int) -> np.ndarray:
    """Sum over trials of w1 w2, weights summing to 1: the share of one trial's noise variance in common."""
    first, second = (
        weights[:, which] / weights[:, which].sum(axis=1, keepdims=True) for which in (one, other)
    )
    return (first * second).sum(axis=1)


@pytest.mark.parametrize("halving", HALVINGS)
def test_noise_in_common_is_what_arithmetic_says(halving: Any) -> None:
    n, m = 20, 10
    weights = split_half_weights(n, 1, ScoreSettings(halving=halving, n_halves=4000))

    def resampled(size: int) -> float:
        return 1 / size + (1 - 1 / size) / n

    own, common = {
        "split-half": ((1 / m, 1 / m), 0.0),
        "bootstrap": ((resampled(n), resampled(n)), 1 / n),
        "bootstrap-full-mean": ((resampled(n), 1 / n), 1 / n),
        "subsample-half": ((1 / m, 1 / m), 1 / n),
        "subsample-half-replacement": ((resampled(m), resampled(m)), 1 / n),
    }[halving]
    assert shared(weights, 0, 0).mean() == pytest.approx(own[0], abs=0.001)
    assert shared(weights, 1, 1).mean() == pytest.approx(own[1], abs=0.001)
    assert shared(weights, 0, 1).mean() == pytest.approx(common, abs=0.001)


@pytest.mark.parametrize("halving", HALVINGS)
@pytest.mark.parametrize("synchronous", [True, False])
def test_reliability_follows_from_the_noise_in_common(halving: Any, synchronous: bool) -> None:
    """Signal variance 1 and noise variance s^2 in every trial, so that r is known from the weights alone."""
    n_trials, n_images, n_units, noise = 20, 600, 20, 16.0
    rng = np.random.default_rng(5)
    signal = rng.standard_normal((n_images, n_units))
    responses = signal + np.sqrt(noise) * rng.standard_normal((n_trials, n_images, n_units))
    settings = ScoreSettings(halving=halving, synchronous=synchronous, n_halves=6)
    weights = split_half_weights(n_trials, n_images, settings)
    first, second, common = (
        1 + noise * shared(weights, *pair).reshape(6, -1).mean(axis=1) for pair in ((0, 0), (1, 1), (0, 1))
    )
    expected = common / np.sqrt(first * second)
    if not halving.startswith("bootstrap"):
        expected = 2 * expected / (1 + expected)
    found = response_reliability(responses, settings).mean(axis=1)
    # 20 units x 600 images: a standard error of about 0.006.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.03)
