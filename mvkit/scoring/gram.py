"""Gram matrices and principal coordinates: all of the features that a PLS or ridge map depends on.

Such maps use the features only through the Gram matrix of the images, so any rotation of feature space
leaves every prediction unchanged, and what is orthogonal to the centred training features has no effect at
all. A layer with thousands of features is therefore rotated once into at most ``n_images`` coordinates, and
per split into at most ``n_train - 1`` principal coordinates. Features are read a block at a time, from memory
or from disk.

The step per split is a singular value decomposition. The one per layer is a QR decomposition (Householder's)
of the features, or, where there are very many of them, a Cholesky factor of their Gram matrix: a few times
faster, but it squares the condition number (an eigenvalue is right to about the unit of rounding of the
largest one). Where that could be seen in a score (eigenvalues below ``CLEAR``, equal images, rounding errors
of large values), the features are read again and decomposed themselves. A Cholesky factor keeps small
directions better than eigenvectors do: about five times smaller differences of scores.

When the source is another animal, every half of the trials is a matrix of its own and serves one fit per
split. Its Gram matrix is then formed once for all splits, and each split takes an eigendecomposition of a
matrix as large as its training images. That costs noisy responses nothing; where it would matter (the
spectrum falls below ``CLEAR_OF_SOURCE`` or has gaps), the split takes the singular value
decomposition instead.

From ``MANY_IMAGES`` on, decompositions take minutes. The Gram matrix of a layer is not formed from the
features if a quarter of the images shows that it will be ill-conditioned, and the QR decomposition is
LAPACK's with wide blocks. The Gram matrix of the coordinates is formed once for all splits
(:func:`shared_products`): that of a split's training images is a part of it, less means, and its eigenvectors
are the principal coordinates. A map of the leading directions only (``n_leading``: PLS, whose every component
removes one) relies on these being well-conditioned: errors in the others are as small as everywhere, a unit
of rounding of the largest eigenvalue. For other maps eigenvectors are corrected (:func:`centred_svd`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.scoring.protocol import ImageSplit

# Features are brought to float64 in blocks of this many: a wide layer is never copied whole.
BLOCK_FEATURES = 8192
# Smallest eigenvalue of a layer's Gram matrix, relative to the largest, that is relied on. Where one
# direction dwarfs all others by that much and responses depend on every direction alike, scores differ by
# about 1e-10 from those of the features; at 1e-5 it can be 5e-9. Layers of a VGG11 with random weights lie
# at 0.2 for unrelated images and at 1e-5 for overlapping parts of one photograph.
CLEAR = 1e-4
# Smallest eigenvalue, relative to the largest, whose direction is taken from a Gram matrix. Its singular
# value is then right to 1e-8 of itself, and it is the direction that a map weighs least.
CLEAR_OF_SOURCE = 1e-8
# Of fewer images (training images, for a split) every decomposition takes a fraction of a second.
MANY_IMAGES = 500
# Columns that LAPACK's QR decomposition treats at a time.
QR_COLUMNS = 128
# Share of the largest eigenvalue below which an eigenvalue is nothing but rounding errors.
ROUNDING = 10 * float(np.finfo(np.float64).eps)
# Largest angle by which eigenvectors of a Gram matrix are turned to become singular vectors.
SMALL_TURN = 1e-3
CONSTANT_SOURCE = "the source units do not vary over the training images"


class ColumnSource(Protocol):
    """Features that are not held in memory but read a few columns at a time.

    Worker processes get the object, so that pickling it must cost little and it must read there too.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_images, n_features)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values, real."""

    def columns(self, begin: int, stop: int) -> NDArray[Any]:
        """Return features ``begin`` to ``stop`` of all images, (n_images, stop - begin)."""


#: A layer: (n_images, n_features) in memory, or the same read on demand.
Features = NDArray[Any] | ColumnSource


#: ``block @ block.T``, float64 (n_images, n_images), of a block (n_images, n_features): :func:`gram_matrix`,
#: or the same on a device. Called from several threads at a time.
GramFunction = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class LayerCoordinates:
    """A layer's features in rotated coordinates.

    Attributes
    ----------
    name
        Name of the layer.
    coordinates
        float64 (n_images, at most n_images): with the same Gram matrix of (centred) images as the features.
    n_features
        Width of the layer.
    noise
        Size of the rounding errors in the coordinates, inherited from large feature values.
    """

    name: str
    coordinates: NDArray[np.float64]
    n_features: int
    noise: float


#: Eigenvalues, descending, and eigenvectors in columns.
Eigen = tuple[NDArray[np.float64], NDArray[np.float64]]
#: Features, or for a mapping with ``from_coordinates`` their coordinates.
LayerInput = Features | LayerCoordinates


@dataclass(frozen=True)
class SplitCoordinates:
    """A layer in the principal coordinates of one split's training images.

    The centred training features are ``basis.T * scale`` times an orthonormal matrix.

    Attributes
    ----------
    basis
        float64 (rank, n_train), orthonormal rows.
    scale
        float64 (rank,), singular values, descending, all above rounding error.
    test
        float64 (n_test, rank): test images, centred with the training mean, in those coordinates.
    reason
        Why no map can be fitted, or "".
    """

    basis: NDArray[np.float64]
    scale: NDArray[np.float64]
    test: NDArray[np.float64]
    reason: str = ""


def layer_coordinates(name: str, features: Features, gram: GramFunction | None = None) -> LayerCoordinates:
    """Rotate a layer's features into at most ``n_images`` coordinates.

    Features in memory and on disk give the same coordinates, to the last bit.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype, in memory or on disk; brought to float64 before centring. They
        are read in blocks, twice if their Gram matrix is too ill-conditioned.
    gram
        Forms the Gram matrix of a block of a wide layer.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    values = check_features(name, features)
    is_wide = values.shape[1] > BLOCK_FEATURES and _promises_conditioning(name, values)
    coordinates = _layer_from_gram(name, values, gram or gram_matrix) if is_wide else None
    return _layer_from_features(name, values) if coordinates is None else coordinates


def _promises_conditioning(name: str, features: Features) -> bool:
    """Judge by a quarter of many images whether the Gram matrix of all will be well-conditioned.

    Each doubling of the number of images divides the smallest eigenvalue, relative to the largest, by about
    the same factor. A wrong guess costs time only.
    """
    n_images = features.shape[0]
    if n_images < MANY_IMAGES:
        return True
    products = np.zeros((-(-n_images // 4),) * 2)
    for block, _ in _deviations(name, features):
        products += gram_matrix(block[::4])
    ratios = []
    for some in (products[::2, ::2], products):
        centred = some - some.mean(axis=0)
        eigenvalues = np.linalg.eigvalsh(centred - centred.mean(axis=1, keepdims=True))[1:]
        ratios.append(float(eigenvalues[0]) / float(eigenvalues[-1]) if eigenvalues[-1] > 0.0 else 0.0)
    return ratios[0] > 0.0 and ratios[1] * (ratios[1] / ratios[0]) ** 2 > CLEAR


def _layer_from_gram(name: str, features: Features, gram: GramFunction) -> LayerCoordinates | None:
    """Take coordinates from a layer's Gram matrix, or None if rounding errors would show."""
    n_images, n_features = features.shape
    products = np.zeros((n_images, n_images))
    largest = 0.0
    for block, size in _deviations(name, features):
        largest = max(largest, size)
        products += gram(block)
    # Means are rounded: what is left of them is the same for all images and no direction of the layer.
    products -= products.mean(axis=0)
    products -= products.mean(axis=1, keepdims=True)
    noise = rounding_noise(largest, n_images, n_features)
    # A common shift of all images fills the direction of the mean, which the Gram matrix lacks, with an
    # eigenvalue of middling size; it is taken out again.
    if n_images < MANY_IMAGES:
        eigenvalues = np.linalg.eigvalsh(products)[:0:-1]
        if not is_well_conditioned(eigenvalues, clear=CLEAR, noise=noise):
            return None
        factor = np.linalg.cholesky(products + eigenvalues.mean() / n_images)
    else:
        products += np.trace(products) / (n_images * (n_images - 1))
        try:
            factor = np.linalg.cholesky(products)
        except np.linalg.LinAlgError:
            return None
        if not is_well_conditioned(_extreme_eigenvalues(products, factor), clear=CLEAR, noise=noise):
            return None
    return LayerCoordinates(name, factor - factor.mean(axis=0), n_features, noise)


def _extreme_eigenvalues(matrix: NDArray[np.float64], factor: NDArray[Any]) -> NDArray[np.float64]:
    """Return the largest and the smallest eigenvalue of a matrix with a Cholesky factor, to a percent."""
    from scipy.linalg import cho_solve
    from scipy.sparse.linalg import LinearOperator, eigsh

    start = np.random.RandomState(0).standard_normal(len(matrix))
    inverse = LinearOperator(
        matrix.shape, lambda vector: cho_solve((factor, True), vector, check_finite=False), dtype=np.float64
    )
    how: dict[str, Any] = {"k": 1, "v0": start, "tol": 1e-2, "return_eigenvectors": False}
    return np.array([eigsh(matrix, **how)[0], 1.0 / eigsh(inverse, **how)[0]])


def gram_matrix(block: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Return ``block @ block.T``, of which numpy has BLAS compute one triangle only."""
    products: NDArray[np.float64] = block @ block.T
    return products


def _layer_from_features(name: str, features: Features) -> LayerCoordinates:
    """Rotate the features themselves by QR decompositions of block after block."""
    n_images, n_features = features.shape
    largest = 0.0
    rotated = np.zeros((n_images, 0))
    for block, size in _deviations(name, features, columns_at_a_time(n_images)):
        largest = max(largest, size)
        columns = np.hstack([rotated, block]) if rotated.size else block
        rotated = _triangle(columns) if columns.shape[1] > n_images else columns
    return LayerCoordinates(
        name, np.ascontiguousarray(rotated), n_features, rounding_noise(largest, n_images, n_features)
    )


def columns_at_a_time(n_images: int) -> int:
    """Return how many features are decomposed at a time.

    Each decomposition begins with what is left of the features before; for many images few long ones are
    fastest.
    """
    return BLOCK_FEATURES if n_images < MANY_IMAGES else max(BLOCK_FEATURES, 2 * n_images)


def _triangle(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate rows (n_images, more columns than that; overwritten) to a lower triangle: QR decomposition."""
    n_images = len(rows)
    if n_images < MANY_IMAGES:
        return np.asarray(np.linalg.qr(rows.T, mode="r")).T
    from scipy.linalg import lapack

    upper, _, info = lapack.dgeqrt(min(QR_COLUMNS, n_images), rows.T, overwrite_a=True)
    if info:
        raise AssertionError(f"dgeqrt: argument {-info}")
    return np.tril(upper[:n_images].T)


def _deviations(
    name: str, features: Features, size: int | None = None
) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Yield blocks centred over images, each with the size of its largest value before that."""
    for block in feature_blocks(name, features, size):
        largest = max(float(block.max()), -float(block.min()))
        block -= block.mean(axis=0)
        yield block, largest


def shared_products(layer: LayerCoordinates, splits: Sequence[ImageSplit]) -> NDArray[np.float64] | None:
    """Form the Gram matrix of a layer's images, for splits with many training images; None for others.

    Parameters
    ----------
    layer
        The layer's rotated features.
    splits
        Training and test images.

    Returns
    -------
    ndarray or None
        float64 (n_images, n_images). None, too, if there are fewer coordinates than training images: their
        own products are smaller.
    """
    if MANY_IMAGES <= splits[0].train.size <= layer.coordinates.shape[1]:
        return gram_matrix(layer.coordinates)
    return None


def split_coordinates(
    layer: LayerCoordinates,
    split: ImageSplit,
    n_components: int,
    products: NDArray[np.float64] | None = None,
    n_leading: int | None = None,
) -> SplitCoordinates:
    """Express a layer in the principal coordinates of the training images of a split.

    Directions whose singular value is within rounding error are left out.

    Parameters
    ----------
    layer
        The layer's rotated features.
    split
        Training and test images.
    n_components
        Components the map needs. A layer with fewer features cannot be fitted (as in the 2020 code); one
        with enough features but a smaller rank is, with as many components as its rank.
    products
        As from :func:`shared_products`.
    n_leading
        Leading directions that must be known to a rounding error of their own; None: all. Others are known
        to one of the largest. It matters for many images only.
    """
    reason = ""
    if layer.n_features < n_components:
        reason = (
            f"{n_components} components need at least {n_components} features, "
            f"the layer has {layer.n_features}"
        )
    eigen = None
    if products is not None:
        of_train, of_test = _centred_products(products, split)
        eigen = _eigenvectors(of_train, split.train.size - 1)
        found = _from_eigenvectors(eigen, of_test, layer.n_features, layer.noise, CLEAR, n_leading)
        if found is not None:
            return replace(found, reason=reason)
    train = layer.coordinates[split.train]
    mean = train.mean(axis=0)
    left, scale, right = centred_svd(train - mean, n_leading, eigen)
    floor = max(layer.noise, float(scale[0]) * max(train.shape) * float(np.finfo(np.float64).eps))
    kept = scale > floor
    if not kept.any() and not reason:
        reason = "constant features: the layer does not vary over the training images"
    return SplitCoordinates(
        basis=np.ascontiguousarray(left[:, kept].T),
        scale=scale[kept],
        test=(layer.coordinates[split.test] - mean) @ right[kept].T,
        reason=reason,
    )


def centred_svd(
    matrix: NDArray[np.float64],
    n_leading: int | None = None,
    eigen: Eigen | None = None,
) -> tuple[NDArray[np.float64], ...]:
    """Return singular vectors (left, right) and values of a matrix whose columns are centred.

    Parameters
    ----------
    matrix
        float64 (n_rows, n_columns); every column has a mean of zero.
    n_leading
        As for :func:`split_coordinates`.
    eigen
        Eigenvalues and eigenvectors of ``matrix @ matrix.T`` as from :func:`_eigenvectors`, if known.

    Returns
    -------
    left, scale, right
        As of ``np.linalg.svd(matrix, full_matrices=False)``. Of a large matrix, the singular value that
        centring has made zero may be left out, and nearly equal ones need not be in order.
    """
    n_rows, n_columns = matrix.shape
    found = None
    if min(n_rows, n_columns) >= MANY_IMAGES:
        if n_rows <= n_columns:
            found = _svd_from_gram(matrix, n_rows - 1, n_leading, eigen)
        else:
            turned = _svd_from_gram(np.ascontiguousarray(matrix.T), n_columns, n_leading)
            found = None if turned is None else (turned[2].T, turned[1], turned[0].T)
    return tuple(np.linalg.svd(matrix, full_matrices=False)) if found is None else found


def _svd_from_gram(
    matrix: NDArray[np.float64],
    rank: int,
    n_leading: int | None,
    eigen: Eigen | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Take singular vectors from a Gram matrix and correct them, or None if it is too ill-conditioned.

    With the eigenvectors ``U`` of ``AA'``, which squares the condition number, the rows of ``U'A = DW`` are
    not quite orthogonal: ``WW' = I + E``. But ``E`` can be formed to the unit of rounding, and both sides be
    turned to where it vanishes. To first order (Ogita and Aishima 2018, Japan J. Indust. Appl. Math. 35:1007,
    do the same for eigenvectors) that is, for different i and j,

        U (I + X),   X_ij = E_ij d_i d_j / (d_j^2 - d_i^2);
        (I + Y') W,  Y_ij = E_ij d_i^2 / (d_j^2 - d_i^2).

    ``X^2 / 2`` is added, which keeps ``U`` orthonormal to third order.
    """
    values, left = _eigenvectors(gram_matrix(matrix), rank) if eigen is None else eigen
    leading_are_clear = is_well_conditioned(values[:n_leading], clear=CLEAR, noise=0.0)
    if not leading_are_clear and not is_well_conditioned(values, clear=CLEAR_OF_SOURCE, noise=0.0):
        return None
    right = left.T @ matrix
    scale = np.sqrt(np.einsum("ij,ij->i", right, right))
    right /= np.maximum(scale, np.finfo(np.float64).tiny)[:, None]
    if leading_are_clear:
        return left, scale, right
    weights = gram_matrix(right)
    gaps = scale**2 - scale[:, None] ** 2
    np.fill_diagonal(gaps, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights /= gaps
    turn = scale[:, None] * weights * scale
    if not np.abs(turn).max() < SMALL_TURN:
        return None
    step = left @ turn
    left = left + step + 0.5 * (step @ turn)
    right += (weights.T * scale**2) @ right
    return left, scale, right


def gram_coordinates(
    name: str,
    features: NDArray[np.floating],
    splits: Sequence[ImageSplit],
    n_components: int,
) -> tuple[SplitCoordinates, ...]:
    """Express a source in the principal coordinates of the training images of every split.

    Parameters
    ----------
    name
        Name of the source, for messages.
    features
        (n_images, n_features), finite.
    splits
        Training and test images.
    n_components
        Components that the map needs, see :func:`split_coordinates`.

    Returns
    -------
    tuple of SplitCoordinates
        The same, up to signs and rounding, as :func:`layer_coordinates` and :func:`split_coordinates` give; a
        ``reason`` speaks of source units.

    Raises
    ------
    DataError
        If the features are not finite.
    """
    values = np.asarray(features, dtype=np.float64)
    n_images, n_units = values.shape
    if n_units < n_components:
        few = f"{n_components} components need at least {n_components} source units, there are {n_units}"
        return tuple(_no_coordinates(split, few) for split in splits)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: responses to predict from must be finite")
    deviations = values - values.mean(axis=0)
    gram = gram_matrix(deviations)
    noise = rounding_noise(float(np.abs(values).max()), n_images, n_units)
    layer: LayerCoordinates | None = None
    by_split = []
    for split in splits:
        of_train, of_test = _centred_products(gram, split)
        eigen = _eigenvectors(of_train, split.train.size - 1)
        coordinates = _from_eigenvectors(eigen, of_test, n_units, noise, CLEAR_OF_SOURCE)
        if coordinates is None:
            layer = layer_coordinates(name, values) if layer is None else layer
            coordinates = split_coordinates(layer, split, n_components)
        by_split.append(_no_coordinates(split, CONSTANT_SOURCE) if coordinates.reason else coordinates)
    return tuple(by_split)


def _centred_products(
    gram: NDArray[np.float64], split: ImageSplit
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return inner products of the training images of a split, and of its test images with them.

    All are those of deviations from the mean of the training images.
    """
    columns = gram[:, split.train]
    columns -= columns.mean(axis=1, keepdims=True)
    train, test = columns[split.train], columns[split.test]
    mean = train.mean(axis=0)
    train -= mean
    test -= mean
    return train, test


def _eigenvectors(products: NDArray[np.float64], rank: int) -> Eigen:
    """Return the largest eigenvalues, descending, and their eigenvectors in columns."""
    values, vectors = np.linalg.eigh(products)
    return values[::-1][:rank], vectors[:, ::-1][:, :rank]


def _from_eigenvectors(
    eigen: Eigen,
    test: NDArray[np.float64],
    n_features: int,
    noise: float,
    clear: float,
    n_leading: int | None = None,
) -> SplitCoordinates | None:
    """Take coordinates from a Gram matrix, or None if rounding errors would show.

    ``test`` are the inner products of test images with the training images.
    """
    values, vectors = (part[..., :n_features] for part in eigen)
    if not is_well_conditioned(values[:n_leading], clear=clear, noise=noise):
        return None
    rank = int((values > max(ROUNDING * float(values[0]), noise**2)).sum())
    scale, vectors = np.sqrt(values[:rank]), vectors[:, :rank]
    return SplitCoordinates(np.ascontiguousarray(vectors.T), scale, test @ (vectors / scale))


def _no_coordinates(split: ImageSplit, reason: str) -> SplitCoordinates:
    empty = np.empty((0, split.train.size))
    return SplitCoordinates(empty, np.empty(0), np.empty((split.test.size, 0)), reason)


def is_well_conditioned(eigenvalues: NDArray[np.floating], *, clear: float, noise: float) -> bool:
    """Return whether rounding errors leave the smallest direction of a Gram matrix alone.

    Parameters
    ----------
    eigenvalues
        (rank,) of a Gram matrix of images: those of the directions that features have, descending.
    clear
        Smallest eigenvalue, relative to the largest, that is relied on.
    noise
        Singular value of the rounding errors in the features, see :func:`rounding_noise`.
    """
    largest, smallest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest > 0.0 and smallest > max(clear * largest, noise**2)


def rounding_noise(largest: float, n_images: int, n_features: int) -> float:
    """Bound the largest singular value of the rounding errors of features up to ``largest`` in size."""
    spread = np.sqrt(n_images) + np.sqrt(n_features)
    return float(np.finfo(np.float64).eps * largest * spread / 2)


def feature_blocks(name: str, features: Features, size: int | None = None) -> Iterator[NDArray[np.float64]]:
    """Yield a layer's features as float64 blocks of neighbouring columns.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype, in memory or on disk.
    size
        Most columns of a block; None: ``BLOCK_FEATURES``.

    Yields
    ------
    ndarray
        float64 (n_images, at most so many), in row order, the caller's to overwrite.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    values = check_features(name, features)
    size = size or BLOCK_FEATURES
    for begin in range(0, values.shape[1], size):
        stop = min(begin + size, values.shape[1])
        # Always in row order: the layout of an array has no influence on how products are rounded.
        block = columns_of(values, begin, stop).astype(np.float64, order="C")
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            image, feature = np.argwhere(~np.isfinite(block))[0]
            raise DataError(
                f"layer '{name}': feature {begin + feature} of image {image} is {block[image, feature]}; "
                "features must be finite"
            )
        yield block


def check_features(name: str, features: Any) -> Features:
    """Return features that can be read by columns, others (a list, say) as an array.

    Raises
    ------
    DataError
        If they are not a matrix of numbers. Whether they are finite is not checked.
    """
    values: Features = features
    if not isinstance(features, np.ndarray) and not hasattr(features, "columns"):
        values = np.asarray(features)
    if len(values.shape) != 2 or 0 in values.shape or values.dtype.kind not in "fiub":
        raise DataError(
            f"layer '{name}': features must be numbers of shape (n_images, n_features), "
            f"got {values.dtype} {values.shape}"
        )
    return values


def columns_of(features: Features, begin: int, stop: int) -> NDArray[Any]:
    """Return features ``begin`` to ``stop`` of all images in their own dtype; of an array, a view."""
    if isinstance(features, np.ndarray):
        return features[:, begin:stop]
    return features.columns(begin, stop)
