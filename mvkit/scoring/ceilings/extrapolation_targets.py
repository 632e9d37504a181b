"""One animal predicted from fewer source units, or over fewer images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.scoring.ceilings.draws import PairDraws, PairSize, draw_pair
from mvkit.scoring.ceilings.pairs import joined_halvings, score_pair
from mvkit.scoring.ceilings.sources import pooled_responses
from mvkit.scoring.protocol import HalvingScores, splits_of
from mvkit.scoring.run import estimate
from mvkit.scoring.settings import ScoreSettings

Over = Literal["units", "stimuli"]


@dataclass(frozen=True)
class Target:
    """An animal and the populations that it is predicted from.

    Attributes
    ----------
    area, specimen
        Where the units lie.
    unit_ids
        int64 (n_units,).
    responses
        (n_trials, n_images, n_units), NaN = missing.
    sources
        Per source the responses of its animals: all others, or one of them. They are pooled only when needed,
        or every target would hold a copy of its whole area.
    """

    area: str
    specimen: int
    unit_ids: NDArray[np.int64]
    responses: NDArray[np.floating]
    sources: tuple[tuple[NDArray[np.floating], ...], ...]


def consistency_at_sizes(
    target: Target, sizes: Sequence[int], over: Over, settings: ScoreSettings
) -> NDArray[np.float64]:
    """Score one animal at every size, each with as many halvings as a ceiling has.

    Every halving draws source units of its own, number ``b`` the first ones of
    ``RandomState([halves_seed, size, b]).permutation``. Images have to be split anew for each draw: there the
    halvings are divided among ``n_subsamples`` draws, ``RandomState([split_seed, size, draw])``. So each size
    costs no more than one ceiling. Trials are halved as for the ceiling; a size that is all units or all
    images gives the ceiling itself.

    Parameters
    ----------
    target
        The animal and its sources.
    sizes
        Source units, or images.
    over
        Which of them.
    settings
        The protocol.

    Returns
    -------
    ndarray
        float64 (n_sizes, n_units), NaN = no score.
    """
    at_size = _with_units if over == "units" else _with_images
    scores = []
    pools = [pooled_responses(source) for source in target.sources]
    with threadpool_limits(limits=1):
        for size in sizes:
            found = [at_size(target, pool, size, settings) for pool in pools]
            # Halvings with several sources count alike, as in the ceiling.
            scores.append(estimate(joined_halvings(found), settings))
    return np.stack(scores)


def trial_draws(target: Target, source: NDArray[np.floating], settings: ScoreSettings) -> PairDraws:
    """Draw the halvings of a pair with all source units."""
    n_trials, n_images, _ = target.responses.shape
    size = PairSize(n_trials, source.shape[0], n_images, source.shape[2], n_kept=source.shape[2])
    return draw_pair(size, settings)


def _with_units(
    target: Target, source: NDArray[np.floating], size: int, settings: ScoreSettings
) -> HalvingScores:
    draws = trial_draws(target, source, settings)
    splits = splits_of(target.responses.shape[1], settings)
    n_rows, n_source_units = draws.target.shape[0], source.shape[2]
    if size < n_source_units:
        orders = [_drawn((settings.halves_seed, size, row), n_source_units) for row in range(n_rows)]
        draws = replace(draws, units=np.stack(orders), n_kept=size)
    return score_pair(target.responses, source, draws, splits, settings).halvings


def _with_images(
    target: Target, source: NDArray[np.floating], size: int, settings: ScoreSettings
) -> HalvingScores:
    draws = trial_draws(target, source, settings)
    n_rows, n_images = draws.target.shape[0], target.responses.shape[1]
    n_draws = 1 if size >= n_images else min(settings.n_subsamples, n_rows)
    splits = splits_of(size, settings)
    found = []
    for draw, rows in enumerate(np.array_split(np.arange(n_rows), n_draws)):
        images = np.sort(_drawn((settings.split_seed, size, draw), n_images)[:size])
        part = PairDraws(
            _of_images(draws.target[rows], images), _of_images(draws.source[rows], images), None, draws.n_kept
        )
        pair = score_pair(target.responses[:, images], source[:, images], part, splits, settings)
        found.append(pair.halvings)
    return joined_halvings(found)


def _drawn(seeds: tuple[int, int, int], n: int) -> NDArray[np.int64]:
    return np.random.RandomState(list(seeds)).permutation(n).astype(np.int64)


def _of_images(weights: NDArray[np.generic], images: NDArray[np.int64]) -> NDArray[np.generic]:
    return weights[..., images] if weights.ndim == 4 else weights
