"""The cache under mvkit's home: entries by key, checked by their first images, pruned by age or size."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError
from mvkit.files import is_abandoned, is_leftover, is_temporary, temporary_beside

#: Begins every entry; the number is to be raised when what follows is laid out differently.
MAGIC = b"mvkit kept 1\n"

_LENGTH = 8
_DIGEST = 32
#: Truth values, whole and real and complex numbers, bytes, text, dates.
_PLAIN = "biufcSUMm"


def packed(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, object]) -> bytes:
    """Return arrays and a document as bytes.

    Raises
    ------
    DataError
        If an array holds Python objects or records.
    """
    rows, parts = [], []
    for name, values in arrays.items():
        plain = np.asarray(values, order="C")
        if plain.dtype.kind not in _PLAIN:
            raise DataError(
                f"array '{name}' is {plain.dtype}, which cannot be kept: give numbers, or text as dtype U"
            )
        rows.append((name, plain.dtype.str, plain.shape))
        parts.append(plain.tobytes())
    header = json.dumps({"arrays": rows, "about": dict(about)}).encode()
    body = b"".join((MAGIC, len(header).to_bytes(_LENGTH, "little"), header, *parts))
    return body + hashlib.sha256(body).digest()


def unpacked(raw: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the document that :func:`packed` made bytes of.

    Raises
    ------
    ValueError
        If they are not what it made, to the last bit.
    """
    if not raw.startswith(MAGIC):
        raise ValueError("not an entry of this version")
    body = memoryview(raw)[:-_DIGEST]
    if hashlib.sha256(body).digest() != raw[-_DIGEST:]:
        raise ValueError("its content has changed")
    begin = len(MAGIC) + _LENGTH
    place = begin + int.from_bytes(raw[len(MAGIC) : begin], "little")
    header = json.loads(raw[begin:place])
    arrays = {}
    for name, text, shape in header["arrays"]:
        dtype = np.dtype(text)
        # Copied, so that arrays are aligned, can be written to and do not hold the whole entry.
        arrays[name] = np.ndarray(tuple(shape), dtype, buffer=body, offset=place).copy()
        place += dtype.itemsize * prod(shape)
    return arrays, header["about"]


#: Features of one image differ by float32 rounding between processors and sizes of batches.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6


def probes_agree(cached: NDArray[np.float64], now: NDArray[np.float64]) -> bool:
    """Tell whether two fingerprints are equal up to float32 rounding; NaN agrees with NaN.

    Parameters
    ----------
    cached, now
        float64 (n,): what a layer gave for the first batch then, and what it gives now.
    """
    if cached.shape != now.shape:
        return False
    return bool(np.allclose(cached, now, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True))


log = logging.getLogger(__name__)

SUFFIX = ".kept"

_KIND, _KEY = "kind", "key"


@dataclass(frozen=True)
class Entry:
    """What is cached under a key.

    Attributes
    ----------
    arrays
        Arrays of numbers or of text (dtype ``U``).
    about
        Plain JSON values.
    """

    arrays: Mapping[str, NDArray[Any]]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Store:
    """Entries in a folder; any number of processes may use it at once.

    Attributes
    ----------
    folder
        Created when something is written.
    """

    folder: Path
    # A sweep caches thousands of results: a full disk is worth one warning.
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def path(self, kind: str, key: str) -> Path:
        """Return where an entry lies or would lie."""
        return self.folder / kind / key[:2] / f"{key}{SUFFIX}"

    def read(self, kind: str, key: str) -> Entry | None:
        """Return an entry, or None if there is none or it is damaged (which is logged).

        An entry that is read counts as used now, so that pruning by age or size spares it.
        """
        path = self.path(kind, key)
        try:
            arrays, about = unpacked(path.read_bytes())
            if (about.pop(_KIND), about.pop(_KEY)) != (kind, key):
                raise ValueError("it says to be another entry")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s: damaged, it is computed anew (%s)", path, error)
            return None
        mark_used(path)
        return Entry(arrays, about)

    def write(
        self, kind: str, key: str, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, object]
    ) -> None:
        """Cache an entry, replacing one of the same key.

        A folder that cannot be written, or a full disk, costs a warning, the first time.

        Raises
        ------
        DataError
            If an array holds Python objects: text is kept as dtype ``U``.
        """
        content = packed(arrays, {**about, _KIND: kind, _KEY: key})
        path = self.path(kind, key)
        temporary = temporary_beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            self._warn_once(path, error)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _warn_once(self, path: Path, error: OSError) -> None:
        """Warn that something could not be cached, once for each reason."""
        reason = error.strerror or str(error)
        if reason not in self._told:
            self._told.add(reason)
            log.warning("%s: could not be cached (%s); results are not affected", path, reason)


def mark_used(path: Path) -> None:
    """Let a file count as used now; where that is not allowed, it counts as used when it was written."""
    with suppress(OSError):
        os.utime(path)


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
    removable = _chosen(oldest_first, rule)
    removed = [result for result in removable if _removed(result.path)]
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
    removable = []
    for result in oldest_first:
        if excess <= 0:
            break
        removable.append(result)
        excess -= result.n_bytes
    return removable


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
