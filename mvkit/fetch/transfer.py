"""One attempt at a file: ask for what is missing, judge the answer, append, check the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import requests

from mvkit.errors import FetchError
from mvkit.fetch import http
from mvkit.fetch.content import ContentCheck, require_file_type
from mvkit.fetch.digests import Digests, digests
from mvkit.fetch.disk import explaining_full_disk, require_free
from mvkit.fetch.failures import TransientError
from mvkit.fetch.partial import PartialFile, RemoteVersion
from mvkit.fetch.settings import DownloadSettings, Feedback
from mvkit.fetch.sizes import readable

#: A second file that does not match its own checksum is no accident of the line.
_CHECKSUM_FAILURES = 2


@dataclass
class Transfer:
    """What the attempts at one file share.

    Attributes
    ----------
    restarted
        Whether bytes of an earlier run had to be thrown away.
    checksum_failures
        Whole files received whose MD5 was not the server's.
    """

    url: str
    partial: PartialFile
    content: ContentCheck
    settings: DownloadSettings
    feedback: Feedback
    restarted: bool = False
    checksum_failures: int = 0

    def attempt(self, session: requests.Session) -> Digests:
        """Receive what is missing and check the whole file.

        Raises
        ------
        TransientError
            If another attempt may succeed.
        FetchError
            If none will.
        """
        if not self.partial.is_complete(http.shown(self.url)):
            self._receive(session)
        return self._checked()

    def _receive(self, session: requests.Session) -> None:
        offset = self.partial.resumable_bytes(http.shown(self.url))
        version = self.partial.version()
        headers = {}
        if offset and version is not None and version.etag is not None:
            headers = {"Range": f"bytes={offset}-", "If-Range": version.etag}
        with http.requesting(session, "GET", self.url, headers=headers, settings=self.settings) as response:
            if headers and response.status_code == 206:
                version = self._continued(response, offset, version)
                blocks = self._blocks(response)
            elif response.status_code == 200:
                version, blocks = self._begun(response, offset)
            else:
                raise self._refused(response, resuming=bool(headers))
            self._append(blocks, version)

    def _blocks(self, response: requests.Response) -> Iterator[bytes]:
        # The length is compared below, where what did arrive is kept; urllib3 would throw its last block
        # away.
        response.raw.enforce_content_length = False
        blocks: Iterator[bytes] = response.iter_content(self.settings.block_bytes)
        return blocks

    def _begun(self, response: requests.Response, offset: int) -> tuple[RemoteVersion, Iterator[bytes]]:
        """Judge a whole file's answer by its headers and first block before letting go of earlier bytes."""
        http.require_identity(response)
        require_file_type(response.headers.get("Content-Type"), url=http.shown(self.url))
        size = http.content_length(response.headers)
        if size is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
            raise FetchError(
                f"{http.shown(self.url)}: the server does not say how long the file is, "
                "so a cut download could not be told from a whole one"
            )
        blocks = self._blocks(response)
        first = next(blocks, b"")
        if first or size == 0:
            self.content.require(first, where=http.shown(self.url))
        if offset:
            self.restarted = True
            self.feedback.remark(
                f"{self.partial.target.name}: the file changed on the server, or the server cannot resume: "
                "starting again from the beginning"
            )
        version = http.remote_version(self.url, response.headers, size=size)
        with self._explaining_full_disk():
            self.partial.begin(version)
        return version, _chain(first, blocks)

    def _continued(
        self, response: requests.Response, offset: int, version: RemoteVersion | None
    ) -> RemoteVersion:
        """Check that a partial answer goes on exactly where the received bytes end."""
        http.require_identity(response)
        first, total = http.content_range(response.headers)
        etag = response.headers.get("ETag")
        if (
            version is None
            or first != offset
            or (total is not None and version.size is not None and total != version.size)
            or (etag is not None and etag != version.etag)
        ):
            raise self._stale("the server answered with a part of another file")
        if version.size is None and total is not None:
            version = RemoteVersion(version.url, version.etag, total, version.md5)
            self.partial.describe(version)
        return version

    def _append(self, blocks: Iterator[bytes], version: RemoteVersion) -> None:
        received = self.partial.n_bytes()
        if version.size is not None:
            require_free(self.partial.path.parent, version.size - received)
        with self.feedback.progress(self.partial.target.name) as progress:
            progress(received, version.size or 0)
            with self._explaining_full_disk():
                for received in self.partial.append(blocks):
                    progress(received, version.size or 0)
        if version.size is None:
            # Only a chunked body has no length, and it ends with a mark, so this is all of it.
            self.partial.describe(RemoteVersion(version.url, version.etag, received, version.md5))
        elif received < version.size:
            raise TransientError(
                f"the connection closed after {readable(received)} of {readable(version.size)}"
            )
        elif received > version.size:
            raise self._stale("the server sent more than it announced")

    def _checked(self) -> Digests:
        try:
            self.content.require(self.partial.head(), where=http.shown(self.url))
        except FetchError:
            self.partial.discard()
            raise
        version = self.partial.version()
        md5 = version.md5 if version is not None else None
        with self.feedback.progress(f"checking {self.partial.target.name}") as progress:
            found = digests(self.partial.path, with_md5=md5 is not None, progress=progress)
        if found.md5 == md5:
            return found
        self.partial.discard()
        self.checksum_failures += 1
        reason = f"the MD5 of what was received is {found.md5}, the server's is {md5}"
        if self.checksum_failures >= _CHECKSUM_FAILURES:
            raise FetchError(
                f"{http.shown(self.url)}: {reason}\n"
                "this happened twice: the copy on the server, or the way to it, is damaged"
            )
        raise TransientError(reason, at_once=True)

    def _refused(self, response: requests.Response, *, resuming: bool) -> FetchError | TransientError:
        if resuming and response.status_code in (206, 412, 416):
            return self._stale("the file changed on the server")
        failure = http.refusal(self.url, response.status_code)
        if isinstance(failure, TransientError):
            failure.retry_after_s = http.retry_after_s(response.headers)
        return failure

    def _stale(self, reason: str) -> TransientError:
        """Throw the received bytes away and ask for an attempt from the beginning."""
        self.partial.discard()
        self.restarted = True
        return TransientError(f"{reason}: starting again from the beginning", at_once=True)

    def _explaining_full_disk(self) -> AbstractContextManager[None]:
        return explaining_full_disk(
            self.partial.path,
            remedy="free some space and run the same command again: it goes on from what was received",
        )


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
