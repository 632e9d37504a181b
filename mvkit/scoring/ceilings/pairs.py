"""How well one animal's responses are predicted from other animals'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.ceilings.draws import PairDraws
from mvkit.scoring.ceilings.sources import predicting_units, source_features
from mvkit.scoring.correlation import Drop
from mvkit.scoring.maps import MAPPINGS, Map
from mvkit.scoring.protocol import (
    HalvingScores,
    ImageSplit,
    Targets,
    correlate_predictions,
    finished,
    half_means,
    halving_groups,
    note_missing,
    targets_of_split,
    without_prediction,
)
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.similarity import Similarity


@dataclass(frozen=True)
class PairScores:
    """One target animal scored from one source.

    Attributes
    ----------
    halvings
        Every split and row of :class:`~mvkit.scoring.ceilings.draws.PairDraws`.
    n_source_units
        Source units that each prediction is made from.
    reason
        Why nothing can be predicted from this source, or "".
    """

    halvings: HalvingScores
    n_source_units: int
    reason: str


def score_pair(
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    draws: PairDraws,
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> PairScores:
    """Score one recording from the responses of other animals, which are as noisy as its own.

    The trials of both are halved. The prediction of half h is that of a map fitted on the training images
    from half h of the source to half h of the target; the score is then the same as for a model
    (goldens section 4).

    Source units without a valid trial for some image in some half take no part. Units that do not vary over
    the training images of a half take part but cannot contribute to any map.

    Parameters
    ----------
    target, source
        (n_trials, n_images, n_units) to the same images; NaN = missing. Numbers of trials may differ.
    draws
        The halvings of both, and the choice of source units.
    splits
        The image splits.
    settings
        Mapping and noise correction.
    """
    row = MAPPINGS[settings.mapping]
    usable = predicting_units(source, draws.source)
    if usable.size == 0:
        shape = (len(splits), draws.target.shape[0], target.shape[2] if row.per_unit else 1)
        return PairScores(nothing_scored(shape, settings), 0, "no source unit is known for every image")
    if usable.size < source.shape[2]:
        source = source[:, :, usable]
    work = _PairWork(target, source, draws, _chosen(draws, usable), splits, settings)
    n_source_units = usable.size if work.chosen is None else work.chosen.shape[1]
    if isinstance(row, Similarity):
        return PairScores(_compared(row, work), n_source_units, "")
    halvings, reason = _mapped(row, work)
    return PairScores(halvings, n_source_units, reason)


@dataclass(frozen=True)
class _PairWork:
    target: NDArray[np.floating]
    source: NDArray[np.floating]
    draws: PairDraws
    chosen: NDArray[np.int64] | None
    splits: Sequence[ImageSplit]
    settings: ScoreSettings

    def means(self, group: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean responses of source and target, float64 (n_halves, 2, n_images, n_units)."""
        return (
            half_means(self.source, self.draws.source[group]),
            half_means(self.target, self.draws.target[group]),
        )


def _chosen(draws: PairDraws, usable: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Positions among the usable units of those drawn in each row, in the order drawn."""
    if draws.units is None:
        return None
    position = np.full(draws.units.shape[1], -1, dtype=np.int64)
    position[usable] = np.arange(usable.size)
    ordered = position[draws.units]
    return np.stack([order[order >= 0][: draws.n_kept] for order in ordered])


def nothing_scored(shape: tuple[int, ...], settings: ScoreSettings) -> HalvingScores:
    """Scores that are all NaN; ``shape`` is (n_splits, n_halves, n_units)."""
    gap = np.full(shape, np.nan)
    return finished((gap, gap, gap), np.zeros(shape, dtype=np.uint8), np.full(shape[2], -1), settings)


def _mapped(row: Map[Any, Any], work: _PairWork) -> tuple[HalvingScores, str]:
    """Fit a map per half, halving and split; also return why not one could be fitted, or ""."""
    n_rows, n_units = work.draws.target.shape[0], work.target.shape[2]
    shape = (len(work.splits), n_rows, n_units)
    r_cross, r_map, r_target = (np.full(shape, np.nan) for _ in range(3))
    drops = np.zeros(shape, dtype=np.uint8)
    missing_image = np.full(n_units, -1, dtype=np.int64)
    reasons: list[str] = []
    size = work.target.shape[1] * (work.source.shape[2] + (1 + len(work.splits)) * n_units)
    for group in halving_groups(n_rows, size):
        source_means, target_means = work.means(group)
        note_missing(target_means, missing_image)
        targets = [targets_of_split(target_means, split, work.settings) for split in work.splits]
        chosen = None if work.chosen is None else work.chosen[group]
        predictions = [
            np.full((of_split.train.shape[0], *of_split.second_test.shape[1:]), np.nan)
            for of_split in targets
        ]
        failed = [
            _predict(row, features, targets, fit, predictions, work)
            for fit, features in enumerate(source_features(source_means, chosen))
        ]
        reasons += [reason for of_fit in failed for reason in of_fit]
        for index, of_split in enumerate(targets):
            r_target[index, group] = of_split.r_target
            parts = correlate_predictions(predictions[index], of_split, work.settings)
            r_cross[index, group], r_map[index, group] = parts
            fitted = np.array([not of_fit[index] for of_fit in failed])
            lost = without_prediction(predictions[index], parts[1]) & (fitted[0::2] & fitted[1::2])[:, None]
            drops[index, group] = np.where(lost & (of_split.drops == 0), Drop.NOT_CONVERGED, of_split.drops)
    halvings = finished((r_cross, r_map, r_target), drops, missing_image, work.settings)
    return halvings, reasons[0] if all(reasons) else ""


def _predict(
    row: Map[Any, Any],
    features: NDArray[np.float64],
    targets: Sequence[Targets],
    fit: int,
    predictions: Sequence[NDArray[np.float64]],
    work: _PairWork,
) -> list[str]:
    """Fit one half on every split and write its predictions; return why each split has no fit, or ""."""
    prepared = row.prepare_source("source animals", features, work.splits, work.settings)
    for index, part in enumerate(prepared):
        if not part.reason:
            train = targets[index].train[fit : fit + 1]
            predictions[index][fit] = row.predict(train, part, work.settings)[0]
    return [part.reason for part in prepared]


def _compared(row: Similarity, work: _PairWork) -> HalvingScores:
    """Compare the two populations in every halving."""
    n_images, n_source_units = work.source.shape[1:]
    size = n_images * (2 * n_source_units + work.target.shape[2])
    found = []
    for group in halving_groups(work.draws.target.shape[0], size):
        source_means, target_means = work.means(group)
        if work.chosen is not None:
            source_means = np.take_along_axis(source_means, work.chosen[group, None, None, :], axis=3)
        found.append(row.between(source_means, target_means, work.splits, work.settings))
    return joined_halvings(found)


def joined_halvings(parts: Sequence[HalvingScores]) -> HalvingScores:
    """Put the halvings of equal units one after another."""
    missing = np.stack([part.missing_image for part in parts])
    first = np.where(missing < 0, np.iinfo(np.int64).max, missing).min(axis=0)
    r_cross, r_map, r_target, scores = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("r_cross", "r_map", "r_target", "scores")
    )
    drops = np.concatenate([part.drops for part in parts], axis=1)
    missing_image = np.where(missing.max(axis=0) < 0, -1, first)
    return HalvingScores(r_cross, r_map, r_target, scores, drops, missing_image)
