"""Features reduced to the few coordinates that a PLS map can see.

PLS without scaling uses the features only through inner products between images,
so any rotation of feature space leaves every prediction unchanged, and what is
orthogonal to the centred training features has no effect at all. A layer with
thousands of features is therefore rotated once into at most ``n_images``
coordinates, and per split into at most ``n_train - 1`` principal coordinates.

Both steps are orthogonal factorisations (Householder QR, then SVD) of the
features themselves. Their Gram matrix would be cheaper still, but it squares the
condition number, and this step is a negligible part of the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.feature_blocks import feature_blocks
from mvkit.scoring.protocol import ImageSplit


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


def layer_coordinates(name: str, features: NDArray[np.floating]) -> LayerCoordinates:
    """Rotate a layer's features into at most ``n_images`` coordinates.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype; brought to float64 before centring.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    largest = 0.0
    rotated = np.zeros((0, 0))
    n_features = 0
    for block in feature_blocks(name, features):
        n_features += block.shape[1]
        largest = max(largest, float(block.max()), -float(block.min()))
        block -= block.mean(axis=0)
        columns = np.vstack([rotated, block.T]) if rotated.size else block.T
        rotated = (
            np.asarray(np.linalg.qr(columns, mode="r")) if columns.shape[0] > columns.shape[1] else columns
        )
    spread = np.sqrt(rotated.shape[1]) + np.sqrt(n_features)
    return LayerCoordinates(
        name,
        np.ascontiguousarray(rotated.T),
        n_features,
        float(np.finfo(np.float64).eps) * largest * spread / 2,
    )


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
