"""Compiling functions on arrays with numba: cached on disk, the same bits from every process.

Scores are compiled with sums that may be reordered and contracted, which SIMD needs; NaN and infinity keep
their meaning. Pixels are compiled *exactly*: every operation is rounded by itself, in the order written, so
that results depend neither on which machine code a process runs (freshly compiled, loaded from disk, inlined
or not) nor on threads and batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

#: Options of numba for scores: flags of fast-math; no counting of references to arrays, which takes a fifth
#: of the time of a PLS fit, so that such functions may look at parts of arrays but not make any.
_SCORES = {"fastmath": {"reassoc", "contract", "nsz"}, "_nrt": False}


def compiled(function: Function) -> Function:
    """Compile a function of scores that Python calls, and that makes no arrays; cached on disk."""
    return _cached(function, **_SCORES)


def compiled_part(function: Function) -> Function:
    """Compile a function that only other compiled functions call, into each place where they call it.

    It must not remain a function of its own. A process that compiles would then use one machine code for it,
    and a process that loads the caller from disk another: last bits of results would differ between them.
    """
    return _jit(function, forceinline=True, **_SCORES)


def expanded_part(function: Function) -> Function:
    """Do the same at an earlier stage, which is faster for functions that are called in one place only."""
    return _jit(function, inline="always", **_SCORES)


def compiled_exact(function: Function) -> Function:
    """Compile a function of pixels that Python calls; cached on disk."""
    return _cached(function)


def compiled_exact_part(function: Function) -> Function:
    """Compile a function of pixels, or of random bits, for use inside compiled functions."""
    return _jit(function)


def edition(*sources: str) -> int:
    """Return a number that changes with the content of source files, and of this one.

    numba compiles a function anew when its own source file changes. If it has parts in other files, it must
    close over their edition: numba makes such values part of the key of its file on disk.
    """
    digest = hashlib.sha256(b"".join(Path(source).read_bytes() for source in (__file__, *sources))).digest()
    return int.from_bytes(digest[:7], "big")


def _cached(function: Function, **options: Any) -> Function:
    try:
        compiled_function = _jit(function, cache=True, **options)
    except RuntimeError:
        # Neither the package nor the user's cache directory can be written: compile in each process.
        return _jit(function, **options)
    cache: Any = getattr(compiled_function, "_cache", None)
    if cache is not None:
        load, save = cache.load_overload, cache.save_overload

        def load_if_possible(*arguments: Any) -> Any:
            try:
                return load(*arguments)
            except Exception:  # noqa: BLE001 - a file cut off by a power cut, say (numba's issue 10434)
                with suppress(OSError):
                    cache.flush()
                return None

        def save_if_possible(*arguments: Any) -> None:
            # A disk that is full, or damaged files on one that is read-only, cost compiling again.
            with suppress(Exception):
                save(*arguments)

        cache.load_overload, cache.save_overload = load_if_possible, save_if_possible
    return compiled_function


def _jit(function: Function, **options: Any) -> Function:
    compile_with: Any = numba.jit
    result: Function = compile_with(nopython=True, nogil=True, error_model="numpy", **options)(function)
    return result
