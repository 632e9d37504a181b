"""Coarse correlations between target columns and features, and how wrong they can be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled

#: Half the distance from 1 to the next float32: the largest relative rounding error.
UNIT = 2.0**-24

# A half is derived from the other if that costs no more than so many times the usual error.
LARGEST_FACTOR = 20.0


class Screening(NamedTuple):
    """How coarse correlations of all target columns follow from those of some.

    The correlations of a column are ``share * c_sum + weight * c``, with those of a row of ``sums`` and of
    a column that is multiplied out (itself, or the one whose partner it is), up to ``bound``.

    Attributes
    ----------
    direct
        int64 (n_direct,): columns that are multiplied out.
    partner
        int64 (n_columns,): the column that follows from this one, or -1.
    sums
        float32 (n_sums, n_train): unit vectors.
    sum_of
        int64 (n_columns,): rows of ``sums``.
    share, weight
        float32 (n_columns,).
    bound
        float64 (n_columns,): largest error.
    """

    direct: NDArray[np.int64]
    partner: NDArray[np.int64]
    sums: NDArray[np.float32]
    sum_of: NDArray[np.int64]
    share: NDArray[np.float32]
    weight: NDArray[np.float32]
    bound: NDArray[np.float64]


def screening_error(n_train: int) -> float:
    """Bound the error of a product of two unit vectors formed in float32, in whatever order.

    Rounding both vectors adds at most ``2 u + u^2``, the sum of ``n`` products ``n u / (1 - n u)`` with
    ``u = 2^-24`` (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1); the margin left
    covers underflow, float64, and rounding what the product is compared with.
    """
    return (1.01 * n_train + 8.0) * UNIT


def screen_all(columns: NDArray[np.float64]) -> Screening:
    """Multiply out every column, float64 (n_columns, n_train) from :func:`unit_rows`."""
    n_columns, n_train = columns.shape
    return Screening(
        direct=np.arange(n_columns, dtype=np.int64),
        partner=np.full(n_columns, -1, dtype=np.int64),
        sums=np.zeros((1, n_train), dtype=np.float32),
        sum_of=np.zeros(n_columns, dtype=np.int64),
        share=np.zeros(n_columns, dtype=np.float32),
        weight=np.ones(n_columns, dtype=np.float32),
        bound=np.full(n_columns, screening_error(n_train)),
    )


def screen_halves(targets: NDArray[np.float64], columns: NDArray[np.float64]) -> Screening:
    """Multiply out first halves only, where the second ones are what is left of all trials.

    If a unit's two halves are disjoint, equally large and miss no trial, they add up to the same sum in
    every halving, and second halves follow from it and from first ones. Whether that holds is not asked but
    measured: by how much a second half differs from what follows enters its bound.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units): halves 1 and 2 of each halving in turn, if there are halvings.
    columns
        float64 (n_fits * n_units, n_train): the same, each brought to unit length by :func:`unit_rows`.
    """
    n_fits, n_train, n_units = targets.shape
    screening = screen_all(columns)
    if n_fits % 2 == 1:
        return screening
    lengths = np.sqrt(np.einsum("fiu,fiu->fu", targets, targets))
    first, second = lengths[0::2], lengths[1::2]
    sums = (targets[0] + targets[1]).T
    sizes = np.sqrt(np.einsum("ui,ui->u", sums, sums))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sums /= sizes[:, None]
        share, weight = sizes / second, -first / second
        by_half = columns.reshape(n_fits // 2, 2, n_units, n_train)
        difference = share[:, :, None] * sums
        difference += weight[:, :, None] * by_half[:, 0]
        difference -= by_half[:, 1]
        gap = np.sqrt(np.einsum("hui,hui->hu", difference, difference))
        # The last term is for doing the same in float32.
        bound = gap * (1 + 4 * UNIT) + (share - weight + 1) * (screening_error(n_train) + 4 * UNIT)
        derived = bound < LARGEST_FACTOR * screening_error(n_train)  # False where anything is undefined
    rows = np.arange(n_fits * n_units, dtype=np.int64).reshape(n_fits // 2, 2, n_units)
    from_first, to_second = rows[:, 0][derived], rows[:, 1][derived]
    screening.partner[from_first] = to_second
    screening.sum_of[to_second] = np.broadcast_to(np.arange(n_units), derived.shape)[derived]
    screening.share[to_second] = share[derived]
    screening.weight[to_second] = weight[derived]
    screening.bound[to_second] = bound[derived]
    return screening._replace(
        direct=np.setdiff1d(screening.direct, to_second, assume_unique=True),
        sums=np.nan_to_num(sums).astype(np.float32),
    )


def unit_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre rows and bring them to unit length, so that their products are Pearson correlations.

    Parameters
    ----------
    values
        float64 (n_rows, n_images).

    Returns
    -------
    ndarray
        float64, same shape; zero where all values of a row are equal.
    """
    rows = np.array(values, dtype=np.float64, order="C")
    bring_to_unit_length(rows)
    return rows


@compiled
def bring_to_unit_length(rows: NDArray[np.float64]) -> None:
    """Centre and scale rows in place, see :func:`unit_rows`."""
    n_rows, n_images = rows.shape
    for index in range(n_rows):
        row = rows[index]
        first = row[0]
        differing = 0
        for image in range(n_images):
            differing += row[image] != first
        if differing == 0:
            row[:] = 0.0
            continue
        # Twice: the mean of large numbers is wrong by more than small deviations can bear.
        for _ in range(2):
            mean = 0.0
            for image in range(n_images):
                mean += row[image]
            mean /= n_images
            for image in range(n_images):
                row[image] -= mean
        largest = 0.0
        for image in range(n_images):
            largest = max(largest, abs(row[image]))
        square = 0.0
        for image in range(n_images):
            row[image] /= largest  # squares neither overflow nor vanish
            square += row[image] * row[image]
        length = np.sqrt(square)
        for image in range(n_images):
            row[image] /= length
