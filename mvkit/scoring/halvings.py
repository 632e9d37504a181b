"""Scores of one specimen: every split, every halving, every unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import Drop, noise_corrected, reasons_for_gaps
from mvkit.scoring.halves import half_means
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.targets import correlate_predictions, targets_of_split

# Halvings are worked through in groups whose mean responses take about this much memory.
GROUP_BYTES = 64 * 2**20


class PreparedSplit(Protocol):
    """A layer made ready for the fits of one split; each map has its own class."""

    @property
    def reason(self) -> str:
        """Why no map can be fitted, or ""."""


#: ``predict(targets (n_fits, n_train, n_units), prepared, settings) -> (n_fits, n_test, n_units)``; NaN for
#: units whose fit did not converge
Predict = Callable[[NDArray[np.float64], Any, ScoreSettings], NDArray[np.float64]]


@dataclass(frozen=True)
class HalvingScores:
    """What each halving gives for one layer and one specimen.

    Attributes
    ----------
    r_cross, r_map, r_target
        float64 (n_splits, n_halves, n_units), over test images: prediction from half 1 with half 2;
        prediction from half 1 with prediction from half 2; half 1 with half 2. NaN = undefined.
        A similarity has one "unit", the population.
    scores
        float64, same shape: corrected for noise; NaN = dropped.
    drops
        uint8, same shape: :class:`~mvkit.scoring.correlation.Drop`.
    missing_image
        int64 (n_units,): first image without a valid trial in one half of some halving, or -1.
    """

    r_cross: NDArray[np.float64]
    r_map: NDArray[np.float64]
    r_target: NDArray[np.float64]
    scores: NDArray[np.float64]
    drops: NDArray[np.uint8]
    missing_image: NDArray[np.int64]


def score_halvings(
    responses: NDArray[np.floating],
    weights: NDArray[np.generic],
    splits: Sequence[ImageSplit],
    layers: Sequence[Sequence[PreparedSplit]],
    predict: Predict,
    settings: ScoreSettings,
) -> list[HalvingScores]:
    """Score one specimen against several layers with a map.

    Half responses and response reliabilities do not depend on the layer and are computed once.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials[, n_images]): the halvings, see :func:`~mvkit.scoring.halves.half_means`.
    splits
        The image splits.
    layers
        Per layer one prepared split per split. A layer that cannot be fitted on a split gets
        NaN there, with :attr:`Drop.CONSTANT_PREDICTION`.
    predict
        The map.
    settings
        Map and noise correction.
    """
    shape = (len(splits), weights.shape[0], responses.shape[2])
    r_target = np.empty(shape)
    drops = np.zeros(shape, dtype=np.uint8)
    missing_image = np.full(shape[2], -1, dtype=np.int64)
    r_cross = np.full((len(layers), *shape), np.nan)
    r_map = np.full((len(layers), *shape), np.nan)
    unfitted = np.zeros((len(layers), *shape), dtype=np.bool_)
    for group in halving_groups(weights.shape[0], responses[0].size):
        means = half_means(responses, weights[group])
        note_missing(means, missing_image)
        for index, split in enumerate(splits):
            targets = targets_of_split(means, split, settings)
            r_target[index, group] = targets.r_target
            drops[index, group] = targets.drops
            for layer, prepared in enumerate(layers):
                if not prepared[index].reason:
                    predictions = predict(targets.train, prepared[index], settings)
                    parts = correlate_predictions(predictions, targets, settings)
                    r_cross[layer, index, group], r_map[layer, index, group] = parts
                    unfitted[layer, index, group] = without_prediction(predictions, parts[1])
    return [
        finished(
            (r_cross[layer], r_map[layer], r_target),
            np.where(unfitted[layer] & (drops == 0), np.uint8(Drop.NOT_CONVERGED), drops),
            missing_image,
            settings,
        )
        for layer in range(len(layers))
    ]


def without_prediction(
    predictions: NDArray[np.float64], r_map: NDArray[np.float64]
) -> NDArray[np.bool_] | bool:
    """Tell in which halvings, bool (n_halves, n_units), a map gave NaN for a unit: it did not converge.

    Parameters
    ----------
    predictions
        float64 (2 n_halves, n_test, n_units), halves 1 and 2 of each halving in turn.
    r_map
        float64 (n_halves, n_units): the halves' correlations, which NaN makes NaN.
    """
    if not np.isnan(r_map).any():
        return False
    lost = np.asarray(np.isnan(predictions).any(axis=1))
    return lost[0::2] | lost[1::2]


def halving_groups(n_halves: int, size: int) -> Iterator[slice]:
    """Divide the halvings into groups of bounded memory, ``size`` being the entries of one mean response."""
    step = max(1, GROUP_BYTES // (2 * 8 * max(size, 1)))
    for begin in range(0, n_halves, step):
        yield slice(begin, begin + step)


def note_missing(means: NDArray[np.float64], missing_image: NDArray[np.int64]) -> None:
    """Remember for each unit the first image that some half knows nothing about."""
    missing = np.isnan(means).any(axis=(0, 1))
    first = np.where(missing.any(axis=0), missing.argmax(axis=0), -1)
    new = (first >= 0) & ((missing_image < 0) | (first < missing_image))
    missing_image[new] = first[new]


def finished(
    parts: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    drops: NDArray[np.uint8],
    missing_image: NDArray[np.int64],
    settings: ScoreSettings,
) -> HalvingScores:
    """Correct ``(r_cross, r_map, r_target)`` for noise and find out why what is NaN is NaN."""
    scores = noise_corrected(*parts, settings)
    return HalvingScores(*parts, scores, reasons_for_gaps(scores, parts, drops), missing_image)
