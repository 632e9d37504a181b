"""Hierarchical bootstrap: animals with replacement, then units of each drawn animal with replacement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.scoring.compiled import compiled, compiled_part

# Constants of splitmix64 (Steele, Lea, Flood 2014): a generator of our own inside compiled code, because
# numba's would make draws depend on its version.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_HALF = np.uint64(32)


@compiled_part
def _mixed(state: np.uint64) -> np.uint64:
    word = (state ^ (state >> _SHIFTS[0])) * _MIX_1
    word = (word ^ (word >> _SHIFTS[1])) * _MIX_2
    return word ^ (word >> _SHIFTS[2])


@compiled
def _draw_counts(
    starts: NDArray[np.int64], sizes: NDArray[np.int64], seed: np.uint64, counts: NDArray[np.int32]
) -> None:
    """Count how often each unit is drawn; those of animal ``a`` are ``sizes[a]`` from ``starts[a]`` on."""
    n_animals = sizes.shape[0]
    state = _mixed(seed + _STEP)
    for resample in range(counts.shape[0]):
        for _ in range(n_animals):
            state += _STEP
            animal = np.int64(((_mixed(state) >> _HALF) * np.uint64(n_animals)) >> _HALF)
            begin = starts[animal]
            size = np.uint64(sizes[animal])
            for _ in range(sizes[animal]):
                state += _STEP
                unit = np.int64(((_mixed(state) >> _HALF) * size) >> _HALF)
                counts[resample, begin + unit] += 1


@compiled
def _medians_of_counts(
    values: NDArray[np.float64],
    order: NDArray[np.int64],
    counts: NDArray[np.int32],
    medians: NDArray[np.float64],
) -> None:
    """Medians of values that count several times; ``order`` sorts them."""
    n_units = values.shape[0]
    for resample in range(counts.shape[0]):
        total = 0
        for unit in range(n_units):
            total += counts[resample, unit]
        lower, upper = (total - 1) // 2, total // 2
        seen = 0
        low = np.nan
        for rank in range(n_units):
            unit = order[rank]
            seen += counts[resample, unit]
            if seen > lower and np.isnan(low):
                low = values[unit]
            if seen > upper:
                medians[resample] = 0.5 * (low + values[unit])
                break


def resampled_counts(sizes: NDArray[np.int64], *, n_resamples: int, seed: int) -> NDArray[np.int32]:
    """Draw resamples as numbers of times that each unit is in them.

    Parameters
    ----------
    sizes
        int64 (n_animals,): units of each animal, all at least 1.
    n_resamples
        Resamples.
    seed
        Seed; equal seeds and sizes give equal draws on every machine.

    Returns
    -------
    ndarray
        int32 (n_resamples, sum of sizes), units in the order of their animals.
    """
    counts = np.zeros((n_resamples, int(sizes.sum())), dtype=np.int32)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    _draw_counts(starts, np.ascontiguousarray(sizes, dtype=np.int64), np.uint64(seed), counts)
    return counts


class Draws:
    """Resamples for one set of settings, drawn once for each list of animals' sizes.

    Layers of a model have the same animals with, mostly, the same numbers of scored units.
    """

    def __init__(self, *, n_resamples: int, seed: int) -> None:
        self._n_resamples = n_resamples
        self._seed = seed
        self._known: dict[bytes, NDArray[np.int32]] = {}

    def counts(self, sizes: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return :func:`resampled_counts` of these sizes."""
        key = sizes.tobytes()
        if key not in self._known:
            self._known[key] = resampled_counts(sizes, n_resamples=self._n_resamples, seed=self._seed)
        return self._known[key]


def medians_of_counts(columns: NDArray[np.float64], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Medians of resamples.

    Parameters
    ----------
    columns
        float64 (n_columns, n_units), without NaN.
    counts
        int32 (n_resamples, n_units): how often each unit is in each resample.

    Returns
    -------
    ndarray
        float64 (n_columns, n_resamples).
    """
    medians = np.empty((columns.shape[0], counts.shape[0]))
    for index, values in enumerate(np.ascontiguousarray(columns, dtype=np.float64)):
        _medians_of_counts(values, np.argsort(values, kind="stable"), counts, medians[index])
    return medians


def resampled_column_medians(
    columns: NDArray[np.floating], animals: NDArray[np.generic], *, n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Medians of several values per unit, over the same hierarchical bootstrap resamples.

    As many animals as there are are drawn with replacement, then from each drawn animal as many units as it
    has, with replacement (Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 3.8,
    strategy 2). A unit that is NaN in any column takes no part.

    Parameters
    ----------
    columns
        float (n_columns, n_units).
    animals
        (n_units,): which animal each unit belongs to.
    n_resamples, seed
        Resamples and their seed. The order of units does not matter, to the last bit.

    Returns
    -------
    ndarray
        float64 (n_columns, n_resamples); all NaN where no unit is left.

    Raises
    ------
    DataError
        If ``columns`` and ``animals`` do not belong to the same number of units.
    """
    ordered, sizes = by_animal(columns, animals)
    if not sizes.size:
        return np.full((len(ordered), n_resamples), np.nan)
    return medians_of_counts(ordered, resampled_counts(sizes, n_resamples=n_resamples, seed=seed))


def resampled_medians(
    values: NDArray[np.floating], animals: NDArray[np.generic], *, n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Medians of hierarchical bootstrap resamples of one value per unit.

    Parameters
    ----------
    values
        float (n_units,); NaN takes no part.
    animals, n_resamples, seed
        As in :func:`resampled_column_medians`.

    Returns
    -------
    ndarray
        float64 (n_resamples,).
    """
    medians: NDArray[np.float64] = resampled_column_medians(
        np.asarray(values)[None], animals, n_resamples=n_resamples, seed=seed
    )[0]
    return medians


def by_animal(
    columns: NDArray[np.floating], animals: NDArray[np.generic]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Leave out units with NaN and sort the others by :func:`animal_order`.

    Returns
    -------
    columns, sizes
        float64 (n_columns, n_valid) and int64 (n_animals,): units of each animal, in the order of the labels.
    """
    order, sizes = animal_order(columns, animals)
    return np.ascontiguousarray(np.asarray(columns, dtype=np.float64)[:, order]), sizes


def animal_order(
    columns: NDArray[np.floating], animals: NDArray[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort units without NaN by animal, then by value, so that the order they come in has no effect.

    Returns
    -------
    order, sizes
        int64 (n_valid,) positions of units, and int64 (n_animals,): units of each animal.

    Raises
    ------
    DataError
        If shapes do not fit.
    """
    values = np.asarray(columns, dtype=np.float64)
    labels = np.asarray(animals)
    if values.ndim != 2 or labels.shape != values.shape[1:]:
        raise DataError(
            f"values of shape {values.shape} and animals of shape {labels.shape}: give (n_columns, n_units) "
            "and (n_units,)"
        )
    valid = np.flatnonzero(~np.isnan(values).any(axis=0))
    _, group = np.unique(labels[valid], return_inverse=True)
    order = np.lexsort((*values[::-1, valid], group))
    return valid[order], np.bincount(group).astype(np.int64)


def split_by_sizes(columns: NDArray[np.float64], sizes: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Cut columns of :func:`by_animal` into one (n_columns, n_units of the animal) part per animal."""
    return np.split(columns, np.cumsum(sizes)[:-1], axis=1)
