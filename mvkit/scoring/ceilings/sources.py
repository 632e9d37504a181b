"""The population that an animal is predicted from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.protocol import half_means, halving_groups


def pooled_responses(animals: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Put the units of several animals side by side.

    Parameters
    ----------
    animals
        Each (n_trials, n_images, n_units), NaN = missing; numbers of trials may differ.

    Returns
    -------
    ndarray
        (largest n_trials, n_images, all units), trials aligned by their position; NaN where an animal has
        fewer of them.
    """
    if len(animals) == 1:
        return animals[0]
    n_trials = max(responses.shape[0] for responses in animals)
    missing = ((0, 0), (0, 0))
    return np.concatenate(
        [
            np.pad(responses, ((0, n_trials - responses.shape[0]), *missing), constant_values=np.nan)
            for responses in animals
        ],
        axis=2,
    )


def predicting_units(responses: NDArray[np.floating], weights: NDArray[np.generic]) -> NDArray[np.int64]:
    """Find the source units that can have a say: those known for every image in each half of each halving.

    One rule for all fits of a pair keeps its predictions comparable with one another.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing.
    weights
        (n_halves, 2, n_trials[, n_images]) as for :func:`~mvkit.scoring.protocol.half_means`.

    Returns
    -------
    ndarray
        int64 positions of these units, ascending.
    """
    patterns, of_unit = _gaps(responses)
    complete = np.ones(patterns.shape[2], dtype=np.bool_)
    for group in halving_groups(weights.shape[0], patterns[0].size):
        complete &= ~np.isnan(half_means(patterns, weights[group])).any(axis=(0, 1, 2))
    return np.flatnonzero(complete[of_unit]).astype(np.int64)


def _gaps(responses: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct patterns of missing responses (NaN, else 0), and which of them each unit has.

    The units of an animal mostly share theirs: a missing presentation is missing for all of them.
    """
    found: dict[bytes, int] = {}
    kinds: list[NDArray[np.float64]] = []
    of_unit = np.empty(responses.shape[2], dtype=np.int64)
    for unit, missing in enumerate(np.isnan(responses).transpose(2, 0, 1)):
        key = np.packbits(missing).tobytes()
        if key not in found:
            found[key] = len(kinds)
            kinds.append(np.where(missing, np.nan, 0.0))
        of_unit[unit] = found[key]
    return np.stack(kinds, axis=2), of_unit


def source_features(
    means: NDArray[np.float64], chosen: NDArray[np.int64] | None
) -> Iterator[NDArray[np.float64]]:
    """Yield what each fit predicts from: halves 1 and 2 of each halving in turn.

    Parameters
    ----------
    means
        float64 (n_halves, 2, n_images, n_source_units).
    chosen
        int64 (n_halves, n_kept): the source units of each halving; None = all.
    """
    for halving, pair in enumerate(means):
        for half in pair:
            yield half if chosen is None else half[:, chosen[halving]]
