"""Names of files that are being written, which tell whose they are."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = ".lock"

#: Nothing here takes so long to write: after this, a process of that number is taken for another one, and
#: one on another machine for dead.
_ABANDONED_S = 24 * 3600.0

_MARK = re.compile(r"\.(?:tmp|old)-(?:([0-9a-f]{8})-)?(\d+)-[0-9a-f]{8}(?:\.|$)")


def temporary_beside(target: Path) -> Path:
    """Return a path in the same folder that no other process uses, with the same suffix."""
    mark = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return target.with_name(f"{target.stem}.tmp-{mark}{target.suffix}")


def is_temporary(name: str) -> bool:
    """Tell whether a file or folder of this name is, or was, being written."""
    return _MARK.search(name) is not None


def is_leftover(path: Path) -> bool:
    """Tell whether the process that was writing a file is gone.

    Of a process on another machine nothing is known: its files are left over after a day.
    """
    found = _MARK.search(path.name)
    if found is None:
        return False
    machine, process = found.groups()
    if machine == _machine() and not _runs(int(process)):
        return True
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except OSError:
        return False


def is_abandoned(folder: Path) -> bool:
    """Tell whether a folder has a lock, ``.lock`` in it, that nobody holds."""
    lock = folder / _LOCK
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is there, and somebody else's.
        return True
    return True
