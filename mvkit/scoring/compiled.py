"""How scoring compiles functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and contracted (needed for SIMD), but NaN and infinity keep their meaning.
ARITHMETIC = {"reassoc", "contract", "nsz"}


def _jit(function: Function, **options: Any) -> Function:
    compile_with: Any = numba.jit
    result: Function = compile_with(
        nopython=True, nogil=True, error_model="numpy", fastmath=ARITHMETIC, **options
    )(function)
    return result


def compiled_part(function: Function) -> Function:
    """Compile a function that only other compiled functions call, into each place where they call it.

    It must not remain a function of its own. A process that compiles would then use one machine code for it,
    and a process that loads the caller from disk another: last bits of results would differ between them.
    """
    return _jit(function, forceinline=True)


def expanded_part(function: Function) -> Function:
    """Do the same at an earlier stage, which is faster for functions that are called in one place only."""
    return _jit(function, inline="always")


def compiled(function: Function) -> Function:
    """Compile a function that Python calls; keep it on disk for later processes.

    numba compiles it anew when its own source file changes. If it has parts in other files it must close
    over their :func:`edition`. Where neither the package nor the user's cache directory can be written, the
    function is compiled in each process.
    """
    try:
        return _jit(function, cache=True)
    except RuntimeError:
        return _jit(function, cache=False)


def edition(*sources: str) -> int:
    """Return a number that changes with the content of source files.

    numba makes the values that a compiled function closes over part of the key of its file on disk.
    """
    digest = hashlib.sha256(b"".join(Path(source).read_bytes() for source in sources)).digest()
    return int.from_bytes(digest[:7], "big")
