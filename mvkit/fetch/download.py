"""Downloading one file over HTTP: resumed, retried, checked, and moved to its final name only when whole.

The bytes gather in ``TARGET.part``. They may only be continued while the server still has the same file, so a
note beside them (``TARGET.part.json``) holds the strong ETag it had.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import LocationParseError

from mvkit import __version__
from mvkit.errors import FetchError, FetchHaltedError, without_credentials
from mvkit.fetch.manifest import HEAD_BYTES, ContentCheck
from mvkit.files import (
    file_digests,
    follow_link,
    format_bytes,
    make_folder,
    move_durably,
    naming_file,
    synchronise,
    write_text,
)
from mvkit.machine import check_free_disk, explain_full_disk

#: Called with (done, total) bytes as work proceeds; total is 0 when unknown.
ProgressCallback = Callable[[int, int], None]

#: Answers after which the same request may succeed later.
TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_STATUS_REASONS = {
    401: "the server wants a log-in",
    403: "the server refuses access (S3 answers so for a missing file too)",
    404: "the server has no such file",
    410: "the file was removed from the server",
}
_PAGE_TYPES = ("text/html", "text/xml", "application/xml", "application/xhtml+xml", "application/json")
#: A second file that does not match its checksum is not a fault of the connection.
_CHECKSUM_FAILURES = 2
_FULL_DISK_REMEDY = "free some space and run the same command again: it goes on from what was received"


@dataclass(frozen=True)
class Feedback:
    """Receivers of progress and messages; silent by default.

    Attributes
    ----------
    log
        Receives one line of text: a retry, a wait for another process, a restart.
    progress
        Opens a progress display for a labelled piece of work.
    """

    log: Callable[[str], None] = lambda text: None
    progress: Callable[[str], AbstractContextManager[ProgressCallback]] = lambda label: nullcontext(
        lambda done, total: None
    )


@dataclass(frozen=True)
class DownloadSettings:
    """Time limits, block size, and when a failed request is tried again.

    Attributes
    ----------
    connect_timeout_s, read_timeout_s
        Longest wait for a connection, and for the next bytes.
    block_bytes
        Bytes written at a time: few enough that a reset connection loses little, enough for the disk's speed.
    attempts
        Attempts in a row that bring nothing new before giving up.
    first_wait_s, longest_wait_s
        Wait after the first failure; it doubles with each further one up to the longest.
    longest_retry_after_s
        Upper bound on the wait that a server may ask for (``Retry-After``).
    fresh_bytes
        An attempt that brought at least this much more of the file than any before does not count as failed.
    sleep
        Waits the given seconds (tests replace it).
    jitter
        Draws from [0, 1); the wait is the full one times (0.5 + 0.5 jitter).
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    block_bytes: int = 1 << 16
    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    longest_retry_after_s: float = 120.0
    fresh_bytes: int = 1 << 20
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


class Downloaded(NamedTuple):
    """A file received whole: its version, its digest, and the bytes used of an interrupted run."""

    version: RemoteVersion
    sha256: str
    resumed_from: int


def download(
    url: str,
    target: Path,
    *,
    content: ContentCheck | None = None,
    settings: DownloadSettings | None = None,
    feedback: Feedback | None = None,
) -> Downloaded:
    """Fetch ``url`` into ``target``.

    A later call resumes an earlier one if the server still has that version, and starts anew if not. The note
    of the ETag is left for the caller, who removes it (``PartialFile.remove_note``) after recording the
    download.

    Parameters
    ----------
    url
        An http or https address.
    target
        Final path; its directory is created. The caller holds its lock. An existing file is replaced at
        the end.
    content
        What the file must begin with (default: anything but an error page).
    settings
        Time limits and retries.
    feedback
        Receives progress in bytes, and messages on retries and restarts.

    Raises
    ------
    FetchError
        If the download fails: refused, not found, not what was expected, or every attempt failed. Received
        bytes are kept where a later call can use them.
    FetchHaltedError
        If the server cannot be reached at all, or the disk is or would be full.
    """
    content = content or ContentCheck()
    settings, feedback = settings or DownloadSettings(), feedback or Feedback()
    check_http(url)
    address = without_credentials(url)
    target = follow_link(target)
    make_folder(target.parent)
    partial = PartialFile(target)
    partial.resumed_from = partial.resumable_bytes(address)

    with open_session() as session:
        try:
            sha256 = _receive_with_retries(session, url, partial, content, settings, feedback)
        except KeyboardInterrupt:
            resume = partial.describe_resume(address)
            feedback.log(f"{target.name}: stopped; run the same command again: {resume}")
            raise
    version = partial.version() or RemoteVersion(address, None, partial.n_bytes())
    move_durably(partial.path, target)
    return Downloaded(version, sha256, partial.resumed_from)


def _receive_with_retries(
    session: requests.Session,
    url: str,
    partial: PartialFile,
    content: ContentCheck,
    settings: DownloadSettings,
    feedback: Feedback,
) -> str:
    """Receive and verify the whole file, and return its SHA-256; errors as of :func:`download`."""
    address = without_credentials(url)
    n_failures, furthest = 0, partial.n_bytes()
    while True:
        try:
            if not partial.is_complete(address):
                _receive(session, url, partial, content, settings, feedback)
            return _verify(address, partial, content, feedback)
        except TransientError as failure:
            if partial.n_bytes() >= furthest + settings.fresh_bytes:
                # A long file over a poor line is not given up while it grows.
                furthest, n_failures = partial.n_bytes(), 0
            n_failures += 1
            if n_failures >= settings.attempts:
                kind = FetchHaltedError if failure.unreachable else FetchError
                raise kind(
                    f"{address}: {failure.reason} ({settings.attempts} attempts in a row)\n"
                    f"run the same command again later: {partial.describe_resume(address)}"
                ) from failure
            seconds = wait_s(n_failures, failure, settings)
            pause = f"trying again in {seconds:.0f} s" if seconds >= 0.5 else "trying again"
            attempts = f"{n_failures} of {settings.attempts} attempts"
            feedback.log(f"{partial.target.name}: {failure.reason}: {pause} ({attempts})")
            settings.sleep(seconds)


def _receive(
    session: requests.Session,
    url: str,
    partial: PartialFile,
    content: ContentCheck,
    settings: DownloadSettings,
    feedback: Feedback,
) -> None:
    """Request the missing bytes, check the answer before earlier bytes are removed, and append them."""
    address, name = without_credentials(url), partial.target.name
    offset, version = partial.resumable_bytes(address), partial.version()
    headers = {}
    if offset and version is not None and version.etag is not None:
        headers = {"Range": f"bytes={offset}-", "If-Range": version.etag}
    with send_request(session, "GET", url, headers=headers, settings=settings) as response:
        # The length is compared below, after the bytes are written; urllib3 would discard the last block.
        response.raw.enforce_content_length = False
        blocks: Iterator[bytes] = response.iter_content(settings.block_bytes)
        if headers and version is not None and response.status_code == 206:
            check_not_compressed(response)
            first_byte, size = content_range(response.headers)
            is_same_size = size is None or version.size in (None, size)
            is_same_version = response.headers.get("ETag") in (None, version.etag)
            if first_byte != offset or not is_same_size or not is_same_version:
                raise partial.restart("the server answered with a part of another file")
            if version.size is None and size is not None:
                version = replace(version, size=size)
                partial.write_note(version)
        elif headers and response.status_code in (412, 416):
            raise partial.restart("the file changed on the server")
        elif response.status_code == 200:
            size = _check_whole_answer(response, address)
            first_block = next(blocks, b"")
            if first_block or size == 0:
                content.check(first_block, where=address)
            if offset:
                feedback.log(
                    f"{name}: the file changed on the server, or the server cannot resume: "
                    "starting again from the beginning"
                )
            version, blocks = remote_version(url, response.headers, size=size), chain([first_block], blocks)
            with explain_full_disk(partial.path, remedy=_FULL_DISK_REMEDY):
                partial.begin(version)
        else:
            raise status_error(url, response)

        received = partial.n_bytes()
        if version.size is not None:
            check_free_disk(partial.path.parent, version.size - received)
        with (
            feedback.progress(name) as progress,
            explain_full_disk(partial.path, remedy=_FULL_DISK_REMEDY),
        ):
            progress(received, version.size or 0)
            for received in partial.append(blocks):
                progress(received, version.size or 0)
        if version.size is None:
            # Only a chunked body has no length; its end is marked, so this is the whole file.
            partial.write_note(replace(version, size=received))
        elif received < version.size:
            raise TransientError(
                f"the connection closed after {format_bytes(received)} of {format_bytes(version.size)}"
            )
        elif received > version.size:
            raise partial.restart("the server sent more than it announced")


def _verify(address: str, partial: PartialFile, content: ContentCheck, feedback: Feedback) -> str:
    """Check the beginning and the MD5 of the whole file, and return its SHA-256."""
    with partial.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        content.check(head, where=address)
    except FetchError:
        partial.remove()
        raise
    version = partial.version()
    md5 = version.md5 if version is not None else None
    with feedback.progress(f"checking {partial.target.name}") as progress:
        digests = file_digests(partial.path, ("sha256", *(["md5"] if md5 else [])), progress=progress)
    if digests.get("md5") == md5:
        return digests["sha256"]
    partial.remove()
    partial.n_damaged += 1
    reason = f"the MD5 of what was received is {digests['md5']}, the server's is {md5}"
    if partial.n_damaged < _CHECKSUM_FAILURES:
        raise TransientError(reason, at_once=True)
    raise FetchError(
        f"{address}: {reason}\nthis happened twice: the copy on the server, or the way to it, is damaged"
    )


def request_version(session: requests.Session, url: str, settings: DownloadSettings) -> RemoteVersion:
    """Ask the server for a file's size and ETag (one HEAD request); errors as of ``send_request``."""
    check_http(url)
    with send_request(session, "HEAD", url, settings=settings) as response:
        if response.status_code != 200:
            raise status_error(url, response)
        return remote_version(url, response.headers, size=content_length(response.headers))


@dataclass(frozen=True)
class RemoteVersion:
    """One version of a file on a server.

    Attributes
    ----------
    url
        Address without credentials.
    etag
        The ETag header as sent, quotes included, or None.
    size
        Length in bytes, or None if the server does not report it.
    md5
        MD5 digest in hexadecimal where the ETag is one, else None.
    """

    url: str
    etag: str | None
    size: int | None
    md5: str | None = None

    @property
    def is_resumable(self) -> bool:
        """Tell whether a strong ETag identifies this version byte by byte (RFC 9110, 13.1.5)."""
        return self.etag is not None and not self.etag.upper().startswith("W/")


class PartialFile:
    """The bytes of a download so far (``.part``), and the note beside them (``.part.json``).

    The order of writing keeps the two consistent however the process dies: the bytes are emptied before the
    note changes, and the note is written before new bytes follow.

    Attributes
    ----------
    resumed_from
        Bytes that an earlier run left and this download uses; 0 once they are removed.
    n_damaged
        Whole files received whose MD5 was not the server's.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note_path = target.with_name(target.name + ".part.json")
        self.resumed_from = 0
        self.n_damaged = 0

    def version(self) -> RemoteVersion | None:
        """Return the version of the note, or None if there is no readable note."""
        try:
            return RemoteVersion(**json.loads(self.note_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def n_bytes(self) -> int:
        """Return how many bytes have been received."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def resumable_bytes(self, url: str) -> int:
        """Return how many of the bytes can be used for a download from ``url``."""
        version = self.version()
        if version is None or version.url != url:
            return 0
        n_bytes = self.n_bytes()
        if version.size is not None and n_bytes >= version.size:
            return n_bytes if n_bytes == version.size else 0
        return n_bytes if version.is_resumable else 0

    def is_complete(self, url: str) -> bool:
        """Tell whether every byte of a version from ``url`` is here."""
        version = self.version()
        is_known = version is not None and version.url == url and self.path.exists()
        return is_known and version is not None and self.n_bytes() == version.size

    def begin(self, version: RemoteVersion) -> None:
        """Empty the file and note which version is going to be received."""
        self.resumed_from = 0
        with naming_file(self.path), self.path.open("wb") as file:
            synchronise(file.fileno())
        self.write_note(version)

    def write_note(self, version: RemoteVersion) -> None:
        """Replace the note, for instance once the size is known."""
        write_text(self.note_path, json.dumps(asdict(version)))

    def append(self, blocks: Iterable[bytes]) -> Iterator[int]:
        """Append blocks, unbuffered; yield the length of the file after each."""
        with self.path.open("ab", buffering=0) as file:
            length = file.tell()
            for block in blocks:
                rest = memoryview(block)
                with naming_file(self.path):
                    while rest:
                        rest = rest[file.write(rest) :]
                length += len(block)
                yield length

    def remove(self) -> None:
        """Remove both files."""
        self.resumed_from = 0
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)

    def restart(self, reason: str) -> TransientError:
        """Remove the received bytes and return the error that asks for an attempt from the beginning."""
        self.remove()
        return TransientError(f"{reason}: starting again from the beginning", at_once=True)

    def describe_resume(self, url: str) -> str:
        """Return where the next download from ``url`` will start, as text."""
        n_bytes = self.resumable_bytes(url)
        return (
            f"it goes on after the {format_bytes(n_bytes)} received"
            if n_bytes
            else "it starts from the beginning"
        )

    def remove_note(self) -> None:
        """Remove the note of a download that is finished and recorded."""
        self.note_path.unlink(missing_ok=True)


class TransientError(Exception):
    """One attempt failed for a reason that may pass; used inside the package only.

    ``retry_after_s`` is the wait that the server asked for; ``at_once``: the next attempt needs no wait, as
    only the partial file was of no use; ``unreachable``: no answer came at all.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after_s: float | None = None,
        at_once: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.at_once = at_once
        self.unreachable = unreachable


def wait_s(n_failures: int, failure: TransientError, settings: DownloadSettings) -> float:
    """Return the seconds to wait after the ``n_failures``-th failure in a row (counted from 1).

    A server's ``Retry-After`` is honoured up to ``longest_retry_after_s``. Otherwise the wait doubles with
    every failure, with jitter from its upper half.
    """
    if failure.at_once:
        return 0.0
    if failure.retry_after_s is not None:
        return min(failure.retry_after_s, settings.longest_retry_after_s)
    full = min(settings.first_wait_s * 2.0 ** (n_failures - 1), settings.longest_wait_s)
    return full * (0.5 + 0.5 * settings.jitter())


def open_session() -> requests.Session:
    """Return a session that asks for files as they are stored, uncompressed."""
    session = requests.Session()
    session.max_redirects = 5
    # Ranges, lengths and checksums refer to the stored bytes, not to a compressed transfer.
    session.headers.update({"User-Agent": f"mvkit/{__version__}", "Accept-Encoding": "identity"})
    return session


@contextmanager
def send_request(
    session: requests.Session,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    settings: DownloadSettings,
) -> Iterator[requests.Response]:
    """Send a request and yield the answer with its body unread; network failures become TransientError.

    Raises
    ------
    TransientError
        If the connection fails, times out or breaks.
    FetchError
        For a bad address, a redirect loop, or a redirect from https to anything else.
    """
    address, proxy = without_credentials(url), _proxy(url)
    _check_certificates(url)
    timed_out = f"nothing received for {settings.read_timeout_s:g} s"
    try:
        with session.request(
            method,
            url,
            headers=dict(headers or {}),
            stream=True,
            timeout=(settings.connect_timeout_s, settings.read_timeout_s),
            allow_redirects=True,
        ) as response:
            check_redirect(url, response.url)
            yield response
    except requests.TooManyRedirects as error:
        raise FetchError(f"{address}: the server redirects in a circle") from error
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, LocationParseError) as error:
        if "SOCKS" in str(error):
            raise FetchHaltedError(
                f"{address}: the proxy {proxy} needs PySocks: pip install pysocks"
            ) from error
        where = (
            f"the address, one it redirects to, or the proxy {proxy},"
            if proxy
            else "the address, or one it redirects to,"
        )
        raise FetchError(f"{address}: {where} cannot be fetched") from error
    except requests.exceptions.SSLError as error:
        if (untrusted := re.search(r"certificate verify failed(?:: ([^(]*[^( ]))?", str(error))) is not None:
            advice = (
                f"is the clock of this computer right? it is {datetime.now():%Y-%m-%d %H:%M} here"
                if "expired" in untrusted[0] or "not yet valid" in untrusted[0]
                else "a firm's or university's own certificate is trusted with REQUESTS_CA_BUNDLE=FILE.pem"
            )
            reason = f" ({untrusted[1]})" if untrusted[1] else ""
            raise FetchError(
                f"{address}: the server's certificate is not trusted{reason}\n{advice}"
            ) from error
        if "NO_CERTIFICATE" in str(error):
            raise FetchHaltedError(
                "REQUESTS_CA_BUNDLE: holds no certificate; it names the certificates to trust (.pem)"
            ) from error
        raise TransientError("the encrypted connection failed") from error
    except requests.exceptions.ConnectTimeout as error:
        of_proxy = f" to the proxy {proxy}" if proxy else ""
        raise TransientError(
            f"no connection{of_proxy} within {settings.connect_timeout_s:g} s", unreachable=True
        ) from error
    except requests.Timeout as error:
        raise TransientError(timed_out) from error
    except requests.exceptions.ProxyError as error:
        answer = re.search(r"Tunnel connection failed: (\d+)", str(error))
        if answer is None:
            raise TransientError(f"no connection to the proxy {proxy}", unreachable=True) from error
        raise _proxy_error(url, int(answer[1])) from error
    except requests.ConnectionError as error:
        text = str(error)
        if "Read timed out" in text:
            raise TransientError(timed_out) from error
        if any(words in text for words in ("NameResolution", "Name or service", "getaddrinfo")):
            raise TransientError("the server's name is not known (no network?)", unreachable=True) from error
        if any(words in text for words in ("Max retries", "NewConnection")):
            raise TransientError("no connection to the server", unreachable=True) from error
        raise TransientError("the connection broke") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise TransientError("the connection broke") from error
    except requests.RequestException as error:
        raise TransientError(f"the request failed ({type(error).__name__})") from error


def _proxy(url: str) -> str:
    """Return the proxy on the way to an address, without user name and password; "" for none."""
    proxies = requests.utils.get_environ_proxies(url)
    # Whatever the password is made of.
    return re.sub(r"(?<=://).*@", "", requests.utils.select_proxy(url, proxies) or "")


def _proxy_error(url: str, status: int) -> FetchError | TransientError:
    """Build the error for a proxy's answer."""
    proxy = _proxy(url)
    if status in TRANSIENT_STATUSES:
        return TransientError(f"the proxy {proxy} answered {status}", unreachable=True)
    if status != 407:
        return FetchError(f"{without_credentials(url)}: the proxy {proxy} refused the connection ({status})")
    variable = f"{urlsplit(url).scheme.upper()}_PROXY"
    return FetchHaltedError(
        f"{without_credentials(url)}: the proxy {proxy} wants a log-in\n"
        f"give it in its address: {variable}=http://USER:PASSWORD@HOST:PORT"
    )


def _check_certificates(url: str) -> None:
    """Check that the file that the environment names for certificates is there."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    name = next((name for name in names if os.environ.get(name)), None)
    if url.lower().startswith("https:") and name is not None and not Path(os.environ[name]).exists():
        raise FetchHaltedError(
            f"{name}={os.environ[name]}: no such file; it names the certificates to trust (.pem)"
        )


def check_http(url: str) -> None:
    """Check that an address is http or https, with a host; else FetchError."""
    try:
        parts = urlsplit(url)
        is_http = parts.scheme.lower() in ("http", "https") and parts.hostname is not None
    except ValueError:
        is_http = False
    if not is_http:
        raise FetchError(
            f"{without_credentials(url)}: only http:// and https:// addresses of a server can be fetched"
        )


def check_redirect(requested: str, answered: str) -> None:
    """Check that a redirect does not leave an encrypted connection; else FetchError."""
    if requested.lower().startswith("https:") and not answered.lower().startswith("https:"):
        raise FetchError(
            f"{without_credentials(requested)}: redirects to an unencrypted address "
            f"({without_credentials(answered)})"
        )


def check_not_compressed(response: requests.Response) -> None:
    """Check that a body is not transformed, as its bytes would not be those of the file; else FetchError."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError(
            f"{without_credentials(response.url)}: the server sends the file compressed ({encoding}), "
            "so it can be neither resumed nor checked"
        )


def status_error(url: str, response: requests.Response) -> FetchError | TransientError:
    """Build the error for an answer with an error status."""
    status = response.status_code
    if status in TRANSIENT_STATUSES:
        return TransientError(f"the server answered {status}", retry_after_s=retry_after_s(response.headers))
    if status == 407:
        return _proxy_error(url, status)
    reason = _STATUS_REASONS.get(status, "the server refused")
    return FetchError(f"{without_credentials(url)}: HTTP {status}: {reason}")


def remote_version(url: str, headers: Mapping[str, str], *, size: int | None) -> RemoteVersion:
    """Read which version of a file an answer describes."""
    etag = headers.get("ETag", "").strip() or None
    return RemoteVersion(url=without_credentials(url), etag=etag, size=size, md5=_md5(etag, headers))


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return ``Content-Length`` as a number, or None."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return (first byte, total length) of ``Content-Range``, None where it has none."""
    match = re.fullmatch(r"\s*bytes\s+(?:(\d+)-\d+|\*)/(\d+|\*)\s*", headers.get("Content-Range", ""))
    if match is None:
        return None, None
    first, total = match.groups()
    return (int(first) if first else None), (int(total) if total != "*" else None)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, or None (also for a date)."""
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() else None


def _check_whole_answer(response: requests.Response, address: str) -> int | None:
    """Check that an answer is a file whose end is known, not a web page; return its length if it has one."""
    check_not_compressed(response)
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in _PAGE_TYPES:
        raise FetchError(
            f"{address}: the server sent a page ({kind}) instead of the file\n"
            "check the address, a proxy, or a log-in page of the network"
        )
    size = content_length(response.headers)
    if size is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
        raise FetchError(
            f"{address}: the server does not say how long the file is, "
            "so a truncated download could not be recognised"
        )
    return size


def _md5(etag: str | None, headers: Mapping[str, str]) -> str | None:
    # S3 uses the MD5 as ETag for files sent in one piece, unless it encrypts them with a managed or
    # customer key.
    encrypted = headers.get("x-amz-server-side-encryption", "").lower().startswith("aws:kms")
    if encrypted or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    match = re.fullmatch(r'"?([0-9a-fA-F]{32})"?', etag or "")
    return match.group(1).lower() if match else None
