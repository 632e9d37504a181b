"""What memory there is, for refusals with numbers."""

from __future__ import annotations

from pathlib import Path

_TOLD = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that can be had without pushing anything else out of memory; None where nobody tells."""
    try:
        lines = _TOLD.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    told = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return None if told is None else int(told[1]) * 1024
