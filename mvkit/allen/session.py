"""One session: its source, its responses, and the staged file in which it is stored until all are read.

Every session that was read is staged in a file of its own until the dataset is complete::

    HOME/neural/DATASET.sessions/DIGEST OF THE REQUEST/SESSION.npz
    HOME/neural/DATASET.sessions/DIGEST OF THE REQUEST/images/SHA256.npy

Files appear whole or not at all, so that a killed process leaves every session that was read before. Images
are the same in all sessions and stored once, by their content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import inspect_file, remove_leftovers, replacing

#: Columns of units that every session has.
UNIT_ID, AREA, SELECTIVITY, RUN_P = "unit_id", "visual_area", "image_selectivity_ns", "run_pval_ns"

_FORMAT, _VERSION = "mvkit-session", 1
_COLUMN = "unit."
# Keys of a staged session's provenance.
_SOURCE_VERSION, _IMAGES = "identity", "images"


@dataclass(frozen=True)
class SessionSource:
    """A session before it is read.

    Attributes
    ----------
    session_id
        Its number.
    path
        Its file, if it is on this machine.
    size
        Length of that file in bytes; None if not known.
    download_bytes
        Bytes that would cross the network; None if not known.
    version
        Version of the session's files (such as size and time of change); JSON values. A staged session of
        another version is read again.
    """

    session_id: int
    path: Path | None = None
    size: int | None = None
    download_bytes: int | None = 0
    version: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_file(cls, session_id: int, path: Path, tables: Iterable[Path]) -> SessionSource:
        """Return a session on this machine; ``tables`` beside it, there or not, add to what is read.

        A file without content, such as a broken link, is an error only when it is read.
        """
        if problem := inspect_file(path).problem:
            return cls(session_id, path, version={"problem": problem})
        versions = [{"name": table.name, **_file_version(table)} for table in tables if table.is_file()]
        version = _file_version(path)
        return cls(session_id, path, version["bytes"], version={**version, "tables": versions})


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionOutline:
    """A session without its responses and images.

    Attributes
    ----------
    session_id
        Number of the session (Neuropixels) or experiment (calcium).
    specimen_id
        The animal.
    frame_ids
        int64 (n_frames,), ascending; images that were shown in the session, without the grey one (-1).
    present
        bool (n_trials, n_frames): False for a missing presentation. Those of an image come first, in the
        order of time.
    unit_columns
        Columns (n_units,): int64 ``unit_id``, text ``visual_area``; with counts float64
        ``image_selectivity_ns`` and ``run_pval_ns`` (NaN = not known); and any others of number, text or
        bool. The order of units is that of the source.
    provenance
        Reader, file, versions; JSON values.
    shape, dtype
        Of the responses.
    largest
        The largest count; 0 for averaged responses.
    """

    session_id: int
    specimen_id: int
    frame_ids: NDArray[np.int64]
    present: NDArray[np.bool_]
    unit_columns: Mapping[str, NDArray[Any]]
    provenance: Mapping[str, object] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    largest: int = 0

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.shape[-1]

    @property
    def n_trials(self) -> int:
        """Largest number of presentations of an image."""
        return self.shape[0]

    @property
    def image_names(self) -> dict[int, str]:
        """Name under which the image of every frame of a staged session is stored."""
        names = self.provenance.get(_IMAGES)
        stored = names if isinstance(names, list) else []
        return {int(frame): str(name) for frame, name in zip(self.frame_ids, stored, strict=True)}

    def to_json(self) -> dict[str, object]:
        """Return the session's entry in the provenance of a neural file."""
        return {
            "session_id": self.session_id,
            "specimen_id": self.specimen_id,
            "n_units": self.n_units,
            "n_trials": self.n_trials,
            **{key: value for key, value in self.provenance.items() if key != _IMAGES},
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionRecording(SessionOutline):
    """One session: responses of its units to every presentation of every image.

    Attributes
    ----------
    responses
        uint16 (n_trials, n_frames, n_bins, n_units): spikes per bin, 0 where a presentation is missing; or
        float32 or float64 (n_trials, n_frames, n_units): averaged over time, NaN where it is missing.
    stimuli
        uint8 (n_frames, height, width), as shown; height and width 0 where the images are stored elsewhere.

    Raises
    ------
    DataError
        For arrays that do not belong together.
    """

    responses: NDArray[Any]
    stimuli: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        label = f"session {self.session_id}"
        averaged = self.responses.dtype.kind == "f" and self.responses.ndim == 3
        counted = self.responses.dtype == np.uint16 and self.responses.ndim == 4
        if not (averaged or counted):
            raise DataError(
                f"{label}: responses are {self.responses.dtype} with {self.responses.ndim} axes, expected "
                "uint16 (trials, frames, bins, units) or float (trials, frames, units)"
            )
        if self.responses.shape[:2] != self.present.shape or self.present.dtype != np.bool_:
            raise DataError(
                f"{label}: responses have shape {self.responses.shape}, 'present' {self.present.shape}"
            )
        n_frames = self.responses.shape[1]
        if self.frame_ids.shape != (n_frames,) or bool((np.diff(self.frame_ids) <= 0).any()):
            raise DataError(f"{label}: frame_ids do not ascend, or are not {n_frames}")
        if self.stimuli.dtype != np.uint8 or self.stimuli.ndim != 3 or len(self.stimuli) != n_frames:
            raise DataError(
                f"{label}: stimuli are {self.stimuli.dtype} {self.stimuli.shape}, "
                f"expected uint8 ({n_frames}, height, width)"
            )
        needed = {UNIT_ID: "i", AREA: "U"} | ({SELECTIVITY: "f", RUN_P: "f"} if counted else {})
        for name, kinds in needed.items():
            if name not in self.unit_columns or self.unit_columns[name].dtype.kind not in kinds:
                raise DataError(f"{label}: unit column '{name}' is missing or of another type")
        for name, column in self.unit_columns.items():
            if column.shape != self.responses.shape[-1:] or column.dtype.kind not in "ifbU":
                raise DataError(
                    f"{label}: unit column '{name}' is {column.dtype} {column.shape}, "
                    f"responses have {self.responses.shape[-1]} units"
                )

        largest = int(self.responses.max(initial=0)) if counted else 0
        summary = {"shape": self.responses.shape, "dtype": self.responses.dtype, "largest": largest}
        for name, value in summary.items():
            object.__setattr__(self, name, value)

    @property
    def outline(self) -> SessionOutline:
        """All but the responses and images."""
        return SessionOutline(**_outline_fields(self))


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
        """Return the path of a session's staged file."""
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
        unchanged = outline.provenance.get(_SOURCE_VERSION) == json.loads(json.dumps(dict(source.version)))
        has_images = all(self._image_path(name).exists() for name in outline.image_names.values())
        return outline if unchanged and has_images else None

    def add(self, recording: SessionRecording, source: SessionSource) -> SessionOutline:
        """Store a session that was just read.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path(source.session_id))
        names = [self._add_image(image) for image in recording.stimuli]
        provenance = {**recording.provenance, _SOURCE_VERSION: dict(source.version), _IMAGES: names}
        no_images = np.empty((len(names), 0, 0), dtype=np.uint8)
        stored = replace(recording, stimuli=no_images, provenance=provenance)
        save_session(stored, self.path(source.session_id))
        return stored.outline

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
        """Return stored images by name, uint8 (n_images, height, width).

        Raises
        ------
        DataError
            If one is gone or damaged, or their sizes differ.
        """
        try:
            return np.stack([np.load(self._image_path(name), allow_pickle=False) for name in names])
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self.folder}: images of the sessions cannot be combined ({error})") from error

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()

    def _image_path(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.npy"

    def _add_image(self, image: NDArray[np.uint8]) -> str:
        pixels = np.ascontiguousarray(image)
        name = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        path = self._image_path(name)
        if not path.exists():
            with replacing(path) as temporary:
                np.save(temporary, pixels, allow_pickle=False)
        return name


def differing_images(one: SessionOutline, other: SessionOutline) -> list[int]:
    """Return the frames for which two staged sessions showed different images, ascending."""
    first, second = one.image_names, other.image_names
    return sorted(frame for frame in first.keys() & second.keys() if first[frame] != second[frame])


def save_session(recording: SessionRecording, path: Path) -> None:
    """Write a session to a ``.npz`` file that holds no pickle; it appears whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written: the disk is full, for example.
    """
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "session_id": recording.session_id,
        "specimen_id": recording.specimen_id,
        "shape": list(recording.shape),
        "dtype": recording.dtype.str,
        "largest": recording.largest,
        "columns": list(recording.unit_columns),
        "provenance": dict(recording.provenance),
    }
    arrays: dict[str, Any] = {f"{_COLUMN}{name}": column for name, column in recording.unit_columns.items()}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            facts=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            frame_ids=recording.frame_ids,
            present=recording.present,
            stimuli=recording.stimuli,
            responses=recording.responses,
            **arrays,
        )


def load_session(path: Path) -> SessionRecording:
    """Read what :func:`save_session` wrote.

    Raises
    ------
    DataError
        If the file is missing, damaged, or something else.
    """
    with _arrays(path) as arrays:
        outline = _outline(arrays)
        return SessionRecording(
            **_outline_fields(outline), responses=arrays["responses"], stimuli=arrays["stimuli"]
        )


def load_outline(path: Path) -> SessionOutline:
    """Read all but responses and images of what :func:`save_session` wrote.

    Raises
    ------
    DataError
        If the file is missing, damaged, or something else.
    """
    with _arrays(path) as arrays:
        return _outline(arrays)


def _outline_fields(session: SessionOutline) -> dict[str, Any]:
    return {one.name: getattr(session, one.name) for one in fields(SessionOutline)}


@contextmanager
def _arrays(path: Path) -> Iterator[Any]:
    """Open a session's file; every failure is a DataError that names it."""
    try:
        # Given a path, numpy would leave the file open where it is no archive.
        with path.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not a session that mvkit wrote")
            with arrays:
                yield arrays
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable session of mvkit ({reason})") from error


def _outline(arrays: Any) -> SessionOutline:
    header = json.loads(arrays["facts"].tobytes())
    if header["format"] != _FORMAT or header["version"] != _VERSION:
        raise ValueError(f"format {header['format']} {header['version']}")
    return SessionOutline(
        session_id=int(header["session_id"]),
        specimen_id=int(header["specimen_id"]),
        frame_ids=arrays["frame_ids"],
        shape=tuple(int(size) for size in header["shape"]),
        dtype=np.dtype(header["dtype"]),
        largest=int(header["largest"]),
        present=arrays["present"],
        unit_columns={name: arrays[f"{_COLUMN}{name}"] for name in header["columns"]},
        provenance=header["provenance"],
    )


def _file_version(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
