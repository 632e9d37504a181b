"""Turn blocks of measured responses into what the neural file stores, without loss.

Every stored number is decoded again and compared with the measured one before
it is accepted, so a conversion can never change a value.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural.layout import LARGEST_COUNT, MISSING_COUNT

#: One spike in a bin of 10 ms, in spikes/s, is 1 / 0.01.
BIN_S = 0.01
# Blocks of this many elements stay in a core's cache through all steps.
_STEP = 32 * 1024


class NotCountsError(DataError):
    """A response is no whole number of spikes per 10 ms bin."""


class Encoder(Protocol):
    """Fills stored values from measured ones and counts the missing."""

    dtype: np.dtype[Any]
    n_missing: int

    def encode(self, measured: NDArray[Any], stored: NDArray[Any]) -> None:
        """Fill ``stored`` (n,) from ``measured`` (n,)."""


class CountEncoder:
    """Stores rates as counts: uint8 k for exactly k / 0.01 spikes/s, 255 for NaN."""

    def __init__(self) -> None:
        self.dtype = np.dtype(np.uint8)
        self.n_missing = 0
        self._rates = np.arange(LARGEST_COUNT + 2) / BIN_S
        self._rates[MISSING_COUNT] = np.nan  # never equal to a rate, so 255 is never taken for a count
        self._scaled = np.empty(_STEP)
        self._decoded = np.empty(_STEP)
        self._equal = np.empty(_STEP, dtype=bool)

    def encode(self, measured: NDArray[Any], stored: NDArray[Any]) -> None:
        """Fill ``stored`` uint8 (n,) from ``measured`` (n,), in spikes/s.

        Raises
        ------
        NotCountsError
            When a value is neither NaN nor exactly k / 0.01 with k from 0 to 254.
        """
        # NaN and rates beyond the range make arbitrary counts, which the comparison finds.
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(measured), _STEP):
                part = measured[start : start + _STEP]
                self._encode_step(part, stored[start : start + _STEP])

    def _encode_step(self, part: NDArray[Any], stored: NDArray[Any]) -> None:
        scaled, decoded, equal = (work[: len(part)] for work in (self._scaled, self._decoded, self._equal))
        np.multiply(part, BIN_S, out=scaled)
        np.add(scaled, 0.5, out=scaled)
        np.copyto(stored, scaled, casting="unsafe")
        np.take(self._rates, stored, out=decoded, mode="clip")
        np.equal(decoded, part, out=equal)
        if equal.all():
            return
        odd = np.flatnonzero(np.logical_not(equal))
        is_missing = np.isnan(part[odd])
        if not is_missing.all():
            first = float(part[odd[np.argmin(is_missing)]])
            raise NotCountsError(f"{first!r} spikes/s is no whole number (0 to 254) of spikes per 10 ms bin")
        stored[odd] = MISSING_COUNT
        self.n_missing += len(odd)


class FloatEncoder:
    """Stores values as they are, in float32 or float64, NaN for the missing.

    Parameters
    ----------
    source_dtype
        Type of the measured values; integers are stored as float64 if that is exact.
    """

    def __init__(self, source_dtype: np.dtype[Any]) -> None:
        small = source_dtype.kind == "f" and source_dtype.itemsize <= 4
        self.dtype = np.dtype(np.float32 if small else np.float64)
        self.n_missing = 0

    def encode(self, measured: NDArray[Any], stored: NDArray[Any]) -> None:
        """Fill ``stored`` (n,) from ``measured`` (n,).

        Raises
        ------
        DataError
            When an integer is too large for float64.
        """
        for start in range(0, len(measured), _STEP):
            part, kept = measured[start : start + _STEP], stored[start : start + _STEP]
            np.copyto(kept, part, casting="unsafe")
            self.n_missing += int(np.count_nonzero(kept != kept))
            if measured.dtype.kind != "f" and not np.array_equal(kept.astype(measured.dtype), part):
                raise DataError("the responses are integers too large to be stored without loss")
