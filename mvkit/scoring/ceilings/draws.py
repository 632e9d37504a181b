"""Halvings of two animals at once, and draws of equally many source units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.protocol import draw_halving
from mvkit.scoring.settings import ScoreSettings

#: Order of the source units, or None, and the weights of the target's and the source's trials.
_Row = tuple[NDArray[np.int64] | None, NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class PairDraws:
    """What chance decides in one pair of target and source; a row per halving (and draw of source units).

    Attributes
    ----------
    target, source
        (n_rows, 2, n_trials of each[, n_images]): how often each trial counts in each set, see
        :func:`~mvkit.scoring.protocol.half_means`.
    units
        int64 (n_rows, n_source_units): order of the source units, of which the first ``n_kept`` that can be
        used predict; None = all of them predict.
    n_kept
        Source units to predict from.
    """

    target: NDArray[np.generic]
    source: NDArray[np.generic]
    units: NDArray[np.int64] | None
    n_kept: int


@dataclass(frozen=True)
class PairSize:
    """Trials of target and source, images, units of the source, and how many of these predict."""

    n_target_trials: int
    n_source_trials: int
    n_images: int
    n_source_units: int
    n_kept: int


def draw_pair(size: PairSize, settings: ScoreSettings) -> PairDraws:
    """Draw the halvings of a pair of animals, and which source units predict.

    Row ``b`` comes from one ``RandomState(halves_seed + b)``: first the trials of the target, which are
    therefore those of a model's score, then the trials of the source. If fewer source units than there are
    shall predict, each generator yields several rows: with at least as many halvings as sub-samples, one
    generator per halving makes ``n_subsamples`` rows, drawing units, target trials and source trials for
    each; otherwise one generator per sub-sample draws units once, and then ``n_halves`` times the trials of
    both (goldens sections 4 and 6).
    """
    rows: list[_Row] = []
    if size.n_kept >= size.n_source_units:
        for halving in range(settings.n_halves):
            rows.append((None, *_trials(_generator(settings, halving), size, settings)))
        return _joined(rows, size)
    if settings.n_subsamples > settings.n_halves:
        for subsample in range(settings.n_subsamples):
            generator = _generator(settings, subsample)
            units = _shuffled(generator, size.n_source_units)
            rows += [(units, *_trials(generator, size, settings)) for _ in range(settings.n_halves)]
    else:
        for halving in range(settings.n_halves):
            generator = _generator(settings, halving)
            for _ in range(settings.n_subsamples):
                units = _shuffled(generator, size.n_source_units)
                rows.append((units, *_trials(generator, size, settings)))
    return _joined(rows, size)


def _generator(settings: ScoreSettings, number: int) -> np.random.RandomState:
    return np.random.RandomState(settings.halves_seed + number)


def _shuffled(generator: np.random.RandomState, n: int) -> NDArray[np.int64]:
    order = np.arange(n, dtype=np.int64)
    generator.shuffle(order)
    return order


def _trials(
    generator: np.random.RandomState, size: PairSize, settings: ScoreSettings
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    n_images = None if settings.synchronous else size.n_images
    return (
        draw_halving(generator, size.n_target_trials, settings.halving, n_images=n_images),
        draw_halving(generator, size.n_source_trials, settings.halving, n_images=n_images),
    )


def _joined(rows: list[_Row], size: PairSize) -> PairDraws:
    units = [order for order, _, _ in rows if order is not None]
    return PairDraws(
        target=np.stack([weights for _, weights, _ in rows]),
        source=np.stack([weights for _, _, weights in rows]),
        units=np.stack(units) if units else None,
        n_kept=min(size.n_kept, size.n_source_units),
    )
