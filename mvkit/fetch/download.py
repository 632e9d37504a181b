"""Downloading one file: resumed, checked, and moved to its final name only when whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvkit.errors import FetchError
from mvkit.fetch import http
from mvkit.fetch.content import ContentCheck
from mvkit.fetch.failures import FetchHaltedError, TransientError
from mvkit.fetch.partial import PartialFile, RemoteVersion
from mvkit.fetch.retry import call_with_retries
from mvkit.fetch.settings import DownloadSettings, Feedback
from mvkit.fetch.sizes import readable
from mvkit.fetch.transfer import Transfer


@dataclass(frozen=True)
class Downloaded:
    """A file that has been received whole.

    Attributes
    ----------
    version
        URL, ETag and size.
    sha256
        Digest in hexadecimal of the file on disk.
    resumed_from
        Bytes that an earlier, interrupted run had left and this one kept.
    """

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

    The bytes gather in ``TARGET.part`` beside a note of the file's ETag (``TARGET.part.json``). A later
    call goes on where an earlier one stopped if the server still has that version, and starts again if
    not. The note is left behind for the caller, who removes it (``PartialFile.forget_note``) after
    recording the download.

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
        Receives progress in bytes, and remarks on retries and restarts.

    Raises
    ------
    FetchError
        If the file cannot be had: refused, not found, not what was expected, or every attempt failed.
        Received bytes are kept where they are of use.
    FetchHaltedError
        If the server cannot be reached at all, or the disk is or would be full.
    """
    settings = settings or DownloadSettings()
    feedback = feedback or Feedback()
    http.require_http(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = PartialFile(target)
    resumed_from = partial.resumable_bytes(http.shown(url))
    transfer = Transfer(url, partial, content or ContentCheck(), settings, feedback)
    with http.open_session() as session:
        try:
            found = call_with_retries(
                lambda: transfer.attempt(session),
                n_bytes=partial.n_bytes,
                settings=settings.retry,
                remark=lambda text: feedback.remark(f"{target.name}: {text}"),
            )
        except TransientError as failure:
            raise _given_up(url, failure, partial, settings) from failure
        except KeyboardInterrupt:
            feedback.remark(f"{target.name}: stopped; run the same command again: {_outlook(url, partial)}")
            raise
    version = partial.version() or RemoteVersion(http.shown(url), None, partial.n_bytes())
    partial.move_to(target)
    return Downloaded(version, found.sha256, 0 if transfer.restarted else resumed_from)


def _given_up(
    url: str, failure: TransientError, partial: PartialFile, settings: DownloadSettings
) -> FetchError:
    kind = FetchHaltedError if failure.unreachable else FetchError
    return kind(
        f"{http.shown(url)}: {failure.reason} ({settings.retry.attempts} attempts in a row)\n"
        f"run the same command again later: {_outlook(url, partial)}"
    )


def _outlook(url: str, partial: PartialFile) -> str:
    kept = partial.resumable_bytes(http.shown(url))
    return f"it goes on after the {readable(kept)} received" if kept else "it starts from the beginning"
