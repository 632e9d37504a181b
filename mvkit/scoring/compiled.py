"""How scoring compiles functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mvkit.compiling import jit, kept

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and contracted (needed for SIMD), but NaN and infinity keep their meaning.
ARITHMETIC = {"reassoc", "contract", "nsz"}


def compiled_part(function: Function) -> Function:
    """Compile a function that only other compiled functions call, into each place where they call it.

    It must not remain a function of its own. A process that compiles would then use one machine code for it,
    and a process that loads the caller from disk another: last bits of results would differ between them.
    """
    return jit(function, fastmath=ARITHMETIC, forceinline=True)


def expanded_part(function: Function) -> Function:
    """Do the same at an earlier stage, which is faster for functions that are called in one place only."""
    return jit(function, fastmath=ARITHMETIC, inline="always")


def compiled(function: Function) -> Function:
    """Compile a function that Python calls and keep it on disk, see :func:`mvkit.compiling.kept`."""
    return kept(function, fastmath=ARITHMETIC)
