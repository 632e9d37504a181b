"""Whether something that is cached still is what it was, by its fingerprint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Features of one image differ by float32 rounding between processors and sizes of batches.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6


def probes_agree(cached: NDArray[np.float64], now: NDArray[np.float64]) -> bool:
    """Tell whether two fingerprints are equal up to float32 rounding; NaN agrees with NaN.

    Parameters
    ----------
    cached, now
        float64 (n,): what a layer gave for the first batch then, and what it gives now.
    """
    if cached.shape != now.shape:
        return False
    return bool(np.allclose(cached, now, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True))
