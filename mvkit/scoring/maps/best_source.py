"""One-to-one maps: each unit's response is predicted by the one feature that correlates best with it.

Looking for the best of thousands of features for thousands of target columns is a product of two large
matrices. It is formed in float32, a block at a time, and only tells which features cannot be the best: the
rounding errors of such a product of unit vectors have a known bound. What is left, a handful per column, is
compared in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled
from mvkit.scoring.maps.sources import Sources, SourceSplit
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.settings import ScoreSettings

#: Features whose correlations differ by no more than this are equally good; the first one is taken.
TIE = 1e-12

# Blocks of the product: their float32 correlations stay in the cache until they are looked at.
BLOCK_SOURCES = 512
BLOCK_TARGETS = 256
# Correlations of one target column that are looked at together.
STRIDE = 64


def predict_one_to_one(
    targets: NDArray[np.float64], prepared: SourceSplit, settings: ScoreSettings
) -> NDArray[np.float64]:
    """Predict each target column by its best-correlated feature.

    The feature with the highest Pearson correlation over the training images is taken, with its sign: a
    feature with a strong negative correlation predicts nothing. See :func:`best_sources` for ties.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.targets.training_targets`.
    prepared
        Features and split.
    settings
        With ``parity`` a unit without a usable training response is "predicted" by the layer's last feature
        as in the 2020 code (goldens section 4); else its prediction is constant.

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units): the features' own values at the test images (less a constant where
        they vary little beside their mean), zero where there is no prediction.
    """
    n_fits, n_train, n_units = targets.shape
    columns = unit_rows(targets.transpose(0, 2, 1).reshape(-1, n_train))
    chosen = best_sources(columns, prepared.sources, prepared.split)
    test = prepared.split.test
    values = near_zero(prepared.sources.values[:, test][chosen].astype(np.float64))
    missing = chosen < 0
    if missing.any():
        values[missing] = 0.0
        if settings.parity:
            values[missing] = near_zero(prepared.sources.last[None, test].astype(np.float64))
    by_unit: NDArray[np.float64] = values.reshape(n_fits, n_units, test.size)
    return np.ascontiguousarray(by_unit.transpose(0, 2, 1))


def best_sources(columns: NDArray[np.float64], sources: Sources, split: ImageSplit) -> NDArray[np.int64]:
    """Find the feature that correlates best with each target column over the training images.

    Features are gone through in order. One takes over if its correlation, computed in float64, is defined
    and exceeds the best so far by more than ``TIE``. So the first of equal features is taken, and rounding
    errors (about 1e-15) decide nothing.

    Parameters
    ----------
    columns
        float64 (n_columns, n_train) from :func:`unit_rows`; rows of zeros have no best feature.
    sources
        The features.
    split
        Its training images are used.

    Returns
    -------
    ndarray
        int64 (n_columns,): rows of ``sources.values``; -1 if there is none.
    """
    n_columns, n_train = columns.shape
    best = np.full(n_columns, -np.inf)
    best[~columns.any(axis=1)] = np.inf
    chosen = np.full(n_columns, -1, dtype=np.int64)
    coarse = columns.astype(np.float32)
    bound = screening_error(n_train)
    room = np.empty(BLOCK_TARGETS * BLOCK_SOURCES, dtype=np.float32)
    for begin in range(0, len(sources.values), BLOCK_SOURCES):
        block = unit_rows(sources.values[begin : begin + BLOCK_SOURCES, split.train].astype(np.float64))
        defined = np.flatnonzero(block.any(axis=1))
        if not defined.size:
            continue
        block = block[defined]
        factors = np.ascontiguousarray(block.astype(np.float32).T)
        for start in range(0, n_columns, BLOCK_TARGETS):
            part = slice(start, min(start + BLOCK_TARGETS, n_columns))
            screen = room[: (part.stop - start) * defined.size].reshape(-1, defined.size)
            np.matmul(coarse[part], factors, out=screen)
            take_over(screen, (columns[part], block), (begin + defined, bound), (best[part], chosen[part]))
    return chosen


def screening_error(n_train: int) -> float:
    """Bound the error of a product of two unit vectors formed in float32, in whatever order.

    Rounding both vectors adds at most ``2 u + u^2``, the sum of ``n`` products ``n u / (1 - n u)`` with
    ``u = 2^-24`` (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1); the margin left
    covers underflow and float64.
    """
    return (1.01 * n_train + 8.0) * 2.0**-24


@compiled
def take_over(
    screen: NDArray[np.float32],
    vectors: tuple[NDArray[np.float64], NDArray[np.float64]],
    names: tuple[NDArray[np.int64], float],
    found: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    """Compare the features of a block with the best so far.

    Parameters
    ----------
    screen
        float32 (n_columns, n_block): correlations.
    vectors
        Target columns (n_columns, n_train) and features (n_block, n_train), of unit length.
    names
        int64 (n_block,) positions of the features in the layer, and the largest error of ``screen``.
    found
        Highest correlation so far and its position, both (n_columns,), updated.
    """
    columns, block = vectors
    positions, bound = names
    best, chosen = found
    n_columns, n_block = screen.shape
    n_train = columns.shape[1]
    for row in range(n_columns):
        limit = np.float32(best[row] + TIE - bound)
        for begin in range(0, n_block, STRIDE):
            end = min(begin + STRIDE, n_block)
            promising = 0
            for source in range(begin, end):  # counting needs no branches, so it runs on whole registers
                promising += screen[row, source] > limit
            if promising == 0:
                continue
            for source in range(begin, end):
                if screen[row, source] > limit:
                    correlation = 0.0
                    for image in range(n_train):
                        correlation += columns[row, image] * block[source, image]
                    if correlation > best[row] + TIE:
                        best[row] = correlation
                        chosen[row] = positions[source]
                        limit = np.float32(correlation + TIE - bound)


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


def near_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean from rows that vary by less than half of it, which is exact (Sterbenz).

    Correlations over test images then lose nothing to a large offset, and a constant row becomes zero.
    """
    means = values.mean(axis=1, keepdims=True)
    spread = np.maximum(values.max(axis=1, keepdims=True) - means, means - values.min(axis=1, keepdims=True))
    constant = values.max(axis=1) == values.min(axis=1)
    means[constant] = values[constant, :1]
    return values - np.where(spread <= np.abs(means) / 2, means, 0.0)


def prepare_search() -> None:
    """Compile the search, or load it from disk, by searching next to nothing."""
    features = np.eye(3)
    images = np.arange(3)
    best_sources(unit_rows(np.eye(3)), Sources(features, features[-1]), ImageSplit(images, images))
