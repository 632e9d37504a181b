"""Splits and halvings."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.scoring.protocol import halves_of, image_splits, trial_orders, trial_orders_in_sequence


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
