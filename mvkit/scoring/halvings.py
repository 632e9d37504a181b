"""Scores of one specimen: every split, every halving, every unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import centred, correlate, spearman_brown
from mvkit.scoring.halves import half_means
from mvkit.scoring.pls import predict_test_images, training_targets
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.reasons import Drop
from mvkit.scoring.reduction import SplitCoordinates
from mvkit.scoring.settings import ScoreSettings

# Halvings are worked through in groups whose mean responses take about this much memory.
GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class HalvingScores:
    """What each halving gives for one layer and one specimen.

    Attributes
    ----------
    r_cross, r_map, r_target
        float64 (n_splits, n_halves, n_units), Pearson over test images: prediction from half 1 with half 2;
        prediction from half 1 with prediction from half 2; half 1 with half 2. NaN = undefined.
    scores
        float64, same shape: ``r_cross / sqrt(SB(r_map) SB(r_target))``; NaN = dropped.
    drops
        uint8, same shape: :class:`~mvkit.scoring.reasons.Drop`.
    missing_image
        int64 (n_units,): first image without a valid trial in one half of some halving, or -1.
    """

    r_cross: NDArray[np.float64]
    r_map: NDArray[np.float64]
    r_target: NDArray[np.float64]
    scores: NDArray[np.float64]
    drops: NDArray[np.uint8]
    missing_image: NDArray[np.int64]


@dataclass(frozen=True)
class _Targets:
    """Half responses of a group of halvings, made ready for one split."""

    train: NDArray[np.float64]  # (2 n_halves, n_train, n_units), see training_targets
    second_test: NDArray[np.float64]  # (n_halves, n_test, n_units), half 2, centred
    r_target: NDArray[np.float64]  # (n_halves, n_units)
    drops: NDArray[np.uint8]  # (n_halves, n_units)


def noise_corrected(
    r_cross: NDArray[np.float64], r_map: NDArray[np.float64], r_target: NDArray[np.float64], *, parity: bool
) -> NDArray[np.float64]:
    """Divide a raw correlation by what noise allows: ``r_cross / sqrt(SB(r_map) SB(r_target))``.

    NaN if the product is negative or undefined. If both reliabilities are negative the quotient is finite
    but means nothing: it is kept with ``parity=True`` (as in the 2020 code), else NaN, as is the infinite
    quotient of a reliability of exactly zero.
    """
    first, second = spearman_brown(r_map), spearman_brown(r_target)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: NDArray[np.float64] = r_cross / np.sqrt(first * second)
    if not parity:
        scores[~(first > 0.0) | ~(second > 0.0) | ~np.isfinite(scores)] = np.nan
    return scores


def score_halvings(
    responses: NDArray[np.floating],
    members: NDArray[np.bool_],
    splits: Sequence[ImageSplit],
    layers: Sequence[Sequence[SplitCoordinates]],
    settings: ScoreSettings,
) -> list[HalvingScores]:
    """Score one specimen against several layers.

    Half responses and response reliabilities do not depend on the layer and are computed once.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    members
        bool (n_halves, 2, n_trials): the halvings.
    splits
        The image splits.
    layers
        Per layer one :class:`SplitCoordinates` per split. A layer that cannot be fitted on a split gets
        NaN there, with :attr:`Drop.CONSTANT_PREDICTION`.
    settings
        Map and noise correction.
    """
    shape = (len(splits), members.shape[0], responses.shape[2])
    r_target = np.empty(shape)
    drops = np.zeros(shape, dtype=np.uint8)
    missing_image = np.full(shape[2], -1, dtype=np.int64)
    r_cross = np.full((len(layers), *shape), np.nan)
    r_map = np.full((len(layers), *shape), np.nan)
    for group in _groups(members.shape[0], responses[0].size):
        means = half_means(responses, members[group])
        _note_missing(means, missing_image)
        for index, split in enumerate(splits):
            targets = _targets_of_split(means, split)
            r_target[index, group] = targets.r_target
            drops[index, group] = targets.drops
            for layer, coordinates in enumerate(layers):
                if not coordinates[index].reason:
                    parts = _correlate_predictions(targets, coordinates[index], settings)
                    r_cross[layer, index, group], r_map[layer, index, group] = parts
    return [
        _finish(r_cross[layer], r_map[layer], r_target, drops, missing_image, parity=settings.parity)
        for layer in range(len(layers))
    ]


def _groups(n_halves: int, size: int) -> Iterator[slice]:
    step = max(1, GROUP_BYTES // (2 * 8 * max(size, 1)))
    for begin in range(0, n_halves, step):
        yield slice(begin, begin + step)


def _note_missing(means: NDArray[np.float64], missing_image: NDArray[np.int64]) -> None:
    """Remember for each unit the first image that some half knows nothing about."""
    missing = np.isnan(means).any(axis=(0, 1))
    first = np.where(missing.any(axis=0), missing.argmax(axis=0), -1)
    new = (first >= 0) & ((missing_image < 0) | (first < missing_image))
    missing_image[new] = first[new]


def _targets_of_split(means: NDArray[np.float64], split: ImageSplit) -> _Targets:
    n_halves, _, _, n_units = means.shape
    train_means = np.ascontiguousarray(means[:, :, split.train])
    test = centred(np.ascontiguousarray(means[:, :, split.test]), axis=2)
    train, usable = training_targets(train_means.reshape(2 * n_halves, -1, n_units))
    lost = np.isnan(train_means).any(axis=(1, 2)) | np.isnan(test).any(axis=(1, 2))
    varies = usable.reshape(n_halves, 2, n_units) & np.any(test != 0.0, axis=2)
    constant = ~np.all(varies, axis=1)
    drops = np.zeros((n_halves, n_units), dtype=np.uint8)
    drops[constant] = Drop.CONSTANT_RESPONSE
    drops[lost] = Drop.NO_TRIAL
    return _Targets(train, np.ascontiguousarray(test[:, 1]), correlate(test[:, 0], test[:, 1]), drops)


def _correlate_predictions(
    targets: _Targets, coordinates: SplitCoordinates, settings: ScoreSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return r_cross and r_map (n_halves, n_units); NaN where a unit was not in one of the two fits."""
    predictions = predict_test_images(targets.train, coordinates, settings)
    first = np.ascontiguousarray(predictions[0::2])
    second = np.ascontiguousarray(predictions[1::2])
    return correlate(first, targets.second_test), correlate(first, second)


def _finish(
    r_cross: NDArray[np.float64],
    r_map: NDArray[np.float64],
    r_target: NDArray[np.float64],
    drops: NDArray[np.uint8],
    missing_image: NDArray[np.int64],
    *,
    parity: bool,
) -> HalvingScores:
    """Correct for noise and find out why what is NaN is NaN."""
    scores = noise_corrected(r_cross, r_map, r_target, parity=parity)
    flat = np.isnan(r_cross) | np.isnan(r_map)
    map_negative, target_negative = r_map < 0.0, r_target < 0.0
    why = np.select(
        [
            np.isfinite(scores),
            drops > 0,
            flat,
            map_negative & target_negative,
            map_negative,
            target_negative,
        ],
        [
            Drop.KEPT,
            drops,
            Drop.CONSTANT_PREDICTION,
            Drop.NEGATIVE_BOTH,
            Drop.NEGATIVE_MAP,
            Drop.NEGATIVE_RESPONSE,
        ],
        default=Drop.UNDEFINED,
    ).astype(np.uint8)
    return HalvingScores(r_cross, r_map, r_target, scores, why, missing_image)
