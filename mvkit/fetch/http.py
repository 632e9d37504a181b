"""One HTTP request: what is asked, and what an answer means for a download."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

import requests

from mvkit import __version__
from mvkit.errors import FetchError
from mvkit.fetch.failures import TransientError
from mvkit.fetch.partial import RemoteVersion
from mvkit.fetch.settings import DownloadSettings

#: Answers that say "not now" rather than "no".
TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)

_REFUSALS = {
    401: "the server wants a log-in",
    403: "the server refuses access (S3 answers so for a missing file too)",
    404: "the server has no such file",
    407: "the proxy wants a log-in",
    410: "the file was removed from the server",
}


def open_session() -> requests.Session:
    """Return a session that asks for files as they are stored, uncompressed."""
    session = requests.Session()
    session.max_redirects = 5
    # Ranges, lengths and checksums all refer to the stored bytes; a compressed transfer would spoil each.
    session.headers.update({"User-Agent": f"mvkit/{__version__}", "Accept-Encoding": "identity"})
    return session


def shown(url: str) -> str:
    """Return the address without user name and password, for messages and records."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def require_http(url: str) -> None:
    """Refuse addresses that are not http or https.

    Raises
    ------
    FetchError
        For any other scheme, or no host.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        raise FetchError(f"{shown(url)}: only http:// and https:// addresses can be fetched")


@contextmanager
def requesting(
    session: requests.Session,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    settings: DownloadSettings,
) -> Iterator[requests.Response]:
    """Send a request and yield the answer with its body unread; network failures inside become ours.

    Raises
    ------
    TransientError
        If the connection fails, times out or breaks.
    FetchError
        For a bad address, a redirect loop, or a redirect from https to anything else.
    """
    timeouts = (settings.connect_timeout_s, settings.read_timeout_s)
    try:
        with session.request(
            method, url, headers=dict(headers or {}), stream=True, timeout=timeouts, allow_redirects=True
        ) as response:
            refuse_downgrade(url, response.url)
            yield response
    except requests.TooManyRedirects as error:
        raise FetchError(f"{shown(url)}: the server redirects in a circle") from error
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
        raise FetchError(f"{shown(url)}: the address, or one it redirects to, cannot be fetched") from error
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FetchError(f"{shown(url)}: the server's certificate is not trusted") from error
        raise TransientError("the encrypted connection failed") from error
    except requests.exceptions.ConnectTimeout as error:
        raise TransientError(
            f"no connection within {settings.connect_timeout_s:g} s", unreachable=True
        ) from error
    except requests.Timeout as error:
        raise TransientError(f"nothing received for {settings.read_timeout_s:g} s") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise TransientError("the connection broke") from error
    except requests.ConnectionError as error:
        raise _connection_failure(error, settings) from error
    except requests.RequestException as error:
        raise TransientError(f"the request failed ({type(error).__name__})") from error


def refuse_downgrade(asked: str, answered: str) -> None:
    """Refuse a redirect that leaves the encrypted connection.

    Raises
    ------
    FetchError
        If ``asked`` is https and ``answered`` is not.
    """
    if asked.lower().startswith("https:") and not answered.lower().startswith("https:"):
        raise FetchError(f"{shown(asked)}: redirects to an unencrypted address ({shown(answered)})")


def require_identity(response: requests.Response) -> None:
    """Refuse a transformed body, whose bytes are not those of the file.

    Raises
    ------
    FetchError
        If the answer has a ``Content-Encoding``.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError(
            f"{shown(response.url)}: the server sends the file compressed ({encoding}), "
            "so it can be neither resumed nor checked"
        )


def refusal(url: str, status: int) -> FetchError | TransientError:
    """Build the failure for an answer with an error status."""
    if status in TRANSIENT_STATUSES:
        return TransientError(f"the server answered {status}")
    return FetchError(f"{shown(url)}: HTTP {status}: {_REFUSALS.get(status, 'the server refused')}")


def remote_version(url: str, headers: Mapping[str, str], *, size: int | None) -> RemoteVersion:
    """Read which version of a file an answer describes."""
    etag = headers.get("ETag", "").strip() or None
    return RemoteVersion(url=shown(url), etag=etag, size=size, md5=_md5(etag, headers))


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return ``Content-Length`` as a number, or None."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return (first byte, total length) of ``Content-Range``; None for what it does not say."""
    match = re.fullmatch(r"\s*bytes\s+(?:(\d+)-\d+|\*)/(\d+|\*)\s*", headers.get("Content-Range", ""))
    if match is None:
        return None, None
    first, total = match.groups()
    return (int(first) if first else None), (int(total) if total != "*" else None)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait that ``Retry-After`` asks for (seconds or a date), or None."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _md5(etag: str | None, headers: Mapping[str, str]) -> str | None:
    # S3 uses the MD5 as ETag for files sent in one piece, unless it encrypts them with a managed or
    # customer key.
    encrypted = headers.get("x-amz-server-side-encryption", "").lower().startswith("aws:kms")
    if encrypted or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    match = re.fullmatch(r'"?([0-9a-fA-F]{32})"?', etag or "")
    return match.group(1).lower() if match else None


def _connection_failure(error: requests.ConnectionError, settings: DownloadSettings) -> TransientError:
    text = str(error)
    if "Read timed out" in text:
        return TransientError(f"nothing received for {settings.read_timeout_s:g} s")
    if "NameResolution" in text or "Name or service" in text or "getaddrinfo" in text:
        return TransientError("the server's name is not known (no network?)", unreachable=True)
    if "Max retries" in text or "NewConnection" in text:
        return TransientError("no connection to the server", unreachable=True)
    return TransientError("the connection broke")
