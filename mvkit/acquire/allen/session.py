"""One session's responses, and the file that carries them from process to process and from run to run."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.request import SessionRequest
from mvkit.atomic import replacing
from mvkit.errors import DataError

__all__ = [
    "SessionOutline",
    "SessionRecording",
    "SessionRequest",
    "load_outline",
    "load_session",
    "save_session",
]

#: Columns that every session has, and of which type.
UNIT_ID, AREA, SELECTIVITY, RUN_P = "unit_id", "visual_area", "image_selectivity_ns", "run_pval_ns"

_FORMAT = "mvkit-session"
_VERSION = 1
_COLUMN = "unit."


@dataclass(frozen=True, eq=False)
class SessionRecording:
    """What one session gives: responses of its units to every presentation of every image.

    Attributes
    ----------
    session_id
        Number of the session (Neuropixels) or experiment (calcium).
    specimen_id
        The animal.
    frame_ids
        int64 (n_frames,), ascending; images that were shown in the session, the grey one (-1) dropped.
    responses
        uint16 (n_trials, n_frames, n_bins, n_units): spikes per bin, 0 where a presentation is missing; or
        float32 or float64 (n_trials, n_frames, n_units): averaged over time, NaN where it is missing.
    present
        bool (n_trials, n_frames): False for a missing presentation. Those of an image come first, in the
        order of time.
    unit_columns
        Columns (n_units,): int64 ``unit_id``, text ``visual_area``; with counts float64
        ``image_selectivity_ns`` and ``run_pval_ns`` (NaN = not known); and any others of number, text or
        bool. The order of units is that of the source.
    stimuli
        uint8 (n_frames, height, width), as shown; height and width 0 where the images are kept elsewhere.
    provenance
        What was read by what: reader, file, versions; JSON values.
    """

    session_id: int
    specimen_id: int
    frame_ids: NDArray[np.int64]
    responses: NDArray[Any]
    present: NDArray[np.bool_]
    unit_columns: Mapping[str, NDArray[Any]]
    stimuli: NDArray[np.uint8]
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together.

        Raises
        ------
        DataError
            Naming the session and the field.
        """
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

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.responses.shape[-1])

    @property
    def outline(self) -> SessionOutline:
        """All but the responses."""
        return SessionOutline(
            session_id=self.session_id,
            specimen_id=self.specimen_id,
            frame_ids=self.frame_ids,
            shape=self.responses.shape,
            dtype=self.responses.dtype,
            largest=int(self.responses.max(initial=0)) if self.responses.dtype.kind == "u" else 0,
            present=self.present,
            unit_columns=self.unit_columns,
            provenance=self.provenance,
        )


@dataclass(frozen=True, eq=False)
class SessionOutline:
    """All of a session but its responses and stimuli; names as in :class:`SessionRecording`.

    Attributes
    ----------
    shape, dtype
        Of the responses.
    largest
        The largest count; 0 for averaged responses.
    """

    session_id: int
    specimen_id: int
    frame_ids: NDArray[np.int64]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    largest: int
    present: NDArray[np.bool_]
    unit_columns: Mapping[str, NDArray[Any]]
    provenance: Mapping[str, object]

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.shape[-1]

    @property
    def n_trials(self) -> int:
        """Largest number of presentations of an image."""
        return self.shape[0]


def save_session(recording: SessionRecording, path: Path) -> None:
    """Write a session to a ``.npz`` file that holds no pickle; it appears whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written: the disk is full, for example.
    """
    outline = recording.outline
    facts = {
        "format": _FORMAT,
        "version": _VERSION,
        "session_id": outline.session_id,
        "specimen_id": outline.specimen_id,
        "shape": list(outline.shape),
        "dtype": outline.dtype.str,
        "largest": outline.largest,
        "columns": list(outline.unit_columns),
        "provenance": dict(outline.provenance),
    }
    text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {f"{_COLUMN}{name}": column for name, column in recording.unit_columns.items()}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            facts=text,
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
    with _Opened(path) as file:
        outline = file.outline()
        return SessionRecording(
            session_id=outline.session_id,
            specimen_id=outline.specimen_id,
            frame_ids=outline.frame_ids,
            responses=file.array("responses"),
            present=outline.present,
            unit_columns=outline.unit_columns,
            stimuli=file.array("stimuli"),
            provenance=outline.provenance,
        )


def load_outline(path: Path) -> SessionOutline:
    """Read all but responses and stimuli of what :func:`save_session` wrote.

    Raises
    ------
    DataError
        If the file is missing, damaged, or something else.
    """
    with _Opened(path) as file:
        return file.outline()


class _Opened:
    """A session's file, whose every failure is a DataError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Opened:
        try:
            self._stream = self._path.open("rb")
        except OSError as error:
            raise self._damaged(error) from error
        try:
            # Given a path, numpy would leave the file open where it is no archive.
            self._file = np.load(self._stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            self._stream.close()
            raise self._damaged(error) from error
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            self._stream.close()
            raise DataError(f"{self._path}: not a session that mvkit wrote")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._stream.close()

    def array(self, name: str) -> NDArray[Any]:
        try:
            array: NDArray[Any] = self._file[name]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from error
        return array

    def outline(self) -> SessionOutline:
        try:
            facts = json.loads(self.array("facts").tobytes())
            if facts["format"] != _FORMAT or facts["version"] != _VERSION:
                raise ValueError(f"format {facts['format']} {facts['version']}")
            return SessionOutline(
                session_id=int(facts["session_id"]),
                specimen_id=int(facts["specimen_id"]),
                frame_ids=self.array("frame_ids"),
                shape=tuple(int(size) for size in facts["shape"]),
                dtype=np.dtype(facts["dtype"]),
                largest=int(facts["largest"]),
                present=self.array("present"),
                unit_columns={name: self.array(f"{_COLUMN}{name}") for name in facts["columns"]},
                provenance=facts["provenance"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return DataError(f"{self._path}: not a readable session of mvkit ({reason})")
