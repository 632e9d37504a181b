"""Byte counts as people read them."""

from __future__ import annotations


def readable(n_bytes: int) -> str:
    """Return a byte count in decimal units with one decimal, such as ``9.8 GB``."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    size = float(n_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
