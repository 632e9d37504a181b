"""Fetching a file under its lock and recording it: the act that follows a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mvkit.errors import FetchError
from mvkit.fetch.content import HEAD_BYTES, ContentCheck
from mvkit.fetch.digests import digests
from mvkit.fetch.download import download
from mvkit.fetch.locks import holding
from mvkit.fetch.manifest import Manifest, Record
from mvkit.fetch.partial import PartialFile
from mvkit.fetch.plan import FileToFetch, state_of
from mvkit.fetch.settings import DownloadSettings, Feedback
from mvkit.fetch.sizes import readable


@dataclass(frozen=True)
class Fetched:
    """A file that is in place and recorded.

    Attributes
    ----------
    file
        The file.
    status
        "fetched", or "already there".
    record
        Its record in the manifest.
    resumed_from
        Bytes kept from an interrupted download.
    """

    file: FileToFetch
    status: Literal["fetched", "already there"]
    record: Record
    resumed_from: int = 0


def fetch_file(
    file: FileToFetch,
    manifest: Manifest,
    *,
    force: bool = False,
    keep: bool = True,
    settings: DownloadSettings | None = None,
    feedback: Feedback | None = None,
) -> Fetched:
    """Make sure that a file is in place and recorded; download it if it is not.

    A second process that wants the same file waits for the first and then finds it there. A file that
    someone put in place by hand is accepted if it begins as it should, and recorded. One whose size is no
    longer what was recorded is fetched again.

    Parameters
    ----------
    file
        What to fetch.
    manifest
        Records of the home.
    force
        Fetch it even if it is there.
    keep
        False for an intermediate file.
    settings
        Time limits and retries.
    feedback
        Receives progress and remarks.

    Raises
    ------
    FetchError
        If it cannot be had; then nothing is changed under its final name.
    """
    feedback = feedback or Feedback()
    with holding(file.target, remark=feedback.remark):
        state = state_of(file.target, manifest)
        if not force:
            recorded = manifest.find(file.target)
            if state == "there" and recorded is not None:
                return Fetched(file, "already there", recorded)
            if state == "there, not recorded":
                record = adopt(file.target, file.content, manifest, keep=keep, feedback=feedback)
                return Fetched(file, "already there", record)
        if state == "damaged":
            feedback.remark(f"{file.target}: not the size that was recorded; fetching it again")
        received = download(file.url, file.target, content=file.content, settings=settings, feedback=feedback)
        record = Record.of_now(
            size=file.target.stat().st_size,
            sha256=received.sha256,
            url=received.version.url,
            etag=received.version.etag,
            keep=keep,
        )
        manifest.record(file.target, record)
        PartialFile(file.target).forget_note()
        return Fetched(file, "fetched", record, received.resumed_from)


def adopt(
    target: Path, content: ContentCheck, manifest: Manifest, *, keep: bool = True, feedback: Feedback
) -> Record:
    """Record a file that is in place without a record.

    It was put there by hand, or by a fetch that was killed between the last two steps; the note of the
    download is then still beside it.

    Parameters
    ----------
    target
        The file; the caller holds its lock.
    content
        What it must begin with.
    manifest
        Records of the home.
    keep
        False for an intermediate file that mvkit itself fetched.
    feedback
        Receives progress and remarks.

    Raises
    ------
    FetchError
        If it does not begin as such a file must.
    """
    with target.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    try:
        content.require(head, where=str(target))
    except FetchError as error:
        raise FetchError(f"{error}\nremove it, or fetch it again with --force") from error
    size = target.stat().st_size
    with feedback.progress(f"checking {target.name}") as progress:
        sha256 = digests(target, progress=progress).sha256
    partial = PartialFile(target)
    noted = partial.version()
    finished = noted is not None and noted.size == size and not partial.path.exists()
    if noted is not None and finished:
        record = Record.of_now(size=size, sha256=sha256, url=noted.url, etag=noted.etag, keep=keep)
        partial.forget_note()
    else:
        record = Record.of_now(size=size, sha256=sha256)
        feedback.remark(f"{target}: found without a record ({readable(size)}); recorded as it is")
    manifest.record(target, record)
    return record
