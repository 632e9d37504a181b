"""Which process this is, and of how many.

Without ``torch.distributed`` there is one process, number 0: code written for
several runs alone unchanged.
"""

from __future__ import annotations

from torch import distributed


def is_member() -> bool:
    """Return whether this process is in a group, be it of one."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if is_member() else 0


def size() -> int:
    """Return how many processes work together."""
    return distributed.get_world_size() if is_member() else 1


def is_first() -> bool:
    """Return whether this is the process that prints and writes files."""
    return rank() == 0
