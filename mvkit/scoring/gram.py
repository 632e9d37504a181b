"""Principal coordinates of many small, noisy sources: by way of inner products between images.

A layer of a model is reduced once and serves thousands of fits, see :mod:`mvkit.scoring.reduction`. When
the source is another animal, every half of every halving is a matrix of its own and serves one fit per
split. Its inner products between images are then formed once for all splits, and each split takes an
eigendecomposition of a matrix as large as its training images. That squares the condition number, which
costs noisy responses nothing; where it would matter (the spectrum falls below ``CLEAR`` or has gaps), the
split is reduced the careful way instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.scoring.inner_products import inner_products, stand_clear
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.reduction import (
    LayerCoordinates,
    SplitCoordinates,
    layer_coordinates,
    rounding_noise,
    split_coordinates,
)

# Smallest eigenvalue, relative to the largest, whose direction is taken from inner products. Its singular
# value is then right to 1e-8 of itself, and it is the direction that a map weighs least.
CLEAR = 1e-8
CONSTANT = "the source units do not vary over the training images"


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
        Components that the map needs, see :func:`~mvkit.scoring.reduction.split_coordinates`.

    Returns
    -------
    tuple of SplitCoordinates
        The same coordinates, up to signs and rounding, as :func:`~mvkit.scoring.reduction.layer_coordinates`
        and :func:`~mvkit.scoring.reduction.split_coordinates` give; a ``reason`` speaks of source units.

    Raises
    ------
    DataError
        If the features are not finite.
    """
    values = np.asarray(features, dtype=np.float64)
    n_images, n_units = values.shape
    if n_units < n_components:
        few = f"{n_components} components need at least {n_components} source units, there are {n_units}"
        return tuple(_nothing(split, few) for split in splits)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: responses to predict from must be finite")
    deviations = values - values.mean(axis=0)
    inner = inner_products(deviations)
    noise = rounding_noise(float(np.abs(values).max()), n_images, n_units)
    layer: LayerCoordinates | None = None
    found = []
    for split in splits:
        coordinates = _from_inner_products(inner, split, n_units, noise)
        if coordinates is None:
            layer = layer_coordinates(name, values) if layer is None else layer
            coordinates = split_coordinates(layer, split, n_components)
        found.append(_nothing(split, CONSTANT) if coordinates.reason else coordinates)
    return tuple(found)


def _nothing(split: ImageSplit, reason: str) -> SplitCoordinates:
    empty = np.empty((0, split.train.size))
    return SplitCoordinates(empty, np.empty(0), np.empty((split.test.size, 0)), reason)


def _from_inner_products(
    inner: NDArray[np.float64], split: ImageSplit, n_features: int, noise: float
) -> SplitCoordinates | None:
    """Take coordinates from inner products, or None if rounding errors would show."""
    rank = min(split.train.size - 1, n_features)
    columns = inner[:, split.train]
    columns -= columns.mean(axis=1, keepdims=True)
    train = columns[split.train]
    mean = train.mean(axis=0)
    values, vectors = np.linalg.eigh(train - mean)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    if not stand_clear(values, clear=CLEAR, noise=noise):
        return None
    scale = np.sqrt(values)
    return SplitCoordinates(
        basis=np.ascontiguousarray(vectors.T),
        scale=scale,
        test=(columns[split.test] - mean) @ (vectors / scale),
    )
