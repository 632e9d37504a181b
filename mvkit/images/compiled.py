"""How functions on pixels are compiled.

No fast-math flag is set: every operation is rounded by itself, in the order written. Results then depend
neither on which machine code a process happens to run (freshly compiled, loaded from disk, inlined or not)
nor on threads and batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def _jit(function: Function, **options: Any) -> Function:
    compile_with: Any = numba.jit
    result: Function = compile_with(nopython=True, nogil=True, error_model="numpy", **options)(function)
    return result


def compiled_part(function: Function) -> Function:
    """Compile a function that other compiled functions call."""
    return _jit(function)


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
