"""How functions on arrays are compiled: kept on disk, and the same bits from every process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function, **options: Any) -> Function:
    """Compile a function for use inside compiled functions; ``options`` are numba's."""
    compile_with: Any = numba.jit
    result: Function = compile_with(nopython=True, nogil=True, error_model="numpy", **options)(function)
    return result


def kept(function: Function, **options: Any) -> Function:
    """Compile a function that Python calls; keep it on disk for later processes.

    numba compiles it anew when its own source file changes. If it has parts in other files it must close
    over their :func:`edition`. Where neither the package nor the user's cache directory can be written, the
    function is compiled in each process.
    """
    try:
        return jit(function, cache=True, **options)
    except RuntimeError:
        return jit(function, cache=False, **options)


def edition(*sources: str) -> int:
    """Return a number that changes with the content of source files, and of this one.

    numba makes the values that a compiled function closes over part of the key of its file on disk.
    """
    digest = hashlib.sha256(b"".join(Path(source).read_bytes() for source in (__file__, *sources))).digest()
    return int.from_bytes(digest[:7], "big")
