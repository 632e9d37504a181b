"""The cache under mvkit's home: entries by key, checked by their first images, pruned by age or size."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError
from mvkit.files import digest_of, is_abandoned, is_leftover, is_temporary, make_folder, temporary_beside

log = logging.getLogger(__name__)

#: How every entry begins; the number is raised when the layout of what follows changes.
MAGIC = b"mvkit cache 1\n"
SUFFIX = ".cached"

#: Ceilings between animals, each a folder beside the cache, are one kind of entry.
CEILINGS = "ceilings"
#: Folder in the cache of features that do not fit in memory; it holds no entries.
_SCRATCH = "scratch"

_KIND, _KEY = "kind", "key"
_LENGTH_BYTES = 8
_DIGEST_BYTES = 32
#: Kinds of dtypes that an entry may hold: bool, integers, floats, complex, bytes, text, dates.
_PLAIN_KINDS = "biufcSUMm"
#: Features of one image differ by float32 rounding between processors and batch sizes.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
#: Parts of every image's features that a fingerprint measures one by one, so that a change in one shows.
_N_PARTS = 4
#: Features that are summed at once; their signs repeat. A prime, as maps have other sizes.
_BLOCK = 4093
_SIGN_SEED = 20180921

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_RULE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


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
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def path(self, kind: str, key: str) -> Path:
        """Return the file of an entry, whether it exists or not."""
        return self.folder / kind / key[:2] / f"{key}{SUFFIX}"

    def read(self, kind: str, key: str) -> Entry | None:
        """Return an entry, or None if there is none or it is damaged (which is logged).

        An entry that is read counts as used now, so that pruning by age or size spares it.
        """
        path = self.path(kind, key)
        try:
            arrays, about = _unpack(path.read_bytes())
            if (about.pop(_KIND), about.pop(_KEY)) != (kind, key):
                raise ValueError("it is the entry of another key")
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
            If an array holds Python objects or records; text is cached as dtype ``U``.
        """
        content = _pack(arrays, {**about, _KIND: kind, _KEY: key})
        path = self.path(kind, key)
        temporary = temporary_beside(path)
        try:
            make_folder(path.parent)
            temporary.write_bytes(content)
            temporary.replace(path)
        except (OSError, UsageError) as error:
            reason = getattr(error, "strerror", None) or str(error).replace("\n", "; ")
            if reason not in self._warned:
                self._warned.add(reason)
                log.warning("%s: could not be cached (%s); results are not affected", path, reason)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def mark_used(path: Path) -> None:
    """Let a file count as used now; where that is not allowed, it counts as used when it was written."""
    with suppress(OSError):
        os.utime(path)


@dataclass(frozen=True)
class LayerKey:
    """The key of a layer in the cache, and a fingerprint that tells whether its features are still the same.

    Attributes
    ----------
    key
        sha256 (hex) of weights, modules, preprocessing, images, layer, device, batch size and versions.
    fingerprint
        float64 (n,): the features of the first batch, condensed to a few numbers for each image.
    """

    key: str
    fingerprint: NDArray[np.float64]


def fingerprint_of(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Condense features of a few images into a few numbers for each.

    Parameters
    ----------
    rows
        float32 (n_images, n_features).

    Returns
    -------
    numpy.ndarray
        float64 (n_images * 10,): mantissa and exponent of each image's norm; then, relative to it, the norms
        of 4 successive parts, and one plus the sums of these parts under fixed pseudo-random signs, which
        tell the order of features.
    """
    signs = _signs(_BLOCK)
    squares, sums = np.zeros((2, len(rows), _N_PARTS))
    with np.errstate(all="ignore"):
        for index, part in enumerate(np.array_split(rows, _N_PARTS, axis=1)):
            # A few at a time: a layer may have millions.
            for start in range(0, part.shape[1], _BLOCK):
                exact = part[:, start : start + _BLOCK].astype(np.float64)
                squares[:, index] += np.einsum("ij,ij->i", exact, exact)
                sums[:, index] += exact @ signs[: exact.shape[1]]
        norm = np.sqrt(squares.sum(axis=1))
        mantissa, exponent = np.frexp(norm)
        exponent = np.where(np.isfinite(norm), exponent, 0)
        unit = np.where(norm == 0, 1.0, norm)[:, np.newaxis]
        relative = np.hstack([np.sqrt(squares) / unit, 1 + sums / unit])
    return np.column_stack([mantissa, exponent, relative]).ravel()


def _signs(count: int) -> NDArray[np.float64]:
    # The bits of a bit generator are the same in every version of NumPy; what is drawn from them is not.
    words: NDArray[np.uint64] = np.random.PCG64(_SIGN_SEED).random_raw(count // 64 + 1)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[:count]
    return np.where(bits, -1.0, 1.0)


def fingerprints_agree(cached: NDArray[np.float64], now: NDArray[np.float64]) -> bool:
    """Tell whether two fingerprints are equal up to float32 rounding; NaN agrees with NaN.

    Parameters
    ----------
    cached, now
        float64 (n,): numbers of a layer's features for the first batch, then and now.
    """
    if cached.shape != now.shape:
        return False
    return bool(np.allclose(cached, now, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True))


@dataclass(frozen=True)
class KindInfo:
    """Entries of one kind.

    Attributes
    ----------
    n_entries, n_bytes
        Their number, and the size of their files.
    oldest_use, newest_use
        Last use of the entry that has not been used for longest, and of the latest one; seconds since 1970.
    """

    n_entries: int
    n_bytes: int
    oldest_use: float
    newest_use: float


@dataclass(frozen=True)
class CacheInfo:
    """Contents of a cache.

    Attributes
    ----------
    folder
        The cache.
    kinds
        Kind of entry -> its entries, by name.
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
        return {
            "folder": str(self.folder),
            "n_bytes": self.n_bytes,
            "kinds": {name: asdict(kind) for name, kind in self.kinds.items()},
            "leftovers": {"n_files": self.n_leftovers, "n_bytes": self.leftover_bytes},
        }


@dataclass(frozen=True)
class PruneReport:
    """What was removed from a cache, and what is left.

    Attributes
    ----------
    n_removed, removed_bytes
        Removed entries.
    n_leftovers, leftover_bytes
        Removed files of processes that ended while writing.
    left
        Contents of the cache afterwards.
    """

    n_removed: int
    removed_bytes: int
    n_leftovers: int
    leftover_bytes: int
    left: CacheInfo

    def to_json(self) -> dict[str, object]:
        """Return everything as plain values."""
        return {**asdict(self), "left": self.left.to_json()}


def cache_info(folder: Path, *, ceilings: Path | None = None) -> CacheInfo:
    """Count the entries of a cache. Files that vanish meanwhile, or cannot be read, do not count.

    Parameters
    ----------
    folder
        The cache; it need not exist.
    ceilings
        Folder of ceilings between animals, which lie beside the cache and count as one kind.
    """
    by_kind: dict[str, list[_EntryFile]] = {}
    for file in _entry_files(folder, ceilings):
        by_kind.setdefault(file.kind, []).append(file)
    kinds = {
        kind: KindInfo(
            len(files),
            sum(file.n_bytes for file in files),
            min(file.last_use for file in files),
            max(file.last_use for file in files),
        )
        for kind, files in sorted(by_kind.items())
    }
    leftovers = list(_leftovers(folder, ceilings))
    return CacheInfo(folder, kinds, len(leftovers), sum(map(_size, leftovers)))


def prune(folder: Path, rule: str, *, ceilings: Path | None = None) -> PruneReport:
    """Remove entries of a cache, and always the files of processes that ended while writing.

    Entries that other processes read at the same moment become misses for them. Files that are being
    written stay. Ceilings are pruned as everything else.

    Parameters
    ----------
    folder, ceilings
        As for :func:`cache_info`.
    rule
        ``"all"``; or an age: entries that have not been used for so long are removed (``"30d"``, ``"12h"``,
        ``"90m"``, ``"2w"``); or the size to which the cache is to shrink, oldest use first (``"5GB"``,
        ``"500MB"``; a GB is 10^9 bytes).

    Raises
    ------
    UsageError
        If the rule is none of these.
    """
    oldest_first = sorted(_entry_files(folder, ceilings), key=lambda file: file.last_use)
    removed = [file for file in _to_prune(oldest_first, rule) if _remove(file.path)]
    leftovers = [(path, _size(path)) for path in _leftovers(folder, ceilings)]
    removed_leftovers = [size for path, size in leftovers if _remove(path)]
    return PruneReport(
        len(removed),
        sum(file.n_bytes for file in removed),
        len(removed_leftovers),
        sum(removed_leftovers),
        cache_info(folder, ceilings=ceilings),
    )


def _pack(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, object]) -> bytes:
    rows, parts = [], []
    for name, values in arrays.items():
        array = np.asarray(values, order="C")
        if array.dtype.kind not in _PLAIN_KINDS:
            raise DataError(
                f"array '{name}' is {array.dtype}, which cannot be cached: give numbers, or text as dtype U"
            )
        rows.append((name, array.dtype.str, array.shape))
        parts.append(array.tobytes())
    header = json.dumps({"arrays": rows, "about": dict(about)}).encode()
    body = b"".join((MAGIC, len(header).to_bytes(_LENGTH_BYTES, "little"), header, *parts))
    return body + hashlib.sha256(body).digest()


def _unpack(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the document that :func:`_pack` wrote; ValueError if a bit of it has changed."""
    if not content.startswith(MAGIC):
        raise ValueError("not an entry of this version")
    body = memoryview(content)[:-_DIGEST_BYTES]
    if hashlib.sha256(body).digest() != content[-_DIGEST_BYTES:]:
        raise ValueError("its content has changed")
    start = len(MAGIC) + _LENGTH_BYTES
    offset = start + int.from_bytes(content[len(MAGIC) : start], "little")
    header = json.loads(content[start:offset])
    arrays = {}
    for name, text, shape in header["arrays"]:
        dtype = np.dtype(text)
        # Copied, so that arrays are aligned, can be written to and do not hold the whole entry.
        arrays[name] = np.ndarray(tuple(shape), dtype, buffer=body, offset=offset).copy()
        offset += dtype.itemsize * prod(shape)
    return arrays, header["about"]


@dataclass(frozen=True)
class _EntryFile:
    """The file of an entry, or the folder of a ceiling."""

    kind: str
    path: Path
    n_bytes: int
    last_use: float


def _entry_files(folder: Path, ceilings: Path | None) -> Iterator[_EntryFile]:
    paths = [
        (kind.name, path)
        for kind in _folders(folder)
        if kind.name != _SCRATCH
        for prefix in _folders(kind)
        for path in _contents(prefix)
    ]
    paths += [(CEILINGS, path) for path in (_folders(ceilings) if ceilings is not None else ())]
    for kind_name, path in paths:
        # Another process may remove it meanwhile.
        with suppress(OSError):
            if not is_temporary(path.name):
                yield _EntryFile(kind_name, path, _size(path), path.stat().st_mtime)


def _leftovers(folder: Path, ceilings: Path | None) -> Iterator[Path]:
    for kind in _folders(folder):
        for inner in _folders(kind):
            # Features in scratch of processes that were killed may be gigabytes.
            if kind.name == _SCRATCH and is_abandoned(inner):
                yield inner
            else:
                yield from filter(is_leftover, _contents(inner))
    if ceilings is not None:
        yield from filter(is_leftover, _contents(ceilings))


def _to_prune(oldest_first: list[_EntryFile], rule: str) -> list[_EntryFile]:
    if rule.strip().lower() == "all":
        return oldest_first
    match = _RULE.fullmatch(rule.strip())
    number, unit = match.groups() if match else ("", "")
    if match and unit in _SECONDS:
        limit = time.time() - float(number) * _SECONDS[unit]
        return [file for file in oldest_first if file.last_use < limit]
    prefix = unit.upper().removesuffix("B") if unit.upper().endswith("B") else None
    if match is None or prefix not in _BYTES:
        raise UsageError(
            f"'{rule}' does not say what to prune\n"
            "valid: all; an age since the last use (30d, 12h, 90m, 2w); a size to shrink to (5GB, 500MB)"
        )
    excess = sum(file.n_bytes for file in oldest_first) - float(number) * _BYTES[prefix]
    chosen = []
    for file in oldest_first:
        if excess <= 0:
            break
        chosen.append(file)
        excess -= file.n_bytes
    return chosen


def _folders(folder: Path) -> list[Path]:
    return [path for path in _contents(folder) if path.is_dir() and not path.is_symlink()]


def _contents(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder; links to folders are not followed."""
    try:
        if path.is_dir():
            return 0 if path.is_symlink() else sum(_size(inner) for inner in path.iterdir())
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> bool:
    """Remove a file or a folder; return whether it existed and could be removed."""
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:
        return False
    return True


def joined_key(parts: Sequence[LayerKey]) -> LayerKey:
    """Return the key of a joined layer from those of its parts, in their order."""
    key = digest_of({"joined": [part.key for part in parts]})
    return LayerKey(key, np.concatenate([part.fingerprint for part in parts]))
