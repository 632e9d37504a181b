"""Splits of the images, split halves of the trials, and scores of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.cross_decomposition import PLSRegression

from mvkit.errors import UsageError
from mvkit.scoring import ScoreSettings, maps, protocol, response_reliability
from mvkit.scoring.correlation import ExclusionReason, correct_for_noise
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.pls import project_targets
from mvkit.scoring.protocol import (
    SplitHalfScores,
    draw_split_half,
    half_means,
    halves_of,
    image_splits,
    split_half_weights,
    trial_orders,
    trial_orders_in_sequence,
)
from mvkit.scoring.settings import Halving


@pytest.mark.parametrize(("n_images", "fraction", "n_train"), [(118, 0.5, 59), (118, 0.3, 36), (7, 0.5, 4)])
def test_training_images_are_rounded_up(n_images: int, fraction: float, n_train: int) -> None:
    for split in image_splits(n_images, n_splits=3, train_fraction=fraction, seed=5):
        assert len(split.train) == n_train
        assert sorted([*split.train, *split.test]) == list(range(n_images))


def test_split_seed_is_added_to_the_number_of_the_split() -> None:
    first, second = image_splits(20, n_splits=2, train_fraction=0.5, seed=3)
    np.testing.assert_array_equal(first.train, np.random.RandomState(3).permutation(20)[:10])
    np.testing.assert_array_equal(second.test, np.random.RandomState(4).permutation(20)[10:])


@pytest.mark.parametrize(("n_images", "fraction"), [(3, 0.5), (118, 0.995), (118, 0.001)])
def test_a_side_with_fewer_than_two_images_is_refused(n_images: int, fraction: float) -> None:
    with pytest.raises(UsageError, match="at least two are needed"):
        image_splits(n_images, n_splits=1, train_fraction=fraction)


def test_orders_are_shuffled_lists() -> None:
    expected = list(range(9))
    np.random.RandomState(6).shuffle(expected)
    assert trial_orders(9, n_halves=2, seed=5)[1].tolist() == expected


def test_sequence_draws_from_one_generator() -> None:
    generator = np.random.RandomState(2)
    for order in trial_orders_in_sequence(9, n_halves=3, seed=2):
        expected = list(range(9))
        generator.shuffle(expected)
        assert order.tolist() == expected


def test_second_half_takes_the_odd_trial() -> None:
    orders = trial_orders(7, n_halves=4)
    members = halves_of(orders)
    np.testing.assert_array_equal(members.sum(axis=2), [[3, 4]] * 4)
    assert (members[:, 0] ^ members[:, 1]).all()
    assert set(np.flatnonzero(members[2, 0])) == set(orders[2, :3])


HALVINGS = get_args(Halving)


#: Way of drawing -> trials in the two sets, of nine.
SIZES = {
    "split-half": (4, 5),
    "bootstrap": (9, 9),
    "bootstrap-full-mean": (9, 9),
    "subsample-half": (4, 5),
    "subsample-half-replacement": (4, 4),
}


def test_every_way_that_settings_name_is_drawn_below() -> None:
    assert tuple(SIZES) == HALVINGS


@pytest.mark.parametrize(("halving", "sizes"), SIZES.items())
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
def test_every_pair_of_halves_has_its_own_seed(halving: Halving, synchronous: bool) -> None:
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


def test_default_split_halves_are_the_shuffled_halves() -> None:
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


def test_means_ignore_missing_trials() -> None:
    rng = np.random.default_rng(0)
    responses = rng.poisson(3.0, (9, 11, 5)).astype(np.float32)
    responses[rng.random(responses.shape) < 0.3] = np.nan
    responses[1:, 4, 2] = np.nan  # one valid trial, so one half has none
    responses[0, 4, 2] = 7.0
    members = halves_of(trial_orders(9, n_halves=6))
    means = half_means(responses, members)
    assert means.shape == (6, 2, 11, 5)
    for halving in range(6):
        for half in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                expected = np.nanmean(responses[members[halving, half]].astype(np.float64), axis=0)
            np.testing.assert_allclose(means[halving, half], expected, rtol=1e-14)
    assert np.isnan(means[:, :, 4, 2]).sum() == 6


def test_complete_recordings_give_plain_means() -> None:
    responses = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    members = halves_of(np.array([[3, 1, 0, 2]]))
    np.testing.assert_array_equal(half_means(responses, members)[0, 0], (responses[3] + responses[1]) / 2)
    np.testing.assert_array_equal(half_means(responses, members)[0, 1], (responses[0] + responses[2]) / 2)


Simulate = Callable[..., tuple[Any, Any]]


def score(features: Any, responses: Any, *, n_halves: int = 6, **options: Any) -> SplitHalfScores:
    settings = ScoreSettings(n_splits=2, n_halves=n_halves, n_components=8, **options)
    splits = image_splits(responses.shape[1], n_splits=2, train_fraction=0.5)
    layer = layer_coordinates("a", features)
    layers = [[split_coordinates(layer, split, settings.n_components) for split in splits]]
    members = halves_of(trial_orders(responses.shape[0], n_halves=n_halves))
    return MAPPINGS["pls"].score(responses, members, splits, layers, settings)[0]


@pytest.mark.parametrize(("n_trials", "projects"), [(20, False), (21, False), (10, True), (11, True)])
def test_against_a_plain_loop(
    noisy_linear: Simulate, n_trials: int, projects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protocol written out with scikit-learn and scipy, including missing trials."""
    features, responses = noisy_linear(n_trials=n_trials, n_units=5)
    if projects:
        monkeypatch.setattr(protocol, "MANY_TO_PROJECT", 1)
    else:
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


def test_groups_of_split_halves_change_nothing(
    noisy_linear: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, responses = noisy_linear()
    whole = score(features, responses)
    monkeypatch.setattr(protocol, "GROUP_BYTES", 1)
    np.testing.assert_array_equal(score(features, responses).scores, whole.scores)


def test_projected_trials_give_the_scores_of_projected_halves(
    noisy_linear: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, responses = noisy_linear(n_trials=9, n_units=6)
    responses[:, :, 1] = 0.0
    responses[:4, :, 2] = 3.0
    responses[:, :, 3] += 100.0
    expected = score(features, responses)
    shapes: list[tuple[int, ...]] = []

    def counted(targets: Any, coordinates: Any) -> Any:
        shapes.append(targets.shape)
        return project_targets(targets, coordinates)

    monkeypatch.setattr(maps, "project_targets", counted)
    monkeypatch.setattr(protocol, "MANY_TO_PROJECT", 59)
    names = ("r_cross", "r_map", "r_target", "scores")
    for room in (protocol.PROJECTED_BYTES, 8 * responses[:, :59].size):  # for all splits, for one at a time
        monkeypatch.setattr(protocol, "PROJECTED_BYTES", room)
        found = score(features, responses)
        for name in names:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(found.exclusions, expected.exclusions)
    assert shapes == 4 * [(9, 59, 6)]
    # Halves are projected where there is no room, where they are fewer, and where responses are missing.
    monkeypatch.setattr(protocol, "PROJECTED_BYTES", room - 1)
    np.testing.assert_array_equal(score(features, responses).scores, expected.scores)
    monkeypatch.setattr(protocol, "PROJECTED_BYTES", room)
    score(features, responses, n_halves=4)
    responses[0, 0] = np.nan
    score(features, responses)
    assert len(shapes) == 4


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
    assert (found.exclusions[:, :, 0] == ExclusionReason.CONSTANT_RESPONSE).all()
    assert (found.exclusions[:, :, 3] == ExclusionReason.NO_TRIAL).all()
    np.testing.assert_array_equal(found.missing_image, [-1, -1, -1, 31, -1, -1])
    assert np.isnan(found.scores[:, :, [0, 3]]).all()
    assert (found.exclusions[:, :, [1, 2, 4, 5]] == ExclusionReason.NONE).all()
    # a unit missing from one half only still takes part in the other half's fit, so others shift slightly
    whole = score(features, np.delete(broken, [0, 3], axis=2))
    np.testing.assert_allclose(found.scores[:, :, [1, 2, 4, 5]], whole.scores, atol=0.05)
    np.testing.assert_allclose(found.r_target[:, :, [1, 2, 4, 5]], whole.r_target, rtol=0, atol=1e-12)


def test_reasons_of_unrelated_responses() -> None:
    rng = np.random.default_rng(3)
    features, responses = rng.standard_normal((118, 50)), rng.standard_normal((10, 118, 40))
    found = score(features, responses)
    first, second = found.r_map < 0, found.r_target < 0
    np.testing.assert_array_equal(found.exclusions == ExclusionReason.NEGATIVE_BOTH, first & second)
    np.testing.assert_array_equal(found.exclusions == ExclusionReason.NEGATIVE_MAP, first & ~second)
    np.testing.assert_array_equal(found.exclusions == ExclusionReason.NEGATIVE_RESPONSE, ~first & second)
    np.testing.assert_array_equal(found.exclusions == ExclusionReason.NONE, ~first & ~second)
    np.testing.assert_array_equal(np.isnan(found.scores), found.exclusions != ExclusionReason.NONE)
    assert set(np.unique(found.exclusions)) == {
        0,
        ExclusionReason.NEGATIVE_BOTH,
        ExclusionReason.NEGATIVE_MAP,
        ExclusionReason.NEGATIVE_RESPONSE,
    }
    old = score(features, responses, parity=True)
    np.testing.assert_array_equal(np.isfinite(old.scores), first == second)


def test_layer_that_cannot_be_mapped_is_nan_without_stopping(noisy_linear: Simulate) -> None:
    _, responses = noisy_linear()
    found = score(np.ones((118, 50)), responses)
    assert np.isnan(found.scores).all() and np.isnan(found.r_cross).all()
    assert (found.exclusions == ExclusionReason.CONSTANT_PREDICTION).all()
    assert np.isfinite(found.r_target).all()


def test_one_trial_leaves_one_half_empty(noisy_linear: Simulate) -> None:
    features, responses = noisy_linear(n_trials=1)
    found = score(features, responses)
    assert (found.exclusions == ExclusionReason.NO_TRIAL).all() and (found.missing_image == 0).all()
