"""A store of small results, each under the digest of everything it depends on.

An entry is one file, ``KIND/ab/KEY.kept``: arrays, and a JSON document that repeats kind and key. It appears
whole or not at all. Whatever cannot be read as what it should be is a miss, never an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mvkit.store.container import packed, unpacked
from mvkit.store.temporary import temporary_beside

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
