"""Readers of imaging experiments that use AllenSDK: of a folder, and of what the Allen Institute offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mvkit.acquire.allen.bridge import AllenCacheReader, AllenFolderReader
from mvkit.acquire.allen.imaging_request import ImagingRequest
from mvkit.acquire.allen.ophys_folder import EXPERIMENTS_TABLE
from mvkit.acquire.allen.ophys_reader import OphysReader
from mvkit.acquire.allen.readers import SessionReader, SessionSource
from mvkit.acquire.allen.session import SessionRequest
from mvkit.acquire.reports import FetchRequest
from mvkit.errors import FetchError
from mvkit.fetch import FileToFetch
from mvkit.paths import home_dir


@dataclass(frozen=True)
class AllenOphysFolderReader(AllenFolderReader):
    """Reads the experiments of a folder with AllenSDK.

    Parameters
    ----------
    folder
        Laid out as :mod:`mvkit.acquire.allen.ophys_folder` says.
    home
        mvkit's home; None for the usual one.
    request
        What will be taken: other experiments are left out.
    """

    request: SessionRequest = field(default_factory=ImagingRequest)
    task: ClassVar[str] = "read_ophys"

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the experiments of the folder, ascending by number.

        Raises
        ------
        MvkitError
            If AllenSDK is not installed, or the folder holds none.
        """
        _ = self.python
        return OphysReader(self.folder, self.request).sessions()


@dataclass(frozen=True)
class AllenOphysCacheReader(AllenCacheReader):
    """Downloads experiments into AllenSDK's BrainObservatoryCache under mvkit's home, and reads them there.

    Parameters
    ----------
    fetching
        Home, network, retries and feedback.
    request
        What will be taken: other experiments are left out.
    """

    request: SessionRequest = field(default_factory=ImagingRequest)
    task: ClassVar[str] = "read_cached_ophys"
    table: ClassVar[str] = EXPERIMENTS_TABLE

    @property
    def cache(self) -> Path:
        """Folder of AllenSDK's cache; its manifest and everything it fetches lie there."""
        return home_dir(self.fetching.home) / "allensdk-cache" / "calcium"

    def _fetch_scenes(self) -> None:
        """Do nothing: the files hold the images."""

    def _ask(self, task: str, *, label: str, links: bool = True) -> Any:
        wanted = {"stimulus": self.request.stimulus, "areas": list(self.request.areas)}
        return self._perform({"task": f"{task}_ophys", **wanted}, label=label)

    def _session_file(self, row: Mapping[str, Any]) -> FileToFetch:
        if not row["url"]:
            raise FetchError(f"session {row['session_id']}: the warehouse offers no file of it")
        return super()._session_file(row)


def allen_ophys_reader(folder: Path | None, request: SessionRequest, fetching: FetchRequest) -> SessionReader:
    """Return the reader of a folder of experiments; without a folder, of what the warehouse offers."""
    if folder is None:
        return AllenOphysCacheReader(fetching, request)
    return AllenOphysFolderReader(folder, fetching.home, request)
