"""The order of images: permutations by seed and epoch, shared by processes."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.training.setup import Order


def test_every_epoch_is_another_permutation_of_all_images() -> None:
    order = Order(1000, 10, seed=3)
    first, second = order.permutation(0), order.permutation(1)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first != second).mean() > 0.9
    assert np.array_equal(first, Order(1000, 50, seed=3).permutation(0))
    assert (first != Order(1000, 10, seed=4).permutation(0)).mean() > 0.9


def test_every_image_comes_first_equally_often() -> None:
    places = np.array(
        [Order(8, 8, seed=seed).permutation(epoch) for seed in range(50) for epoch in range(40)]
    )
    for place in range(8):
        counts = np.bincount(places[:, place], minlength=8)
        # 2,000 draws of 8: 250 each, standard deviation 15.
        assert np.abs(counts - 250).max() < 5 * 15


def test_batches_are_cut_from_the_permutation() -> None:
    order = Order(23, 5, seed=0)
    assert order.steps_per_epoch == 4
    joined = np.concatenate(order.batches(2))
    assert np.array_equal(joined, order.permutation(2)[:20])
    rest = order.batches(2, first=3)
    assert len(rest) == 1 and np.array_equal(rest[0], order.permutation(2)[15:20])
    assert [len(batch) for batch in order.batches(2, last=2)] == [5, 5]


def test_the_last_images_may_be_kept() -> None:
    order = Order(23, 5, seed=0, drop_last=False)
    assert [len(batch) for batch in order.batches(0)] == [5, 5, 5, 5, 3]


@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_every_batch_in_rank_order(drop_last: bool) -> None:
    whole = Order(26, 6, seed=1, drop_last=drop_last).batches(4)
    parts = [Order(26, 6, 1, drop_last, rank, 2).batches(4) for rank in range(2)]
    assert len(whole) == (4 if drop_last else 5)
    for batch, own, other in zip(whole, *parts, strict=True):
        assert np.array_equal(np.concatenate([own, other]), batch)
        assert len(own) == len(other)


def test_a_last_batch_is_shared_as_evenly_as_can_be() -> None:
    whole = Order(28, 9, seed=1, drop_last=True).batches(4)
    assert len(whole) == 3
    whole = Order(25, 9, seed=1, drop_last=False).batches(4)
    parts = [Order(25, 9, 1, drop_last=False, rank=rank, size=3).batches(4) for rank in range(3)]
    assert [len(part[-1]) for part in parts] == [2, 2, 3]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert np.array_equal(np.concatenate(shares), batch)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 5, "size": 2}, "cannot be shared equally by 2 processes"),
        ({"batch_size": 30}, "train.batch_size 30 is more than the 23 images"),
        ({"batch_size": 20, "size": 4, "drop_last": False}, "last batch of an epoch has 3 of the 23 images"),
        ({"batch_size": 11, "drop_last": False}, "data.drop_last=true"),
    ],
)
def test_what_cannot_be_ordered(settings: dict[str, int], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Order(n_images=23, seed=0, **settings)
