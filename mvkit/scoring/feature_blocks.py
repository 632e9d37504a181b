"""Features of a layer, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

# Features are brought to float64 in blocks of this many: a wide layer is never copied whole.
BLOCK_FEATURES = 8192


def feature_blocks(name: str, features: NDArray[np.floating]) -> Iterator[NDArray[np.float64]]:
    """Yield a layer's features as float64 blocks of neighbouring columns.

    Parameters
    ----------
    name
        Name of the layer, for messages.
    features
        (n_images, n_features), any real dtype.

    Yields
    ------
    ndarray
        float64 (n_images, at most ``BLOCK_FEATURES``), the caller's to overwrite.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    values = np.asarray(features)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiub":
        raise DataError(
            f"layer '{name}': features must be numbers of shape (n_images, n_features), "
            f"got {values.dtype} {values.shape}"
        )
    for begin in range(0, values.shape[1], BLOCK_FEATURES):
        block = values[:, begin : begin + BLOCK_FEATURES].astype(np.float64)
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            image, feature = np.argwhere(~np.isfinite(block))[0]
            raise DataError(
                f"layer '{name}': feature {begin + feature} of image {image} is {block[image, feature]}; "
                "features must be finite"
            )
        yield block
