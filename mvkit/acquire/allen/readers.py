"""What a way of reading sessions must offer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mvkit.acquire.allen.session import SessionRecording, SessionRequest
from mvkit.files import look_at

ALLENSDK, H5PY = "allensdk", "h5py"
READERS = (ALLENSDK, H5PY)


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
    identity
        What tells another version of the session apart; JSON values. A staged session of another identity
        is read again.
    """

    session_id: int
    path: Path | None = None
    size: int | None = None
    download_bytes: int | None = 0
    identity: Mapping[str, object] = field(default_factory=dict)


class SessionReader(Protocol):
    """Reads sessions one at a time."""

    @property
    def name(self) -> str:
        """Which reader it is: one of :data:`READERS`."""

    @property
    def origin(self) -> Mapping[str, object]:
        """Where the sessions come from and what reads them, for the provenance; JSON values."""

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the sessions that can be had, ascending by number.

        Raises
        ------
        MvkitError
            If there are none.
        """

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Read one session.

        Raises
        ------
        MvkitError
            If it cannot be read; the message names it.
        """


def file_source(session_id: int, path: Path, tables: Iterable[Path]) -> SessionSource:
    """Return a session that is a file on this machine.

    Parameters
    ----------
    session_id
        Its number.
    path
        Its file; where only its name is there, reading it is an error, leaving it out is none.
    tables
        Files beside it that add to what is read; those that are not there are left out.
    """
    if problem := look_at(path).problem:
        return SessionSource(session_id, path, identity={"problem": problem})
    told = [{"name": table.name, **_version(table)} for table in tables if table.is_file()]
    version = _version(path)
    return SessionSource(session_id, path, size=version["bytes"], identity={**version, "tables": told})


def _version(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def h5py_origin(folder: Path) -> dict[str, object]:
    """Return what is noted of files of a folder that h5py reads."""
    from mvkit.versions import installed_versions

    return {"folder": folder.absolute().name, "versions": installed_versions("h5py", "numpy")}
