"""Free disk space: asked for beforehand, and explained when it runs out anyway."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvkit.fetch.failures import FetchHaltedError
from mvkit.fetch.sizes import readable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(place: Path) -> int:
    """Return the free bytes of the file system on which ``place`` lies or would lie."""
    existing = place
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_free(place: Path, needed: int) -> None:
    """Refuse to start what would not fit.

    Raises
    ------
    FetchHaltedError
        If fewer than ``needed`` bytes are free at ``place``.
    """
    free = free_bytes(place)
    if free < needed:
        raise FetchHaltedError(
            f"{place}: {readable(needed)} of disk are needed and {readable(free)} are free\n"
            f"free {readable(needed - free)}, or choose another place with --home or MVKIT_HOME"
        )


@contextmanager
def explaining_full_disk(place: Path, *, remedy: str) -> Iterator[None]:
    """Turn the system's "no space left" (disk, quota, file size limit) into a FetchHaltedError.

    Parameters
    ----------
    place
        File or directory being written.
    remedy
        What the user should do once there is space.

    Raises
    ------
    FetchHaltedError
        If the block fails for want of space; other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise FetchHaltedError(f"{place}: the disk is full ({error.strerror})\n{remedy}") from error
