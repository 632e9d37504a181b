"""Readers that use AllenSDK: for session files of a folder, and for those that the Allen Institute offers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from mvkit.acquire.allen.environment import AllenPython, find_allen_python
from mvkit.acquire.allen.nwb_reader import NwbReader
from mvkit.acquire.allen.process import perform
from mvkit.acquire.allen.readers import ALLENSDK, SessionReader, SessionSource
from mvkit.acquire.allen.session import SessionRecording, SessionRequest, load_session
from mvkit.acquire.reports import FetchRequest
from mvkit.errors import DataError, FetchError, UsageError
from mvkit.fetch import ContentCheck, FileToFetch, Manifest, PlannedFile, fetch_file, plan
from mvkit.paths import home_dir

#: Address of a mirror of the warehouse (``http://host:port``).
WAREHOUSE_VARIABLE = "MVKIT_ALLEN_URL"
HDF5 = ContentCheck("an NWB (HDF5) file", (b"\x89HDF\r\n\x1a\n",))
TIFF = ContentCheck("a TIFF image", (b"II*\0", b"MM\0*"))


@dataclass(frozen=True)
class AllenFolderReader:
    """Reads the session files of a folder with AllenSDK.

    Parameters
    ----------
    folder
        Laid out as :mod:`mvkit.acquire.allen.folder` says.
    home
        mvkit's home; None for the usual one.
    """

    folder: Path
    home: Path | None = None
    #: What the worker does to read one.
    task: ClassVar[str] = "read"

    @property
    def name(self) -> str:
        """``allensdk``."""
        return ALLENSDK

    @property
    def origin(self) -> Mapping[str, object]:
        """The folder's name and the version of AllenSDK that reads it."""
        return {"folder": self.folder.absolute().name, "versions": {"allensdk": self.python.version}}

    @cached_property
    def python(self) -> AllenPython:
        """Where AllenSDK is."""
        return find_allen_python(self.home)

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the sessions of the folder, ascending by number.

        Raises
        ------
        MvkitError
            If AllenSDK is not installed, or the folder holds no sessions.
        """
        # Finding out that AllenSDK is missing after an hour of reading would be late.
        _ = self.python
        return NwbReader(self.folder).sessions()

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Read one session.

        Raises
        ------
        MvkitError
            If it cannot be read.
        """
        if source.path is None:
            raise DataError(f"session {source.session_id}: no file")
        task = {
            "task": self.task,
            "path": str(source.path.absolute()),
            "folder": str(self.folder.absolute()),
            "session_id": source.session_id,
            "request": request.to_json(),
        }
        return _read(self.python, task, source, label=str(source.path))


@dataclass(frozen=True)
class AllenCacheReader:
    """Downloads sessions into AllenSDK's project cache under mvkit's home, and reads them with AllenSDK.

    Files are downloaded by mvkit (resumed after interruptions, checked), to where AllenSDK's cache looks for
    them; what there is, and where, AllenSDK asks the warehouse.

    Parameters
    ----------
    fetching
        Home, network, retries and feedback.
    """

    fetching: FetchRequest = field(default_factory=FetchRequest)
    #: What the worker does to read one, and the table of the cache that tells which there are.
    task: ClassVar[str] = "read_cached"
    table: ClassVar[str] = "sessions.csv"

    @property
    def name(self) -> str:
        """``allensdk``."""
        return ALLENSDK

    @property
    def origin(self) -> Mapping[str, object]:
        """The warehouse asked, and the version of AllenSDK that reads."""
        return {
            "warehouse": os.environ.get(WAREHOUSE_VARIABLE, "Allen Brain Atlas data warehouse"),
            "versions": {"allensdk": self.python.version},
        }

    @property
    def cache(self) -> Path:
        """Folder of AllenSDK's cache."""
        return cache_folder(self.fetching.home)

    @cached_property
    def python(self) -> AllenPython:
        """Where AllenSDK is."""
        return find_allen_python(self.fetching.home)

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the sessions that the warehouse offers, ascending by number.

        Raises
        ------
        MvkitError
            If AllenSDK is not installed, or the warehouse does not answer.
        """
        files = [
            self._session_file(row)
            for row in self._rows.values()
            if row["url"] and not Path(row["path"]).is_file()
        ]
        sizes = {one.file.target: one for one in self._planned(files)}
        return tuple(_offered(row, sizes.get(Path(row["path"]))) for row in self._rows.values())

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Download one session unless it is there, and read it.

        Raises
        ------
        MvkitError
            If it cannot be had or read; what was downloaded is kept.
        """
        self._fetch_scenes()
        row = self._rows[source.session_id]
        if not Path(row["path"]).is_file():
            self._require_network(f"session {source.session_id}")
            self._fetch(self._session_file(row))
        task = {
            "task": self.task,
            "cache": str(self.cache),
            "session_id": source.session_id,
            "request": request.to_json(),
            "address": _address(),
        }
        return _read(self.python, task, source, label=f"session {source.session_id}")

    def _fetch_scenes(self) -> None:
        note = self.cache / "natural_scene_templates" / "complete"
        if note.is_file():
            return
        self._require_network("the images")
        for row in self._ask("scenes", label="the images"):
            name = f"natural scene {row['frame']}"
            self._fetch(FileToFetch(name, str(row["url"]), Path(row["path"]), TIFF))
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        if not (self.cache / self.table).is_file():
            self._require_network("the table of sessions")
        rows = self._ask("list", label="the table of sessions", links=not self.fetching.is_offline)
        if not rows:
            raise FetchError("the warehouse offers no session with natural scenes")
        return {int(row["session_id"]): row for row in rows}

    def _session_file(self, row: Mapping[str, Any]) -> FileToFetch:
        return FileToFetch(f"session {row['session_id']}", str(row["url"]), Path(row["path"]), HDF5)

    def _planned(self, files: Sequence[FileToFetch]) -> Sequence[PlannedFile]:
        return plan(
            files,
            Manifest(self.fetching.home_dir),
            force=False,
            offline=self.fetching.is_offline,
            settings=self.fetching.download,
        )

    def _fetch(self, file: FileToFetch) -> None:
        fetch_file(
            file,
            Manifest(self.fetching.home_dir),
            settings=self.fetching.download,
            feedback=self.fetching.feedback,
        )

    def _require_network(self, what: str) -> None:
        if self.fetching.is_offline:
            raise FetchError(
                f"{what}: not in {self.cache}, and the network is forbidden\n"
                "allow it, or give session files that are on disk: --sessions-from DIR"
            )

    def _ask(self, task: str, *, label: str, links: bool = True) -> Any:
        return self._perform({"task": task, "links": links}, label=label)

    def _perform(self, task: Mapping[str, object], *, label: str) -> Any:
        self.cache.mkdir(parents=True, exist_ok=True)
        told = {**task, "cache": str(self.cache), "address": _address()}
        return perform(self.python, told, label=label)


def allen_reader(folder: Path | None, fetching: FetchRequest) -> SessionReader:
    """Return the reader of a folder of session files; without a folder, of what the warehouse offers."""
    return AllenCacheReader(fetching) if folder is None else AllenFolderReader(folder, fetching.home)


def cache_folder(home: Path | None = None) -> Path:
    """Return the folder of AllenSDK's project cache; its manifest and everything it fetches lie there."""
    return home_dir(home) / "allensdk-cache" / "neuropixels"


def _offered(row: Mapping[str, Any], planned: PlannedFile | None) -> SessionSource:
    path = Path(row["path"])
    identity = {"session_id": row["session_id"], "published_at": row["published_at"]}
    if path.is_file():
        return SessionSource(int(row["session_id"]), path, path.stat().st_size, 0, identity)
    size = planned.size if planned else None
    missing = planned.missing_bytes if planned else None
    return SessionSource(int(row["session_id"]), None, size, missing, identity)


def _address() -> list[str] | None:
    told = os.environ.get(WAREHOUSE_VARIABLE)
    if not told:
        return None
    parts = urlsplit(told)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"{WAREHOUSE_VARIABLE}={told}: expected http://HOST or https://HOST")
    return [parts.scheme, parts.netloc + parts.path.rstrip("/")]


def _read(
    python: AllenPython, task: dict[str, object], source: SessionSource, *, label: str
) -> SessionRecording:
    with _returning() as out:
        versions = perform(python, {**task, "out": str(out)}, label=label)
        recording = load_session(out)
    return replace(recording, provenance={**recording.provenance, **source.identity, **versions})


@contextmanager
def _returning() -> Iterator[Path]:
    """Yield a name for the file by which a session comes back, and remove it."""
    with tempfile.TemporaryDirectory(prefix="mvkit-session-") as folder:
        yield Path(folder) / "session.npz"
