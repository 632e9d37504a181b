"""Where sessions wait, each in a file of its own, until all of a dataset are there.

::

    HOME/neural/DATASET.sessions/DIGEST OF THE REQUEST/SESSION.npz
    HOME/neural/DATASET.sessions/DIGEST OF THE REQUEST/images/SHA256.npy

Files appear whole or not at all, so that a killed process leaves every session that was read before. Images
are the same in all sessions and kept once, by their content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.readers import SessionSource
from mvkit.acquire.allen.session import (
    SessionOutline,
    SessionRecording,
    load_outline,
    load_session,
    save_session,
)
from mvkit.atomic import remove_leftovers, replacing
from mvkit.errors import DataError

# Keys of a staged session's provenance.
_IDENTITY, _IMAGES = "identity", "images"


@dataclass(frozen=True)
class Staging:
    """Sessions read for one request. Only the holder of the dataset's lock may change it.

    Attributes
    ----------
    folder
        Need not exist yet.
    """

    folder: Path

    def path(self, session_id: int) -> Path:
        """Return where a session waits."""
        return self.folder / f"{session_id}.npz"

    def find(self, source: SessionSource) -> SessionOutline | None:
        """Return a session that was read before; None if it was not, is damaged, or has changed since."""
        path = self.path(source.session_id)
        if not path.exists():
            return None
        try:
            outline = load_outline(path)
        except DataError:
            return None
        same = outline.provenance.get(_IDENTITY) == _as_json(dict(source.identity))
        return outline if same and self._has_images(outline) else None

    def keep(self, recording: SessionRecording, source: SessionSource) -> SessionOutline:
        """Keep a session that was just read.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path(source.session_id))
        names = [self._keep_image(image) for image in recording.stimuli]
        facts = {**recording.provenance, _IDENTITY: dict(source.identity), _IMAGES: names}
        bare = replace(recording, stimuli=np.empty((len(names), 0, 0), dtype=np.uint8), provenance=facts)
        save_session(bare, self.path(source.session_id))
        return bare.outline

    def load(self, session_id: int) -> SessionRecording:
        """Return a session, without its images.

        Raises
        ------
        DataError
            If the file is damaged; it is removed, so that the session is read again.
        """
        path = self.path(session_id)
        try:
            return load_session(path)
        except DataError as error:
            path.unlink(missing_ok=True)
            raise DataError(f"{error}\nit was removed: the same command reads the session again") from error

    def images(self, names: Sequence[str]) -> NDArray[np.uint8]:
        """Return kept images by name, uint8 (n_images, height, width).

        Raises
        ------
        DataError
            If one is gone or damaged, or their sizes differ.
        """
        try:
            images = [np.load(self._image_path(name), allow_pickle=False) for name in names]
            return np.stack(images)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self.folder}: images of the sessions cannot be joined ({error})") from error

    def clear(self) -> bool:
        """Remove everything; say whether there was anything."""
        was_there = self.folder.is_dir()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()
        return was_there

    def _image_path(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.npy"

    def _has_images(self, outline: SessionOutline) -> bool:
        return all(self._image_path(name).exists() for name in image_names(outline).values())

    def _keep_image(self, image: NDArray[np.uint8]) -> str:
        pixels = np.ascontiguousarray(image)
        name = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        path = self._image_path(name)
        if not path.exists():
            with replacing(path) as temporary:
                np.save(temporary, pixels, allow_pickle=False)
        return name


def image_names(outline: SessionOutline) -> dict[int, str]:
    """Return under which name the image of every frame of a staged session is kept."""
    names = outline.provenance.get(_IMAGES)
    kept = names if isinstance(names, list) else []
    return {int(frame): str(name) for frame, name in zip(outline.frame_ids, kept, strict=True)}


def differing_images(one: SessionOutline, other: SessionOutline) -> list[int]:
    """Return the frames for which two sessions showed different images, ascending."""
    first, second = image_names(one), image_names(other)
    return sorted(frame for frame in first.keys() & second.keys() if first[frame] != second[frame])


def _as_json(document: dict[str, object]) -> object:
    return json.loads(json.dumps(document))
