"""A store of small results, each under the digest of everything it depends on.

An entry is one file, ``KIND/ab/KEY.npz``: arrays, and a JSON document that repeats kind and key. It appears
whole or not at all. Whatever cannot be read as what it should be is a miss, never an error.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_ABOUT = "about"


@dataclass(frozen=True)
class Entry:
    """What is kept under a key.

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

    def path(self, kind: str, key: str) -> Path:
        """Return where an entry lies or would lie."""
        return self.folder / kind / key[:2] / f"{key}.npz"

    def read(self, kind: str, key: str) -> Entry | None:
        """Return an entry, or None if there is none or it is damaged (which is logged)."""
        path = self.path(kind, key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop(_ABOUT)))
            if about.pop("kind") != kind or about.pop("key") != key:
                raise ValueError("it says to be another entry")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s: damaged, it is computed anew (%s)", path, error)
            return None
        return Entry(arrays, about)

    def write(
        self, kind: str, key: str, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, object]
    ) -> None:
        """Keep an entry, replacing one of the same key; a folder that cannot be written costs a warning."""
        path = self.path(kind, key)
        temporary = path.with_name(f"{key}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}.npz")
        document = json.dumps({**about, "kind": kind, "key": key})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(temporary, **arrays, **{_ABOUT: np.array(document)})  # type: ignore[arg-type]
            temporary.replace(path)
        except OSError as error:
            log.warning("%s: could not be kept (%s)", path, error)
        finally:
            temporary.unlink(missing_ok=True)
