"""What memory there is, for refusals with numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TOLD = Path("/proc/meminfo")
_PROCESS = Path("/proc/self/status")
#: Limits of the groups of processes this one belongs to (control groups): containers, batch jobs.
_GROUPS, _GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Version:
    """Where a version of control groups tells of memory.

    ``droppable`` is the entry of memory.stat for pages of files that can be dropped: they count as used
    there, and are not in the way.
    """

    place: str
    limit: str
    used: str
    droppable: str


#: By the controllers that the list of groups names.
_VERSIONS: Mapping[str, _Version] = {
    "": _Version("", "memory.max", "memory.current", "inactive_file"),
    "memory": _Version("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory() -> int | None:
    """Bytes that can be had without pushing anything else out of memory; None where nobody tells."""
    told = [free for free in (_of_machine(), _of_group()) if free is not None]
    return min(told) if told else None


def resident_memory() -> int:
    """Bytes that this process takes; 0 where the system does not say."""
    try:
        lines = _PROCESS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    resident = next((line.split() for line in lines if line.startswith("VmRSS:")), None)
    return 0 if resident is None else int(resident[1]) * 1024


def _of_machine() -> int | None:
    try:
        lines = _TOLD.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    told = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return None if told is None else int(told[1]) * 1024


def _of_group() -> int | None:
    """Return what the tightest limit of this process's groups, or of those around them, leaves."""
    try:
        lines = _GROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        version = _VERSIONS.get("memory" if "memory" in controllers.split(",") else controllers)
        if version is not None:
            group = _GROUPS / version.place / path.strip("/")
            found = (_left_in(folder, version) for folder in (group, *group.parents))
            left += [free for free in found if free is not None]
    return min(left) if left else None


def _left_in(folder: Path, version: _Version) -> int | None:
    try:
        limit = int((folder / version.limit).read_text(encoding="ascii"))
        used = int((folder / version.used).read_text(encoding="ascii"))
        fields = dict(
            line.split(maxsplit=1)
            for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        dropped = int(fields.get(version.droppable, 0))
    except (OSError, ValueError):  # no limit ("max"), or no such file
        return None
    return max(0, limit - used + dropped)
