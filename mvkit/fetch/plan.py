"""Deciding before acting: what is there, what is missing, and how much disk it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests

from mvkit.errors import FetchError
from mvkit.fetch import http
from mvkit.fetch.content import ContentCheck
from mvkit.fetch.failures import TransientError
from mvkit.fetch.manifest import Manifest
from mvkit.fetch.partial import PartialFile, RemoteVersion
from mvkit.fetch.settings import DownloadSettings

State = Literal["there", "there, not recorded", "damaged", "missing"]


@dataclass(frozen=True)
class FileToFetch:
    """One file: where it comes from and where it goes.

    Attributes
    ----------
    name
        What the user calls it.
    url
        Address.
    target
        Final path, inside mvkit's home.
    content
        What it must begin with.
    approximate_size
        Published length in bytes, for planning without a server; None if not known.
    """

    name: str
    url: str
    target: Path
    content: ContentCheck
    approximate_size: int | None = None


@dataclass(frozen=True)
class PlannedFile:
    """What fetching one file would take.

    Attributes
    ----------
    file
        The file.
    state
        What is on disk now.
    to_fetch
        Whether a download is needed.
    size
        Length of the whole file in bytes, or None if not known.
    is_exact
        Whether ``size`` comes from the server or the file on disk rather than from the catalogue.
    received
        Bytes of it that an interrupted download has left and that can be kept.
    remark
        Why the server did not tell the size; else empty.
    """

    file: FileToFetch
    state: State
    to_fetch: bool
    size: int | None
    is_exact: bool = True
    received: int = 0
    remark: str = ""

    @property
    def missing_bytes(self) -> int | None:
        """Bytes to download: 0 if nothing is, None if not known."""
        if not self.to_fetch:
            return 0
        return None if self.size is None else max(0, self.size - self.received)


def state_of(target: Path, manifest: Manifest) -> State:
    """Look at the disk and the manifest."""
    if not target.exists():
        return "missing"
    record = manifest.find(target)
    if record is None:
        return "there, not recorded"
    return "there" if target.stat().st_size == record.size else "damaged"


def is_there(state: State) -> bool:
    """Tell whether a file in this state need not be fetched."""
    return state in ("there", "there, not recorded")


def plan(
    files: Sequence[FileToFetch],
    manifest: Manifest,
    *,
    force: bool = False,
    offline: bool = False,
    settings: DownloadSettings | None = None,
) -> tuple[PlannedFile, ...]:
    """Find out what fetching ``files`` would take; nothing is changed.

    Parameters
    ----------
    files
        What is wanted.
    manifest
        Records of the home.
    force
        Whether files that are there are fetched again.
    offline
        Whether the servers must not be asked for sizes.
    settings
        Time limits.
    """
    settings = settings or DownloadSettings()
    planned = []
    unreachable: dict[str, str] = {}
    with http.open_session() as session:
        for file in files:
            state = state_of(file.target, manifest)
            if is_there(state) and not force:
                planned.append(PlannedFile(file, state, to_fetch=False, size=file.target.stat().st_size))
                continue
            host = file.url.split("/")[2] if "://" in file.url else ""
            remark = "offline" if offline else unreachable.get(host, "")
            remote: RemoteVersion | None = None
            if not remark:
                try:
                    remote = probe(session, file.url, settings)
                except TransientError as failure:
                    remark = failure.reason
                    if failure.unreachable:
                        unreachable[host] = remark
                except FetchError as error:
                    remark = str(error).splitlines()[0].removeprefix(f"{http.shown(file.url)}: ")
            planned.append(_planned(file, state, remote, remark))
    return tuple(planned)


def probe(session: requests.Session, url: str, settings: DownloadSettings) -> RemoteVersion:
    """Ask the server for a file's size and ETag (one HEAD request).

    Raises
    ------
    TransientError
        If it does not answer well now.
    FetchError
        If it has no such file or refuses.
    """
    http.require_http(url)
    with http.requesting(session, "HEAD", url, settings=settings) as response:
        if response.status_code != 200:
            raise http.refusal(url, response.status_code)
        return http.remote_version(url, response.headers, size=http.content_length(response.headers))


def _planned(file: FileToFetch, state: State, remote: RemoteVersion | None, remark: str) -> PlannedFile:
    partial = PartialFile(file.target)
    received = partial.resumable_bytes(http.shown(file.url))
    noted = partial.version()
    if remote is not None and noted is not None and remote.etag != noted.etag:
        received = 0
    told = remote.size if remote is not None else None
    return PlannedFile(
        file,
        state,
        to_fetch=True,
        size=file.approximate_size if told is None else told,
        is_exact=told is not None,
        received=received,
        remark=remark,
    )
