"""Which features of a layer are equal."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.gram import Features, check_features, feature_blocks

# Two columns that differ share a digest of so many bytes with a probability of 2^-128: among the 3.2 million
# features of VGG's widest layers any two do with about 10^-26, which no one will see.
_DIGEST_BYTES = 16


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
