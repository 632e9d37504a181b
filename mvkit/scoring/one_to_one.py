"""One-to-one maps: each unit's response is predicted by the one feature that correlates best with it.

Looking for the best of thousands of features for thousands of target columns is a product of two large
matrices. It is formed in float32, a block at a time, and only tells which features cannot be the best
(:class:`Screening` says how wrong such coarse correlations can be). What is left, a handful per column, is
compared in float64. Of equal features only the first one is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

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

# Blocks of the product: their float32 correlations stay in the cache until they are looked at.
BLOCK_SOURCES = 512
BLOCK_TARGETS = 256
# Correlations of one target column that are looked at together.
STRIDE = 64

#: Half the distance from 1 to the next float32: the largest relative rounding error.
UNIT = 2.0**-24
# A half is derived from the other if that costs no more than so many times the usual error.
LARGEST_FACTOR = 20.0
CONSTANT = "constant features: the layer does not vary over the training images"
# Two columns that differ share a digest of so many bytes with a probability of 2^-128: among the 3.2 million
# features of VGG's widest layers any two do with about 10^-26, which no one will see.
_DIGEST_BYTES = 16


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
        float64 (n_columns, n_train) from :func:`unit_rows`; rows of zeros have
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


@dataclass(frozen=True)
class Sources:
    """A layer whose features are looked at one by one; nothing of it is copied.

    Attributes
    ----------
    features
        (n_images, n_features), in memory or on disk.
    kept
        int64 (n_kept,): the features that are looked at, ascending; None: all.
    """

    features: Features
    kept: NDArray[np.int64] | None = None

    @property
    def n_features(self) -> int:
        """Width of the layer."""
        return int(self.features.shape[1])

    def blocks(
        self, images: NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Yield the features that are looked at, in order.

        Parameters
        ----------
        images
            int64 (n_some,): the images wanted.
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
            if self.kept is None:
                positions = np.arange(begin, stop)
            else:
                positions = self.kept[slice(*np.searchsorted(self.kept, (begin, stop)))]
            if not positions.size:
                continue
            columns = columns_of(self.features, begin, stop)
            for first in range(0, positions.size, size):
                part = positions[first : first + size]
                values = columns[np.ix_(images, part - begin)]
                yield part, np.ascontiguousarray(values.T, dtype=np.float64)

    def at(self, positions: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return features by their positions in the layer, float64 (n_positions, n_images)."""
        found = np.empty((positions.size, images.size))
        blocks = positions // BLOCK_FEATURES
        for block in np.unique(blocks):
            wanted = np.flatnonzero(blocks == block)
            begin, stop = int(positions[wanted].min()), int(positions[wanted].max()) + 1
            columns = columns_of(self.features, begin, stop)
            found[wanted] = columns[np.ix_(images, positions[wanted] - begin)].T
        return found


@dataclass(frozen=True)
class SourceSplit:
    """A layer and one split of the images; nothing is copied."""

    sources: Sources
    split: ImageSplit
    reason: str = ""


def layer_sources(name: str, features: Features) -> Sources:
    """Look at every feature of a layer.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    for _ in feature_blocks(name, features):
        pass  # reading the blocks is the check
    return Sources(check_features(name, features))


def distinct_sources(name: str, features: Features) -> Sources:
    """Look at the first one of equal features only.

    Pooling that enlarges a map repeats its features many times over (goldens section 2, "AlexNet variants"),
    and every feature that is silent for all images equals every other one.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    return Sources(check_features(name, features), first_of_equal(name, features))


def prepare_sources(sources: Sources, split: ImageSplit) -> SourceSplit:
    """Pair a layer with a split; a layer that does not vary over the training images cannot be mapped."""
    # A layer that varies is not read much further than to its first block.
    varies = any(
        bool((values != values[:, :1]).any()) for _, values in sources.blocks(split.train, BLOCK_FEATURES)
    )
    return SourceSplit(sources, split, "" if varies else CONSTANT)


def first_of_equal(name: str, features: Features) -> NDArray[np.int64] | None:
    """Find the first one of equal features, comparing digests of their values.

    Columns are digested block by block, so that a wide layer is neither copied nor turned.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype, in memory or on disk.

    Returns
    -------
    ndarray or None
        int64 (n_distinct,): positions, ascending; None if no two features are equal.

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
        joined = b"".join([blake2b(row, digest_size=_DIGEST_BYTES).digest() for row in rows])
        digests[done : done + len(rows)] = np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
        done += len(rows)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal ones, the first comes first
    new = np.zeros(order.size, dtype=np.bool_)
    new[0] = True
    for half in (0, 1):
        ordered = digests[order, half]
        new[1:] |= ordered[1:] != ordered[:-1]
    if new.all():
        return None
    found: NDArray[np.int64] = np.sort(order[new])
    return found
