"""What lies in the cache, and how to make it smaller."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mvkit.errors import UsageError
from mvkit.store.temporary import is_abandoned, is_leftover, is_temporary

#: What ceilings between animals count as; each is a folder.
CEILINGS = "ceilings"
#: Folder in the cache that holds no results.
_SCRATCH = "scratch"

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_RULE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


@dataclass(frozen=True)
class KindInfo:
    """Results of one kind.

    Attributes
    ----------
    n_entries, n_bytes
        How many, and the size of their files.
    oldest_use, newest_use
        When the one unused for longest, and the one used last, were used; seconds since 1970.
    """

    n_entries: int
    n_bytes: int
    oldest_use: float
    newest_use: float


@dataclass(frozen=True)
class CacheInfo:
    """What lies in a cache.

    Attributes
    ----------
    folder
        The cache.
    kinds
        Kind -> what there is of it, by name.
    n_leftovers, leftover_bytes
        Files of processes that ended while writing.
    """

    folder: Path
    kinds: Mapping[str, KindInfo]
    n_leftovers: int
    leftover_bytes: int

    @property
    def n_bytes(self) -> int:
        """Size of everything."""
        return sum(kind.n_bytes for kind in self.kinds.values()) + self.leftover_bytes

    def to_json(self) -> dict[str, object]:
        """Return everything as plain values."""
        kinds = {name: asdict(kind) for name, kind in self.kinds.items()}
        leftovers = {"n_files": self.n_leftovers, "n_bytes": self.leftover_bytes}
        return {
            "folder": str(self.folder),
            "n_bytes": self.n_bytes,
            "kinds": kinds,
            "leftovers": leftovers,
        }


@dataclass(frozen=True)
class PruneReport:
    """What was removed from a cache, and what is left.

    Attributes
    ----------
    n_removed, removed_bytes
        Results removed.
    n_leftovers, leftover_bytes
        Removed files of processes that ended while writing.
    left
        What there is now.
    """

    n_removed: int
    removed_bytes: int
    n_leftovers: int
    leftover_bytes: int
    left: CacheInfo

    def to_json(self) -> dict[str, object]:
        """Return everything as plain values."""
        return {
            "n_removed": self.n_removed,
            "removed_bytes": self.removed_bytes,
            "n_leftovers": self.n_leftovers,
            "leftover_bytes": self.leftover_bytes,
            "left": self.left.to_json(),
        }


@dataclass(frozen=True)
class _Result:
    """A cached result: a file, or the folder of a ceiling."""

    kind: str
    path: Path
    n_bytes: int
    used: float


def cache_info(folder: Path, *, ceilings: Path | None = None) -> CacheInfo:
    """Count what lies in a cache. Files that vanish meanwhile, or cannot be looked at, do not count.

    Parameters
    ----------
    folder
        The cache; it need not exist.
    ceilings
        Folder of ceilings between animals, which lie beside the cache and count as one kind.
    """
    grouped: dict[str, list[_Result]] = {}
    for result in _entries(folder, ceilings):
        grouped.setdefault(result.kind, []).append(result)
    kinds = {
        kind: KindInfo(
            len(found),
            sum(result.n_bytes for result in found),
            min(result.used for result in found),
            max(result.used for result in found),
        )
        for kind, found in sorted(grouped.items())
    }
    leftovers = list(_leftovers(folder, ceilings))
    return CacheInfo(folder, kinds, len(leftovers), sum(map(_size, leftovers)))


def prune(folder: Path, rule: str, *, ceilings: Path | None = None) -> PruneReport:
    """Remove results from a cache, and always what processes left that ended while writing.

    Results that other processes read at the same moment become misses for them. Files that are being
    written stay. Ceilings are pruned as everything else.

    Parameters
    ----------
    folder, ceilings
        As for :func:`cache_info`.
    rule
        ``"all"``; or for how long a result to be removed has not been used (``"30d"``, ``"12h"``, ``"90m"``,
        ``"2w"``); or the size to which the cache is to shrink, unused for longest first (``"5GB"``,
        ``"500MB"``; a GB is 10^9 bytes).

    Raises
    ------
    UsageError
        If the rule is none of these.
    """
    oldest_first = sorted(_entries(folder, ceilings), key=lambda result: result.used)
    doomed = _chosen(oldest_first, rule)
    removed = [result for result in doomed if _removed(result.path)]
    leftovers = [(path, _size(path)) for path in _leftovers(folder, ceilings)]
    gone = [size for path, size in leftovers if _removed(path)]
    return PruneReport(
        len(removed),
        sum(result.n_bytes for result in removed),
        len(gone),
        sum(gone),
        cache_info(folder, ceilings=ceilings),
    )


def _chosen(oldest_first: list[_Result], rule: str) -> list[_Result]:
    if rule.strip().lower() == "all":
        return oldest_first
    found = _RULE.fullmatch(rule.strip())
    number, unit = found.groups() if found else ("", "")
    if found and unit in _SECONDS:
        limit = time.time() - float(number) * _SECONDS[unit]
        return [result for result in oldest_first if result.used < limit]
    prefix = unit.upper().removesuffix("B") if unit.upper().endswith("B") else None
    if found is None or prefix not in _BYTES:
        raise UsageError(
            f"'{rule}' does not say what to prune\n"
            "valid: all; an age since the last use (30d, 12h, 90m, 2w); a size to shrink to (5GB, 500MB)"
        )
    excess = sum(result.n_bytes for result in oldest_first) - float(number) * _BYTES[prefix]
    doomed = []
    for result in oldest_first:
        if excess <= 0:
            break
        doomed.append(result)
        excess -= result.n_bytes
    return doomed


def _entries(folder: Path, ceilings: Path | None) -> Iterator[_Result]:
    for kind in _folders(folder):
        for place in () if kind.name == _SCRATCH else _folders(kind):
            for path in _inside(place):
                yield from _result(kind.name, path)
    for path in _folders(ceilings) if ceilings is not None else ():
        yield from _result(CEILINGS, path)


def _result(kind: str, path: Path) -> Iterator[_Result]:
    # What another process removes meanwhile is not there.
    with suppress(OSError):
        if not is_temporary(path.name):
            yield _Result(kind, path, _size(path), path.stat().st_mtime)


def _leftovers(folder: Path, ceilings: Path | None) -> Iterator[Path]:
    for kind in _folders(folder):
        if kind.name == _SCRATCH:
            yield from _left_in_scratch(kind)
            continue
        for place in _folders(kind):
            yield from (path for path in _inside(place) if is_leftover(path))
    if ceilings is not None:
        yield from (path for path in _inside(ceilings) if is_leftover(path))


def _left_in_scratch(scratch: Path) -> Iterator[Path]:
    """Find what passes of killed processes have left: gigabytes, if they were large."""
    for folder in _folders(scratch):
        if is_abandoned(folder):
            yield folder
        else:
            yield from (path for path in _inside(folder) if is_leftover(path))


def _folders(folder: Path) -> list[Path]:
    return [path for path in _inside(folder) if path.is_dir() and not path.is_symlink()]


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder; what links lead to elsewhere is not in it."""
    try:
        if path.is_dir():
            return 0 if path.is_symlink() else sum(_size(inner) for inner in path.iterdir())
        return path.stat().st_size
    except OSError:
        return 0


def _removed(path: Path) -> bool:
    """Remove a file or a folder; tell whether it was there and could be removed."""
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:
        return False
    return True
