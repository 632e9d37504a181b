"""Features of a layer, a block at a time, from memory or from disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

# Features are brought to float64 in blocks of this many: a wide layer is never copied whole.
BLOCK_FEATURES = 8192


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


def columns_of(features: Features, begin: int, stop: int) -> NDArray[Any]:
    """Return features ``begin`` to ``stop`` of all images in their own dtype; of an array, a view."""
    if isinstance(features, np.ndarray):
        return features[:, begin:stop]
    return features.columns(begin, stop)


def as_features(features: Any) -> Features:
    """Return what can be read by columns unchanged, and anything else (a list, say) as an array."""
    if isinstance(features, np.ndarray) or hasattr(features, "columns"):
        found: Features = features
        return found
    return np.asarray(features)


def is_wide(features: Features) -> bool:
    """Whether a layer has more features than one block."""
    return features.shape[1] > BLOCK_FEATURES


def feature_blocks(name: str, features: Features) -> Iterator[NDArray[np.float64]]:
    """Yield a layer's features as float64 blocks of neighbouring columns.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype, in memory or on disk.

    Yields
    ------
    ndarray
        float64 (n_images, at most ``BLOCK_FEATURES``), in row order, the caller's to overwrite.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    values = check_features(name, features)
    for begin in range(0, values.shape[1], BLOCK_FEATURES):
        stop = min(begin + BLOCK_FEATURES, values.shape[1])
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
    """Return features that can be read by columns; see :func:`feature_blocks`.

    Raises
    ------
    DataError
        If they are not a matrix of numbers. Whether they are finite is not looked at.
    """
    values = as_features(features)
    if len(values.shape) != 2 or 0 in values.shape or values.dtype.kind not in "fiub":
        raise DataError(
            f"layer '{name}': features must be numbers of shape (n_images, n_features), "
            f"got {values.dtype} {values.shape}"
        )
    return values
