"""One-to-one maps: each unit's response is predicted by the one feature that correlates best with it.

Looking for the best of thousands of features for thousands of target columns is a product of two large
matrices. It is formed in float32, a block at a time, and only tells which features cannot be the best, see
:mod:`mvkit.scoring.maps.screening`. What is left, a handful per column, is compared in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled
from mvkit.scoring.maps.screening import (
    Screening,
    bring_to_unit_length,
    screen_all,
    screen_halves,
    unit_rows,
)
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
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.protocol.training_targets`.
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
    chosen = best_sources(columns, prepared.sources, prepared.split, screen_halves(targets, columns))
    test = prepared.split.test
    values = near_zero(prepared.sources.at(np.maximum(chosen, 0), test))
    missing = chosen < 0
    if missing.any():
        values[missing] = 0.0
        if settings.parity:
            last = np.array([prepared.sources.n_features - 1])
            values[missing] = near_zero(prepared.sources.at(last, test))
    by_unit: NDArray[np.float64] = values.reshape(n_fits, n_units, test.size)
    return np.ascontiguousarray(by_unit.transpose(0, 2, 1))


def best_sources(
    columns: NDArray[np.float64],
    sources: Sources,
    split: ImageSplit,
    screening: Screening | None = None,
) -> NDArray[np.int64]:
    """Find the feature that correlates best with each target column over the training images.

    Features are gone through in order. One takes over if its correlation, computed in float64, is defined
    and exceeds the best so far by more than ``TIE``. So the first of equal features is taken, and rounding
    errors (about 1e-15) decide nothing.

    Parameters
    ----------
    columns
        float64 (n_columns, n_train) from :func:`~mvkit.scoring.maps.screening.unit_rows`; rows of zeros have
        no best feature.
    sources
        The features.
    split
        Its training images are used.
    screening
        How coarse correlations are come by, which has no influence on the result; by default each is
        multiplied out.

    Returns
    -------
    ndarray
        int64 (n_columns,): positions in the layer; -1 if there is none.
    """
    screening = screen_all(columns) if screening is None else screening
    best = np.full(len(columns), -np.inf)
    best[~columns.any(axis=1)] = np.inf
    chosen = np.full(len(columns), -1, dtype=np.int64)
    coarse = columns[screening.direct].astype(np.float32)
    room = np.empty(BLOCK_TARGETS * BLOCK_SOURCES, dtype=np.float32)
    for positions, block in sources.blocks(split.train, BLOCK_SOURCES):
        bring_to_unit_length(block)
        defined = np.flatnonzero(block.any(axis=1))
        if not defined.size:
            continue
        block, positions = block[defined], positions[defined]
        factors = np.ascontiguousarray(block.astype(np.float32).T)
        sums = screening.sums @ factors
        for start in range(0, len(coarse), BLOCK_TARGETS):
            rows = coarse[start : start + BLOCK_TARGETS]
            products = room[: len(rows) * defined.size].reshape(-1, defined.size)
            np.matmul(rows, factors, out=products)
            take_over((start, products, sums), screening, (columns, block), positions, (best, chosen))
    return chosen


@compiled
def take_over(
    screen: tuple[int, NDArray[np.float32], NDArray[np.float32]],
    screening: Screening,
    vectors: tuple[NDArray[np.float64], NDArray[np.float64]],
    positions: NDArray[np.int64],
    found: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    """Compare the features of a block with the best so far.

    Parameters
    ----------
    screen
        First of ``screening.direct`` that is meant; float32 (n_rows, n_block) coarse correlations of that one
        and the following; float32 (n_sums, n_block) those of ``screening.sums``.
    screening
        Which columns are meant, and which others follow from them.
    vectors
        All target columns (n_columns, n_train) and features (n_block, n_train), of unit length.
    positions
        int64 (n_block,): of the features in the layer.
    found
        Highest correlation so far and its position, both (n_columns,), updated.
    """
    start, products, sums = screen
    columns, block = vectors
    best, chosen = found
    n_rows, n_block = products.shape
    n_train = columns.shape[1]
    for row in range(n_rows):
        column = screening.direct[start + row]
        for _ in range(2):
            share, weight = screening.share[column], screening.weight[column]
            total = sums[screening.sum_of[column]]
            product = products[row]
            margin = TIE - screening.bound[column]
            limit = np.float32(best[column] + margin)
            for begin in range(0, n_block, STRIDE):
                end = min(begin + STRIDE, n_block)
                promising = 0
                for source in range(begin, end):  # counting needs no branches: it runs on whole registers
                    promising += share * total[source] + weight * product[source] > limit
                if promising == 0:
                    continue
                for source in range(begin, end):
                    if share * total[source] + weight * product[source] > limit:
                        correlation = 0.0
                        for image in range(n_train):
                            correlation += columns[column, image] * block[source, image]
                        if correlation > best[column] + TIE:
                            best[column] = correlation
                            chosen[column] = positions[source]
                            limit = np.float32(correlation + margin)
            column = screening.partner[column]
            if column < 0:
                break


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
    best_sources(unit_rows(np.eye(3)), Sources(features), ImageSplit(images, images))
