"""Checksums of files on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Digests:
    """Checksums of one file from a single reading, in hexadecimal."""

    sha256: str
    md5: str | None = None


def digests(
    path: Path,
    *,
    with_md5: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Digests:
    """Read a file once and return its SHA-256 and, if wanted, its MD5.

    Parameters
    ----------
    path
        File to read.
    with_md5
        Whether the MD5 is wanted too; it takes longer than the SHA-256.
    progress
        Called with (bytes read, size).
    """
    # MD5 is a server's checksum here, not a safeguard against forgery.
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha256.update(block)
            if with_md5:
                md5.update(block)
            done += len(block)
            progress(done, size)
    return Digests(sha256.hexdigest(), md5.hexdigest() if with_md5 else None)
