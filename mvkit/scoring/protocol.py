"""Who is compared with whom: splits of the images and halvings of the trials.

Both come from numpy's legacy Mersenne Twister, whose streams numpy keeps
unchanged, so that the draws equal those of the 2020 code (goldens section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.trial_sets import draw_halving


@dataclass(frozen=True)
class ImageSplit:
    """Training and test images of one split.

    Attributes
    ----------
    train, test
        int64 image positions, in the order drawn; disjoint.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def splits_of(n_images: int, settings: ScoreSettings) -> tuple[ImageSplit, ...]:
    """Draw the image splits that settings ask for, see :func:`image_splits`.

    Similarities of all images fit nothing: they have one "split", whose test images are all images.
    """
    if settings.compares_all_images:
        return (ImageSplit(np.empty(0, dtype=np.int64), np.arange(n_images)),)
    return image_splits(
        n_images,
        n_splits=settings.n_splits,
        train_fraction=settings.train_fraction,
        seed=settings.split_seed,
    )


def image_splits(
    n_images: int, *, n_splits: int, train_fraction: float, seed: int = 0
) -> tuple[ImageSplit, ...]:
    """Draw the splits: split ``s`` is ``RandomState(seed + s).permutation(n_images)``.

    The first ``ceil(train_fraction * n_images)`` positions train, the rest test.

    Raises
    ------
    UsageError
        If fewer than two images would be left for training or for testing.
    """
    n_train = math.ceil(train_fraction * n_images)
    if n_train < 2 or n_images - n_train < 2:
        raise UsageError(
            f"train_fraction={train_fraction} splits {n_images} images into {n_train} and "
            f"{n_images - n_train}; at least two are needed on each side"
        )
    orders = (np.random.RandomState(seed + split).permutation(n_images) for split in range(n_splits))
    return tuple(
        ImageSplit(order[:n_train].astype(np.int64), order[n_train:].astype(np.int64)) for order in orders
    )


def trial_orders(n_trials: int, *, n_halves: int, seed: int = 0) -> NDArray[np.int64]:
    """Shuffle the trials once per halving, each halving with a seed of its own.

    Returns
    -------
    ndarray
        int64 (n_halves, n_trials); row ``b`` is ``list(range(n_trials))`` shuffled by
        ``RandomState(seed + b)``.
    """
    orders = np.tile(np.arange(n_trials, dtype=np.int64), (n_halves, 1))
    generator = np.random.RandomState(seed)
    for halving in range(n_halves):
        generator.seed(seed + halving)  # the same stream as a new RandomState, at a tenth of the price
        generator.shuffle(orders[halving])
    return orders


def trial_orders_in_sequence(n_trials: int, *, n_halves: int, seed: int = 0) -> NDArray[np.int64]:
    """Shuffle a fresh list of trials once per halving, all from one ``RandomState(seed)``.

    Returns
    -------
    ndarray
        int64 (n_halves, n_trials).
    """
    generator = np.random.RandomState(seed)
    orders = np.tile(np.arange(n_trials, dtype=np.int64), (n_halves, 1))
    for order in orders:
        generator.shuffle(order)
    return orders


def halves_of(orders: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark which trials belong to which half.

    Parameters
    ----------
    orders
        (n_halves, n_trials) orders of the trials. The first ``n_trials // 2`` entries are
        half 1, all others half 2 (one more of them if the number is odd).

    Returns
    -------
    ndarray
        bool (n_halves, 2, n_trials).
    """
    n_halves, n_trials = orders.shape
    members = np.zeros((n_halves, 2, n_trials), dtype=np.bool_)
    rows = np.arange(n_halves)[:, None]
    members[rows, 0, orders[:, : n_trials // 2]] = True
    members[rows, 1, orders[:, n_trials // 2 :]] = True
    return members


def halving_weights(n_trials: int, n_images: int, settings: ScoreSettings) -> NDArray[np.int32]:
    """Draw the two sets of trials of every halving that settings ask for.

    Halving ``b`` draws from ``RandomState(halves_seed + b)``, see :mod:`mvkit.scoring.trial_sets`.

    Returns
    -------
    ndarray
        int32 (n_halves, 2, n_trials), or (n_halves, 2, n_trials, n_images) if not ``synchronous``: how often
        each trial counts in each set.
    """
    own_draws = None if settings.synchronous else n_images
    shape = (
        (settings.n_halves, 2, n_trials) if own_draws is None else (settings.n_halves, 2, n_trials, n_images)
    )
    weights = np.empty(shape, dtype=np.int32)
    generator = np.random.RandomState(settings.halves_seed)
    for halving in range(settings.n_halves):
        generator.seed(settings.halves_seed + halving)  # as in trial_orders
        weights[halving] = draw_halving(generator, n_trials, settings.halving, n_images=own_draws)
    return weights
