"""The one way in which scoring compiles functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

# `np.dot` inside compiled code calls scipy's BLAS. Loading it here lets threadpoolctl find and limit it.
import scipy.linalg.cython_blas  # noqa: F401

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and contracted (needed for SIMD), but NaN and infinity keep their meaning.
ARITHMETIC = {"reassoc", "contract", "nsz"}


def compiled(function: Function) -> Function:
    """Compile with numba: no interpreter lock, and kept on disk for later processes.

    Where neither the package nor the user's cache directory can be written, the function is compiled
    anew in each process.
    """
    options = {"nogil": True, "fastmath": ARITHMETIC, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
