"""Splits of the images, halves of the trials, and the correlations that make up a score.

Both kinds of draws come from numpy's legacy Mersenne Twister, whose streams numpy does not change, so that
they equal those of the 2020 code (goldens section 4, ``reliability.npz``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.machine import installed_versions
from mvkit.scoring.correlation import (
    ExclusionReason,
    centre,
    correct_for_noise,
    correlate_by,
    exclusion_reasons,
    spread,
)
from mvkit.scoring.settings import Halving, RecordingLike, ScoreSettings

# Split halves are worked through in groups whose mean responses take about this much memory.
GROUP_BYTES = 4 * 2**20
# Trials are projected for as many splits at a time as take this much memory.
PROJECTED_BYTES = 256 * 2**20
# With fewer training images projecting takes less time than fitting.
MANY_TO_PROJECT = 250
# A target column is constant, for scikit-learn, if no entry exceeds this.
ZERO_TARGET = 10 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ImageSplit:
    """Training and test images of one split.

    Attributes
    ----------
    train, test
        int64 image positions, in the order drawn; disjoint, or the same where the training images are scored.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class SplitHalfScores:
    """Correlations and scores of every pair of trial halves, for one layer and one recording.

    Attributes
    ----------
    r_cross, r_map, r_target
        float64 (n_splits, n_halves, n_units), over test images: prediction from half 1 with half 2;
        prediction from half 1 with prediction from half 2; half 1 with half 2. NaN = undefined.
        A similarity has one "unit", the population.
    scores
        float64, same shape: corrected for noise; NaN = excluded.
    exclusions
        uint8, same shape: :class:`~mvkit.scoring.correlation.ExclusionReason`.
    missing_image
        int64 (n_units,): first image without a valid trial in a half of some pair, or -1.
    """

    r_cross: NDArray[np.float64]
    r_map: NDArray[np.float64]
    r_target: NDArray[np.float64]
    scores: NDArray[np.float64]
    exclusions: NDArray[np.uint8]
    missing_image: NDArray[np.int64]


def join_splits(parts: Sequence[SplitHalfScores]) -> SplitHalfScores:
    """Put the splits of one layer and recording together that were scored apart, in order."""
    names = ("r_cross", "r_map", "r_target", "scores", "exclusions")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    # Half responses are those to all images, whatever the split.
    return SplitHalfScores(**joined, missing_image=parts[0].missing_image)


class PreparedSplit(Protocol):
    """A layer prepared for the fits of one split; each map has its own class."""

    @property
    def reason(self) -> str:
        """Why no map can be fitted, or ""."""


#: ``predict(targets, prepared, settings, projected)``: of every image split in turn, targets (n_fits,
#: n_train, n_units) and a layer prepared for it -> predictions (n_fits, n_test, n_units); NaN for units whose
#: fit did not converge. ``projected`` are the targets' projections by a :data:`Projection`; None without one.
Predict = Callable[
    [Sequence[NDArray[np.float64]], Sequence[Any], ScoreSettings, Sequence[NDArray[np.float64]] | None],
    Iterable[NDArray[np.float64]],
]
#: ``projection(targets, prepared)``: a linear map of targets (n, n_train, n_units) that fits on a split begin
#: with -> (n, n_coordinates, n_units). It is blind to a constant that is added to all images.
Projection = Callable[[NDArray[np.float64], Any], NDArray[np.float64]]


def splits_of(n_images: int, settings: ScoreSettings) -> tuple[ImageSplit, ...]:
    """Draw the image splits that settings ask for, see :func:`image_splits`.

    Similarities of all images fit nothing: they have one "split", whose test images are all images.
    """
    if settings.compares_all_images:
        return (ImageSplit(np.empty(0, dtype=np.int64), np.arange(n_images)),)
    splits = image_splits(
        n_images,
        n_splits=settings.n_splits,
        train_fraction=settings.train_fraction,
        seed=settings.split_seed,
    )
    if settings.scored_images == "train":
        return tuple(ImageSplit(split.train, split.train) for split in splits)
    return splits


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


def split_half_weights(n_trials: int, n_images: int, settings: ScoreSettings) -> NDArray[np.int32]:
    """Draw the two sets of trials of every pair of halves that settings ask for.

    Pair ``b`` draws from ``RandomState(halves_seed + b)``, see :mod:`mvkit.scoring.protocol`.

    Returns
    -------
    ndarray
        int32 (n_halves, 2, n_trials), or (n_halves, 2, n_trials, n_images) if not ``synchronous``: how often
        each trial counts in each set.
    """
    n_draws = None if settings.synchronous else n_images
    generator = np.random.RandomState(settings.halves_seed)
    weights = []
    for draw in range(settings.n_halves):
        generator.seed(settings.halves_seed + draw)  # as in trial_orders
        weights.append(draw_split_half(generator, n_trials, settings.halving, n_images=n_draws))
    return np.stack(weights)


def draw_split_half(
    generator: np.random.RandomState, n_trials: int, halving: Halving, *, n_images: int | None = None
) -> NDArray[np.int32]:
    """Draw the two sets of trials of one pair of halves.

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
        that are shuffled stay shuffled from image to image.

    Returns
    -------
    ndarray
        int32 (2, n_trials) or (2, n_trials, n_images): how often each trial counts in each set.
    """
    lists = (np.arange(n_trials), np.arange(n_trials))
    weights = np.empty((2, n_trials, 1 if n_images is None else n_images), dtype=np.int32)
    for image in range(weights.shape[2]):
        for index, trials in enumerate(_draw_sets(generator, lists, halving)):
            weights[index, :, image] = np.bincount(trials, minlength=n_trials)
    return weights[:, :, 0] if n_images is None else weights


def _draw_sets(
    generator: np.random.RandomState, lists: tuple[NDArray[np.int64], NDArray[np.int64]], halving: Halving
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the trials of set 1 and of set 2, each as often as it counts; lists of all trials are shuffled."""
    first, second = lists
    n_trials, half = first.size, first.size // 2
    if halving == "split-half":
        generator.shuffle(first)
        return first[:half], first[half:]
    if halving == "subsample-half":
        generator.shuffle(first)
        generator.shuffle(second)
        return first[:half], second[half:]
    if halving == "bootstrap-full-mean":
        return generator.randint(0, n_trials, n_trials), np.arange(n_trials)
    size = n_trials if halving == "bootstrap" else half
    return generator.randint(0, n_trials, size), generator.randint(0, n_trials, size)


def trial_orders(n_trials: int, *, n_halves: int, seed: int = 0) -> NDArray[np.int64]:
    """Shuffle the trials once per pair of halves, each pair with a seed of its own.

    Returns
    -------
    ndarray
        int64 (n_halves, n_trials); row ``b`` is ``list(range(n_trials))`` shuffled by
        ``RandomState(seed + b)``.
    """
    orders = np.tile(np.arange(n_trials, dtype=np.int64), (n_halves, 1))
    generator = np.random.RandomState(seed)
    for draw, order in enumerate(orders):
        generator.seed(seed + draw)  # the same stream as a new RandomState, at a tenth of the price
        generator.shuffle(order)
    return orders


def trial_orders_in_sequence(n_trials: int, *, n_halves: int, seed: int = 0) -> NDArray[np.int64]:
    """Shuffle a fresh list of trials once per pair of halves, all from one ``RandomState(seed)``.

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


def half_means(responses: NDArray[np.floating], weights: NDArray[np.generic]) -> NDArray[np.float64]:
    """Average the responses of each half, ignoring missing ones.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials): how often each trial counts in each half (bool or numbers >= 0), the same for
        all images; or (n_halves, 2, n_trials, n_images), images each having their own. There may be any
        number of sets in place of 2.

    Returns
    -------
    ndarray
        float64 (n_halves, 2, n_images, n_units), in the units of measure of the responses; NaN where a half
        has no valid trial for that image and unit.
    """
    return trial_responses(responses).half_means(weights)


@dataclass(frozen=True)
class TrialResponses:
    """Responses of every trial, ready to be averaged.

    Attributes
    ----------
    values
        float64 (n_trials, n_images, n_units), zero where a response is missing.
    present
        float64, the same shape or one unit wide where whole presentations are missing: 1, or 0 where a
        response is missing; None if none is.
    """

    values: NDArray[np.float64]
    present: NDArray[np.float64] | None = None

    def half_means(self, weights: NDArray[np.generic]) -> NDArray[np.float64]:
        """Average halves of the trials, see :func:`half_means`."""
        n_trials, n_images, n_units = self.values.shape
        n_halves, n_sets = weights.shape[:2]
        flat = weights.reshape(n_halves * n_sets, n_trials, *weights.shape[3:]).astype(np.float64)
        sums = _weighted_sums(self.values, flat)
        if self.present is not None:
            counts = _weighted_sums(self.present, flat)
        else:
            totals = flat.sum(axis=1)
            counts = totals[:, None, None] if totals.ndim == 1 else totals[:, :, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            sums /= counts
        return sums.reshape(n_halves, n_sets, n_images, n_units)


def trial_responses(responses: NDArray[np.floating]) -> TrialResponses:
    """Bring responses (n_trials, n_images, n_units), NaN = missing, to float64 and note which are missing."""
    values = responses.astype(np.float64)
    missing = np.isnan(values)
    if not missing.any():
        return TrialResponses(values)
    values[missing] = 0.0
    present = ~missing
    if np.array_equal(present, np.broadcast_to(present[:, :, :1], present.shape)):
        present = present[:, :, :1]  # whole presentations are missing: one count serves all units
    return TrialResponses(values, present.astype(np.float64))


def _weighted_sums(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over trials: (n_sets, n_images, n_units)."""
    n_trials, n_images, n_units = values.shape
    if weights.ndim == 2:
        return (weights @ values.reshape(n_trials, -1)).reshape(-1, n_images, n_units)
    by_image: NDArray[np.float64] = np.matmul(weights.transpose(2, 0, 1), values.transpose(1, 0, 2))
    return np.ascontiguousarray(by_image.transpose(1, 0, 2))


def pool_responses(animals: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Put the units of several animals side by side, trials aligned by their number.

    Parameters
    ----------
    animals
        Each (n_trials, n_images, n_units), NaN = missing; numbers of trials may differ.

    Returns
    -------
    ndarray
        (largest n_trials, n_images, all units); NaN where an animal has fewer trials, so that its half-means
        average fewer.
    """
    if len(animals) == 1:
        return animals[0]
    n_trials = max(responses.shape[0] for responses in animals)
    n_units = sum(responses.shape[2] for responses in animals)
    dtype = np.result_type(np.float32, *(responses.dtype for responses in animals))
    pooled = np.full((n_trials, animals[0].shape[1], n_units), np.nan, dtype=dtype)
    first = 0
    for responses in animals:
        n_own_trials, _, n_own_units = responses.shape
        pooled[:n_own_trials, :, first : first + n_own_units] = responses
        first += n_own_units
    return pooled


@dataclass(frozen=True)
class Batches:
    """How the fits of a map are put together.

    Attributes
    ----------
    splits_at_once
        Image splits that are predicted together.
    group_bytes
        Size of a group of split halves as in :func:`split_half_groups`.
    projection
        What every fit begins with, if that is linear.
    """

    splits_at_once: int = 1
    group_bytes: int | None = None
    projection: Projection | None = None


def score_split_halves(
    responses: NDArray[np.floating],
    weights: NDArray[np.generic],
    splits: Sequence[ImageSplit],
    layers: Sequence[Sequence[PreparedSplit]],
    predict: Predict,
    settings: ScoreSettings,
    *,
    batches: Batches = Batches(),
) -> list[SplitHalfScores]:
    """Score one specimen against several layers with a map.

    Half responses and response reliabilities do not depend on the layer and are computed once. With many
    training images and no missing response, the projection that fits begin with is done for trials rather
    than for halves of them, if these are more.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials[, n_images]): the split halves, see :func:`half_means`.
    splits
        The image splits.
    layers
        Per layer one prepared split per split. A layer that cannot be fitted on a split gets
        NaN there, with :attr:`ExclusionReason.CONSTANT_PREDICTION`.
    predict
        The map.
    settings
        Map and noise correction.
    batches
        How its fits are put together.
    """
    shape = (len(splits), weights.shape[0], responses.shape[2])
    r_target = np.empty(shape)
    exclusions = np.zeros(shape, dtype=np.uint8)
    missing_image = np.full(shape[2], -1, dtype=np.int64)
    r_cross = np.full((len(layers), *shape), np.nan)
    r_map = np.full((len(layers), *shape), np.nan)
    unfitted = np.zeros((len(layers), *shape), dtype=np.bool_)
    trials = trial_responses(responses)
    projection = batches.projection
    if trials.present is not None or weights.ndim > 3 or len(responses) >= 2 * len(weights):
        projection = None
    for part, projected in _projected_parts(projection, trials, splits, layers):
        for group in split_half_groups(weights.shape[0], responses[0].size, batches.group_bytes):
            means = trials.half_means(weights[group])
            note_missing(means, missing_image)
            for first in range(part.start, part.stop, batches.splits_at_once):
                targets = {
                    index: targets_of_split(means, splits[index], settings)
                    for index in range(first, min(first + batches.splits_at_once, part.stop))
                }
                for index, of_split in targets.items():
                    r_target[index, group] = of_split.r_target
                    exclusions[index, group] = of_split.exclusions
                for layer, prepared in enumerate(layers):
                    fitted = [index for index in targets if not prepared[index].reason]
                    halves = [
                        _project_halves(projected[layer, index], weights[group], targets[index].usable)
                        for index in fitted
                        if projected
                    ]
                    predicted = predict(
                        [targets[index].train for index in fitted],
                        [prepared[index] for index in fitted],
                        settings,
                        halves or None,
                    )
                    for index, predictions in zip(fitted, predicted, strict=True):
                        parts = correlate_predictions(predictions, targets[index], settings)
                        r_cross[layer, index, group], r_map[layer, index, group] = parts
                        unfitted[layer, index, group] = unconverged_fits(predictions, parts[1])
        del projected  # before the next ones are made
    return [
        correct_split_halves(
            (r_cross[layer], r_map[layer], r_target),
            np.where(
                unfitted[layer] & (exclusions == 0), np.uint8(ExclusionReason.NOT_CONVERGED), exclusions
            ),
            missing_image,
            settings,
        )
        for layer in range(len(layers))
    ]


def _projected_parts(
    projection: Projection | None,
    trials: TrialResponses,
    splits: Sequence[ImageSplit],
    layers: Sequence[Sequence[PreparedSplit]],
) -> Iterator[tuple[range, dict[tuple[int, int], TrialResponses]]]:
    """Yield neighbouring splits with the trials projected by layer and split; or all splits without."""
    n_trials, _, n_units = trials.values.shape
    n_train, n_splits = splits[0].train.size, len(splits)
    step = PROJECTED_BYTES // (8 * len(layers) * n_trials * n_train * n_units)
    if projection is None or n_train < MANY_TO_PROJECT or step == 0:
        yield range(n_splits), {}
        return
    for begin in range(0, n_splits, step):
        part = range(begin, min(begin + step, n_splits))
        yield (
            part,
            {
                (layer, index): _project_trials(projection, trials, splits[index], prepared[index])
                for layer, prepared in enumerate(layers)
                for index in part
                if not prepared[index].reason
            },
        )


def _project_trials(
    projection: Projection, trials: TrialResponses, split: ImageSplit, prepared: PreparedSplit
) -> TrialResponses:
    """Project every trial's responses to the training images, centred before, as they may be large."""
    return TrialResponses(projection(centre(trials.values[:, split.train], axis=1), prepared))


def _project_halves(
    projected: TrialResponses, weights: NDArray[np.generic], usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the projections of :attr:`Targets.train` from those of the trials."""
    halves = projected.half_means(weights)
    halves = halves.reshape(-1, *halves.shape[2:])
    np.copyto(halves, 0.0, where=~usable[:, None, :])
    return halves


def split_half_groups(n_halves: int, size: int, group_bytes: int | None = None) -> Iterator[slice]:
    """Group the split halves for bounded memory, ``size`` being the entries of one mean response.

    A group's means take ``group_bytes``, or :data:`GROUP_BYTES` if that is None.
    """
    step = max(1, (group_bytes or GROUP_BYTES) // (2 * 8 * max(size, 1)))
    for begin in range(0, n_halves, step):
        yield slice(begin, begin + step)


def note_missing(means: NDArray[np.float64], missing_image: NDArray[np.int64]) -> None:
    """Note for each unit the first image to which some half has no response."""
    missing = np.isnan(means).any(axis=(0, 1))
    first = np.where(missing.any(axis=0), missing.argmax(axis=0), -1)
    new = (first >= 0) & ((missing_image < 0) | (first < missing_image))
    missing_image[new] = first[new]


@dataclass(frozen=True)
class Targets:
    """Half responses of a group of split halves on one split.

    Attributes
    ----------
    train
        float64 (2 n_halves, n_train, n_units): halves 1 and 2 of each pair in turn, see
        :func:`training_targets`.
    usable
        bool (2 n_halves, n_units): which of its columns take part in a fit.
    second_test
        float64 (n_halves, n_test, n_units): half 2, centred.
    r_target
        float64 (n_halves, n_units): half 1 with half 2, over test images.
    exclusions
        uint8 (n_halves, n_units): why a pair of halves cannot be scored, as far as that is clear before a map
        is fitted.
    """

    train: NDArray[np.float64]
    usable: NDArray[np.bool_]
    second_test: NDArray[np.float64]
    r_target: NDArray[np.float64]
    exclusions: NDArray[np.uint8]


def targets_of_split(means: NDArray[np.float64], split: ImageSplit, settings: ScoreSettings) -> Targets:
    """Take the images of one split out of half-means.

    Parameters
    ----------
    means
        float64 (n_halves, 2, n_images, n_units) as from :func:`half_means`.
    split
        Training and test images.
    settings
        The kind of correlation.
    """
    n_halves, _, _, n_units = means.shape
    train_means = np.ascontiguousarray(means[:, :, split.train])
    test = centre(np.ascontiguousarray(means[:, :, split.test]), axis=2)
    train, usable = training_targets(train_means.reshape(2 * n_halves, -1, n_units))
    lost = np.isnan(train_means).any(axis=(1, 2)) | np.isnan(test).any(axis=(1, 2))
    varies = usable.reshape(n_halves, 2, n_units) & np.any(test != 0.0, axis=2)
    constant = ~np.all(varies, axis=1)
    exclusions = np.zeros((n_halves, n_units), dtype=np.uint8)
    exclusions[constant] = ExclusionReason.CONSTANT_RESPONSE
    exclusions[lost] = ExclusionReason.NO_TRIAL
    r_target = correlate_by(settings.correlation, test[:, 0], test[:, 1])
    return Targets(train, usable, np.ascontiguousarray(test[:, 1]), r_target, exclusions)


def training_targets(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centre half-means over the training images and clear the columns that cannot take part in a fit.

    Parameters
    ----------
    means
        float64 (n_fits, n_train, n_units), NaN where a half has no valid trial.

    Returns
    -------
    targets
        float64 (n_fits, n_train, n_units): centred; zero for a unit with NaN or a constant response in
        that fit. A zero column adds nothing to any covariance, so all other units come out exactly as if
        the unit were not in that fit; it still takes part in the other fits.
    usable
        bool (n_fits, n_units): False for those columns.
    """
    targets = centre(means, axis=-2)
    usable = spread(targets, axis=-2) >= ZERO_TARGET
    if not usable.all():
        np.copyto(targets, 0.0, where=~usable)
    return targets, usable[:, 0, :]


def correlate_predictions(
    predictions: NDArray[np.float64], targets: Targets, settings: ScoreSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate predictions with the other half, and with each other.

    Parameters
    ----------
    predictions
        float64 (2 n_halves, n_test, n_units), in the order of ``targets.train``.
    targets
        The responses.
    settings
        The kind of correlation.

    Returns
    -------
    r_cross, r_map
        float64 (n_halves, n_units); NaN where a unit was not in one of the two fits.
    """
    first = np.ascontiguousarray(predictions[0::2])
    second = np.ascontiguousarray(predictions[1::2])
    kind = settings.correlation
    return correlate_by(kind, first, targets.second_test), correlate_by(kind, first, second)


def unconverged_fits(
    predictions: NDArray[np.float64], r_map: NDArray[np.float64]
) -> NDArray[np.bool_] | bool:
    """Return for which units a map gave NaN, bool (n_halves, n_units): it did not converge.

    Parameters
    ----------
    predictions
        float64 (2 n_halves, n_test, n_units), halves 1 and 2 of each pair in turn.
    r_map
        float64 (n_halves, n_units): the halves' correlations, which NaN makes NaN.
    """
    if not np.isnan(r_map).any():
        return False
    lost = np.asarray(np.isnan(predictions).any(axis=1))
    return lost[0::2] | lost[1::2]


def correct_split_halves(
    parts: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    exclusions: NDArray[np.uint8],
    missing_image: NDArray[np.int64],
    settings: ScoreSettings,
) -> SplitHalfScores:
    """Correct ``(r_cross, r_map, r_target)`` for noise and find out why what is NaN is NaN."""
    scores = correct_for_noise(*parts, settings)
    return SplitHalfScores(*parts, scores, exclusion_reasons(scores, parts, exclusions), missing_image)


def result_context(
    context: Mapping[str, object] | None, recordings: Sequence[RecordingLike]
) -> dict[str, object]:
    """Add the digest of the responses and versions of libraries to the caller's context of a result."""
    about = dict(context or {})
    others = about.pop("versions", None)
    return {
        **about,
        "responses_sha256": recordings_digest(recordings),
        "versions": {
            **installed_versions("numpy", "scipy", "numba"),
            **(others if isinstance(others, Mapping) else {}),
        },
    }


def recordings_digest(recordings: Sequence[RecordingLike]) -> str:
    """Return the sha256 (hex) of areas, specimens, unit ids and responses, in their order."""
    state = hashlib.sha256()
    for recording in recordings:
        shape = recording.responses.shape
        state.update(f"{recording.area}/{recording.specimen}/{shape}/{recording.responses.dtype}".encode())
        state.update(np.ascontiguousarray(recording.unit_ids, dtype=np.int64).data)
        state.update(np.ascontiguousarray(recording.responses).data)
    return state.hexdigest()
