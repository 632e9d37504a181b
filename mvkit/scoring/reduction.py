"""Features reduced to the few coordinates that a PLS map can see.

PLS without scaling uses the features only through inner products between images,
so any rotation of feature space leaves every prediction unchanged, and what is
orthogonal to the centred training features has no effect at all. A layer with
thousands of features is therefore rotated once into at most ``n_images``
coordinates, and per split into at most ``n_train - 1`` principal coordinates.

The step per split is a singular value decomposition. The one per layer is a QR
decomposition (Householder's) of the features, or, where there are very many of
them, a Cholesky factor of their inner products between images: a few times
faster, but it squares the condition number. Where that could be seen in a score
(eigenvalues below ``CLEAR``, equal images, rounding errors of large values), the
features are read again and decomposed themselves. A Cholesky factor keeps small
directions better than eigenvectors do: about five times smaller differences of
scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.feature_blocks import Features, check_features, feature_blocks, is_wide
from mvkit.scoring.inner_products import InnerProducts, inner_products, stand_clear
from mvkit.scoring.protocol import ImageSplit

# Smallest eigenvalue of a layer's inner products, relative to the largest, that is relied on. Where one
# direction dwarfs all others by that much and responses depend on every direction alike, scores differ by
# about 1e-10 from those of the features; at 1e-5 it can be 5e-9. Layers of a VGG11 with random weights lie
# at 0.2 for unrelated images and at 1e-5 for overlapping parts of one photograph.
CLEAR = 1e-4


@dataclass(frozen=True)
class LayerCoordinates:
    """A layer's features in rotated coordinates.

    Attributes
    ----------
    name
        Name of the layer.
    coordinates
        float64 (n_images, at most n_images): same inner products between (centred) images as the features.
    n_features
        Width of the layer.
    noise
        Size of the rounding errors in the coordinates, inherited from large feature values.
    """

    name: str
    coordinates: NDArray[np.float64]
    n_features: int
    noise: float


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


def layer_coordinates(
    name: str, features: Features, inner: InnerProducts = inner_products
) -> LayerCoordinates:
    """Rotate a layer's features into at most ``n_images`` coordinates.

    Features in memory and on disk give the same coordinates, to the last bit.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype, in memory or on disk; brought to float64 before centring. They
        are read in blocks, twice if their inner products are too ill-conditioned.
    inner
        Forms the inner products of a wide layer.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    values = check_features(name, features)
    found = _from_inner_products(name, values, inner) if is_wide(values) else None
    return _from_features(name, values) if found is None else found


def rounding_noise(largest: float, n_images: int, n_features: int) -> float:
    """Bound the largest singular value of the rounding errors of features up to ``largest`` in size."""
    spread = np.sqrt(n_images) + np.sqrt(n_features)
    return float(np.finfo(np.float64).eps * largest * spread / 2)


def _from_inner_products(name: str, features: Features, inner: InnerProducts) -> LayerCoordinates | None:
    """Take coordinates from a layer's inner products, or None if rounding errors would show."""
    n_images, n_features = features.shape
    products = np.zeros((n_images, n_images))
    largest = 0.0
    for block, size in _deviations(name, features):
        largest = max(largest, size)
        products += inner(block)
    # Means are rounded: what is left of them is the same for all images and no direction of the layer.
    products -= products.mean(axis=0)
    products -= products.mean(axis=1, keepdims=True)
    noise = rounding_noise(largest, n_images, n_features)
    eigenvalues = np.linalg.eigvalsh(products)[:0:-1]
    if not stand_clear(eigenvalues, clear=CLEAR, noise=noise):
        return None
    # A common shift of all images fills the direction of the mean, which the inner products lack, with an
    # eigenvalue of middling size; it is taken out again.
    factor = np.linalg.cholesky(products + eigenvalues.mean() / n_images)
    return LayerCoordinates(name, factor - factor.mean(axis=0), n_features, noise)


def _from_features(name: str, features: Features) -> LayerCoordinates:
    """Rotate the features themselves by QR decompositions of block after block."""
    largest = 0.0
    rotated = np.zeros((0, 0))
    for block, size in _deviations(name, features):
        largest = max(largest, size)
        columns = np.vstack([rotated, block.T]) if rotated.size else block.T
        rotated = (
            np.asarray(np.linalg.qr(columns, mode="r")) if columns.shape[0] > columns.shape[1] else columns
        )
    return LayerCoordinates(
        name,
        np.ascontiguousarray(rotated.T),
        features.shape[1],
        rounding_noise(largest, *features.shape),
    )


def _deviations(name: str, features: Features) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Yield blocks centred over images, each with the size of its largest value before that."""
    for block in feature_blocks(name, features):
        largest = max(float(block.max()), -float(block.min()))
        block -= block.mean(axis=0)
        yield block, largest


def split_coordinates(layer: LayerCoordinates, split: ImageSplit, n_components: int) -> SplitCoordinates:
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
    """
    reason = ""
    if layer.n_features < n_components:
        reason = (
            f"{n_components} components need at least {n_components} features, "
            f"the layer has {layer.n_features}"
        )
    train = layer.coordinates[split.train]
    mean = train.mean(axis=0)
    left, scale, right = np.linalg.svd(train - mean, full_matrices=False)
    floor = max(layer.noise, float(scale[0]) * max(train.shape) * float(np.finfo(np.float64).eps))
    rank = int((scale > floor).sum())
    if rank == 0 and not reason:
        reason = "constant features: the layer does not vary over the training images"
    return SplitCoordinates(
        basis=np.ascontiguousarray(left[:, :rank].T),
        scale=scale[:rank].copy(),
        test=(layer.coordinates[split.test] - mean) @ right[:rank].T,
        reason=reason,
    )
