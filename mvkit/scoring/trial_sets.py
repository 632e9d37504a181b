"""The two sets of trials of a halving, and how each way of drawing them uses random numbers.

Every way is a row of :data:`DRAWS`. The streams are those of the 2020 code (goldens section 4,
``reliability.npz``), as far as one pair of sets goes: that code drew four such pairs from one generator and
compared each first set with each second one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.settings import Halving

Trials = NDArray[np.int64]
#: Two lists of all trials, which a way of drawing may shuffle on.
Lists = tuple[Trials, Trials]
Draw = Callable[[np.random.RandomState, Lists], tuple[Trials, Trials]]


def _split_half(generator: np.random.RandomState, lists: Lists) -> tuple[Trials, Trials]:
    order, _ = lists
    generator.shuffle(order)
    return order[: order.size // 2], order[order.size // 2 :]


def _bootstrap(generator: np.random.RandomState, lists: Lists) -> tuple[Trials, Trials]:
    n_trials = lists[0].size
    return generator.randint(0, n_trials, n_trials), generator.randint(0, n_trials, n_trials)


def _bootstrap_full_mean(generator: np.random.RandomState, lists: Lists) -> tuple[Trials, Trials]:
    n_trials = lists[0].size
    return generator.randint(0, n_trials, n_trials), np.arange(n_trials)


def _subsample_half(generator: np.random.RandomState, lists: Lists) -> tuple[Trials, Trials]:
    first, second = lists
    generator.shuffle(first)
    generator.shuffle(second)
    return first[: first.size // 2], second[second.size // 2 :]


def _subsample_half_replacement(generator: np.random.RandomState, lists: Lists) -> tuple[Trials, Trials]:
    n_trials = lists[0].size
    return generator.randint(0, n_trials, n_trials // 2), generator.randint(0, n_trials, n_trials // 2)


#: Way of drawing -> ``(generator, lists)`` -> trials of set 1 and of set 2, repeated as often as they count.
DRAWS: Mapping[Halving, Draw] = MappingProxyType(
    {
        "split-half": _split_half,
        "bootstrap": _bootstrap,
        "bootstrap-full-mean": _bootstrap_full_mean,
        "subsample-half": _subsample_half,
        "subsample-half-replacement": _subsample_half_replacement,
    }
)


def draw_halving(
    generator: np.random.RandomState, n_trials: int, halving: Halving, *, n_images: int | None = None
) -> NDArray[np.int32]:
    """Draw the two sets of trials of one halving.

    Parameters
    ----------
    generator
        Goes on from where it is, so that several populations can draw from one.
    n_trials
        Trials to draw from.
    halving
        The way of drawing, see :attr:`ScoreSettings.halving`.
    n_images
        None draws once for all images. A number draws anew for each of so many images, in their order; lists
        that are shuffled are shuffled on from image to image.

    Returns
    -------
    ndarray
        int32 (2, n_trials) or (2, n_trials, n_images): how often each trial counts in each set.
    """
    lists = (np.arange(n_trials), np.arange(n_trials))
    weights = np.empty((2, n_trials, 1 if n_images is None else n_images), dtype=np.int32)
    for image in range(weights.shape[2]):
        for place, trials in enumerate(DRAWS[halving](generator, lists)):
            weights[place, :, image] = np.bincount(trials, minlength=n_trials)
    return weights[:, :, 0] if n_images is None else weights
