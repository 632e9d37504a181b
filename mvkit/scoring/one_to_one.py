"""One-to-one maps: each unit's response is predicted by the one feature that correlates best with it.

Looking for the best of thousands of features for thousands of target columns is a product of two large
matrices. It is formed in float32, a block at a time, and only excludes features that cannot be the best
(:func:`screening_error` bounds the error of float32 correlations). What is left, a handful per column, is
compared in float64. Of equal features only the first one is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from mvkit.jit import compiled
from mvkit.scoring.gram import (
    BLOCK_FEATURES,
    Features,
    check_features,
    columns_of,
    feature_blocks,
)
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.settings import ScoreSettings

#: Features whose correlations differ by no more than this are equally good; the first one is taken.
TIE = 1e-12
# Blocks of the product: their float32 correlations stay in the cache until they are compared.
BLOCK_SOURCES = 512
BLOCK_TARGETS = 256
# Correlations of one target column that are screened together.
STRIDE = 64
#: Half the distance from 1 to the next float32: the largest relative rounding error.
UNIT = 2.0**-24
CONSTANT = "constant features: the layer does not vary over the training images"
# Two columns that differ share a digest of so many bytes with a probability of 2^-128: among the 3.2 million
# features of VGG's widest layers any two do with about 10^-26, which no one will see.
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Sources:
    """A layer whose features are compared one by one; nothing of it is copied.

    Attributes
    ----------
    features
        (n_images, n_features), in memory or on disk.
    candidates
        int64 (n_candidates,): indices of the features that are compared, ascending; None: all.
    """

    features: Features
    candidates: NDArray[np.int64] | None = None

    @property
    def n_features(self) -> int:
        """Width of the layer."""
        return int(self.features.shape[1])

    def blocks(
        self, images: NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Yield the features that are compared, in order.

        Parameters
        ----------
        images
            int64 (n_some,): the images requested.
        size
            Most features of a block.

        Yields
        ------
        positions
            int64 (n_block,): of the features in the layer.
        values
            float64 (n_block, n_some).
        """
        for begin in range(0, self.n_features, BLOCK_FEATURES):
            stop = min(begin + BLOCK_FEATURES, self.n_features)
            if self.candidates is None:
                positions = np.arange(begin, stop)
            else:
                positions = self.candidates[slice(*np.searchsorted(self.candidates, (begin, stop)))]
            if not positions.size:
                continue
            columns = columns_of(self.features, begin, stop)
            for first in range(0, positions.size, size):
                part = positions[first : first + size]
                values = columns[np.ix_(images, part - begin)]
                yield part, np.ascontiguousarray(values.T, dtype=np.float64)

    def at(self, positions: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return features by their positions in the layer, float64 (n_positions, n_images)."""
        values = np.empty((positions.size, images.size))
        blocks = positions // BLOCK_FEATURES
        for block in np.unique(blocks):
            rows = np.flatnonzero(blocks == block)
            begin, stop = int(positions[rows].min()), int(positions[rows].max()) + 1
            columns = columns_of(self.features, begin, stop)
            values[rows] = columns[np.ix_(images, positions[rows] - begin)].T
        return values


@dataclass(frozen=True)
class SourceSplit:
    """A layer and one split of the images; nothing is copied."""

    sources: Sources
    split: ImageSplit
    reason: str = ""


def distinct_sources(name: str, features: Features) -> Sources:
    """Compare with the first one of equal features only, found by digests of their values.

    Pooling that enlarges a map repeats its features many times over (goldens section 2, "AlexNet variants"),
    and every feature that is silent for all images equals every other one. Columns are digested block by
    block, so that a wide layer is neither copied nor transposed.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    values = check_features(name, features)
    digests = np.empty((values.shape[1], 2), dtype=np.uint64)
    done = 0
    for block in feature_blocks(name, values):
        rows = np.ascontiguousarray(block.T, dtype=values.dtype)
        digest = b"".join([blake2b(row, digest_size=_DIGEST_BYTES).digest() for row in rows])
        digests[done : done + len(rows)] = np.frombuffer(digest, dtype=np.uint64).reshape(-1, 2)
        done += len(rows)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal ones, the first comes first
    new = np.zeros(order.size, dtype=np.bool_)
    new[0] = True
    for half in (0, 1):
        ordered = digests[order, half]
        new[1:] |= ordered[1:] != ordered[:-1]
    return Sources(values, None if new.all() else np.sort(order[new]))


def layer_sources(name: str, features: Features) -> Sources:
    """Compare with every feature of a layer.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    for _ in feature_blocks(name, features):
        pass  # reading the blocks is the check
    return Sources(check_features(name, features))


def prepare_sources(sources: Sources, split: ImageSplit) -> SourceSplit:
    """Pair a layer with a split; a layer that does not vary over the training images cannot be mapped."""
    # Reading mostly ends with the first block.
    varies = any(
        bool((values != values[:, :1]).any()) for _, values in sources.blocks(split.train, BLOCK_FEATURES)
    )
    return SourceSplit(sources, split, "" if varies else CONSTANT)


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
    chosen = best_sources(columns, prepared.sources, prepared.split)
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
        int64 (n_columns,): positions in the layer; -1 if there is none.
    """
    best = np.full(len(columns), -np.inf)
    best[~columns.any(axis=1)] = np.inf
    chosen = np.full(len(columns), -1, dtype=np.int64)
    coarse = columns.astype(np.float32)
    margin = TIE - screening_error(columns.shape[1])
    buffer = np.empty(BLOCK_TARGETS * BLOCK_SOURCES, dtype=np.float32)
    for positions, block in sources.blocks(split.train, BLOCK_SOURCES):
        bring_to_unit_length(block)
        defined = np.flatnonzero(block.any(axis=1))
        if not defined.size:
            continue
        block, positions = block[defined], positions[defined]
        factors = np.ascontiguousarray(block.astype(np.float32).T)
        for start in range(0, len(columns), BLOCK_TARGETS):
            rows = slice(start, start + BLOCK_TARGETS)
            products = buffer[: len(coarse[rows]) * defined.size].reshape(-1, defined.size)
            np.matmul(coarse[rows], factors, out=products)
            take_over(products, margin, (columns[rows], block), positions, (best[rows], chosen[rows]))
    return chosen


@compiled
def take_over(
    products: NDArray[np.float32],
    margin: float,
    vectors: tuple[NDArray[np.float64], NDArray[np.float64]],
    positions: NDArray[np.int64],
    results: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    """Compare the features of a block with the best so far.

    Parameters
    ----------
    products
        float32 (n_columns, n_block): correlations, up to :func:`screening_error`.
    margin
        A feature whose float32 correlation exceeds the best so far by no more than this is not compared.
    vectors
        Target columns (n_columns, n_train) and features (n_block, n_train), of unit length.
    positions
        int64 (n_block,): of the features in the layer.
    results
        Highest correlation so far and the position of its feature, both (n_columns,), updated.
    """
    columns, block = vectors
    best, chosen = results
    n_columns, n_block = products.shape
    n_train = columns.shape[1]
    for column in range(n_columns):
        product = products[column]
        limit = np.float32(best[column] + margin)
        for begin in range(0, n_block, STRIDE):
            end = min(begin + STRIDE, n_block)
            promising = 0
            for source in range(begin, end):  # counting needs no branches: it runs on whole registers
                promising += product[source] > limit
            if promising == 0:
                continue
            for source in range(begin, end):
                if product[source] > limit:
                    correlation = 0.0
                    for image in range(n_train):
                        correlation += columns[column, image] * block[source, image]
                    if correlation > best[column] + TIE:
                        best[column] = correlation
                        chosen[column] = positions[source]
                        limit = np.float32(correlation + margin)


def near_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean from rows that vary by less than half of it, which is exact (Sterbenz).

    Correlations over test images then lose nothing to a large offset, and a constant row becomes zero.
    """
    means = values.mean(axis=1, keepdims=True)
    spread = np.maximum(values.max(axis=1, keepdims=True) - means, means - values.min(axis=1, keepdims=True))
    constant = values.max(axis=1) == values.min(axis=1)
    means[constant] = values[constant, :1]
    return values - np.where(spread <= np.abs(means) / 2, means, 0.0)


def screening_error(n_train: int) -> float:
    """Bound the error of a product of two unit vectors formed in float32, in whatever order.

    Rounding both vectors adds at most ``2 u + u^2``, the sum of ``n`` products ``n u / (1 - n u)`` with
    ``u = 2^-24`` (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1); the margin left
    covers underflow, float64, and rounding what the product is compared with.
    """
    return (1.01 * n_train + 8.0) * UNIT


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


def prepare_search() -> None:
    """Compile the search, or load it from disk, by searching next to nothing."""
    features = np.eye(3)
    images = np.arange(3)
    best_sources(unit_rows(np.eye(3)), Sources(features), ImageSplit(images, images))
