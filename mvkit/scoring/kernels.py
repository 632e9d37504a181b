"""Compiled loops of the modules around that work without numba, whose import takes half a second.

They are imported inside the functions that call them, so that reading, checking and refusing results does
without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.jit import compiled, compiled_part

# Constants of splitmix64 (Steele, Lea, Flood 2014): a generator of our own inside compiled code, because
# numba's would make draws depend on its version.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_HALF = np.uint64(32)


@compiled
def column_correlations(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    space: NDArray[np.float64],
    result: NDArray[np.float64],
) -> None:
    """Correlate matching columns over the middle axis.

    Parameters
    ----------
    first, second
        float64 (n, n_rows, n_columns).
    space
        float64 (5, n_columns), overwritten: work space.
    result
        float64 (n, n_columns), overwritten; NaN where either column is constant or holds NaN.
    """
    n, n_rows, n_columns = first.shape
    mean_first, mean_second, square_first, square_second, product = space
    for item in range(n):
        mean_first[:] = 0.0
        mean_second[:] = 0.0
        for row in range(n_rows):
            for column in range(n_columns):
                mean_first[column] += first[item, row, column]
                mean_second[column] += second[item, row, column]
        mean_first /= n_rows
        mean_second /= n_rows
        square_first[:] = 0.0
        square_second[:] = 0.0
        product[:] = 0.0
        for row in range(n_rows):
            for column in range(n_columns):
                x = first[item, row, column] - mean_first[column]
                y = second[item, row, column] - mean_second[column]
                square_first[column] += x * x
                square_second[column] += y * y
                product[column] += x * y
        for column in range(n_columns):
            scale = np.sqrt(square_first[column]) * np.sqrt(square_second[column])
            value = product[column] / scale if scale > 0.0 else np.nan
            result[item, column] = min(1.0, max(-1.0, value)) if value == value else np.nan


@compiled
def draw_counts(
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    seed: np.uint64,
    units: NDArray[np.uint32],
    counts: NDArray[np.uint16],
) -> None:
    """Count how often each unit is drawn; those of animal ``a`` are ``sizes[a]`` from ``starts[a]`` on.

    ``units`` is work space for those of the largest animal.
    """
    n_animals = sizes.shape[0]
    state = _mix(seed + _STEP)
    for resample in range(counts.shape[0]):
        for _ in range(n_animals):
            state += _STEP
            animal = np.int64(((_mix(state) >> _HALF) * np.uint64(n_animals)) >> _HALF)
            begin, n_units = starts[animal], sizes[animal]
            size = np.uint64(n_units)
            # Drawn first and counted afterwards: the processor draws several at once.
            for index in range(n_units):
                state += _STEP
                units[index] = np.uint32(((_mix(state) >> _HALF) * size) >> _HALF)
            for index in range(n_units):
                counts[resample, begin + units[index]] += 1


@compiled_part
def _mix(state: np.uint64) -> np.uint64:
    word = (state ^ (state >> _SHIFTS[0])) * _MIX_1
    word = (word ^ (word >> _SHIFTS[1])) * _MIX_2
    return word ^ (word >> _SHIFTS[2])


@compiled
def count_medians(
    values: NDArray[np.float64],
    order: NDArray[np.int64],
    counts: NDArray[np.uint16],
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
