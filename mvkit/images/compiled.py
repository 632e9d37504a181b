"""How functions on pixels are compiled.

No fast-math flag is set: every operation is rounded by itself, in the order written. Results then depend
neither on which machine code a process happens to run (freshly compiled, loaded from disk, inlined or not)
nor on threads and batches.
"""

from __future__ import annotations

from mvkit.compiling import edition
from mvkit.compiling import jit as compiled_part
from mvkit.compiling import kept as compiled

__all__ = ["compiled", "compiled_part", "edition"]
