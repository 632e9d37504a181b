"""What memory there is, for refusals with numbers."""

from __future__ import annotations

from pathlib import Path

_TOLD = Path("/proc/meminfo")
#: Limits of the group of processes this one belongs to (control groups, version 2): containers, batch jobs.
_GROUPS, _GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_memory() -> int | None:
    """Bytes that can be had without pushing anything else out of memory; None where nobody tells."""
    told = [free for free in (_of_machine(), _of_group()) if free is not None]
    return min(told) if told else None


def _of_machine() -> int | None:
    try:
        lines = _TOLD.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    told = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return None if told is None else int(told[1]) * 1024


def _of_group() -> int | None:
    """Return what the tightest limit of this process's group, or of one around it, leaves."""
    try:
        entry = next(
            line for line in _GROUP.read_text(encoding="utf-8").splitlines() if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return None
    group = _GROUPS / entry.removeprefix("0::").strip("/")
    left = [free for folder in (group, *group.parents) if (free := _left_in(folder)) is not None]
    return min(left) if left else None


def _left_in(folder: Path) -> int | None:
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        # Pages of files that can be dropped count as used there, and are not in the way.
        fields = dict(
            line.split(maxsplit=1)
            for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        dropped = int(fields.get("inactive_file", 0))
    except (OSError, ValueError):  # no limit ("max"), or no such file
        return None
    return max(0, limit - used + dropped)
