"""What the first bytes of a file say about it, without opening it as anything."""

from __future__ import annotations

from dataclasses import dataclass

from mvkit.errors import FetchError

#: Bytes that are looked at.
HEAD_BYTES = 512

_PAGE_BEGINNINGS = (b"<!doctype", b"<html", b"<?xml", b"<error", b"<head", b"<body")
_PAGE_TYPES = ("text/html", "text/xml", "application/xml", "application/xhtml+xml", "application/json")


@dataclass(frozen=True)
class ContentCheck:
    """What a file must begin with.

    Attributes
    ----------
    description
        The kind of file, in words, as in "not DESCRIPTION".
    beginnings
        First bytes that are accepted; empty accepts anything but an error page.
    """

    description: str = "the file asked for"
    beginnings: tuple[bytes, ...] = ()

    def require(self, head: bytes, *, where: str) -> None:
        """Check the first bytes of a file.

        Parameters
        ----------
        head
            The first bytes, at most ``HEAD_BYTES`` of them are used.
        where
            URL or path for the message.

        Raises
        ------
        FetchError
            If they are those of an HTML or XML page, or none of ``beginnings``.
        """
        head = head[:HEAD_BYTES]
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE_BEGINNINGS):
            raise FetchError(f"{where}: an HTML or XML page (often an error page), not {self.description}")
        if self.beginnings and not head.startswith(self.beginnings):
            shown = f"begins with {head[:8]!r}" if head else "is empty"
            raise FetchError(f"{where}: not {self.description} ({shown})")


def require_file_type(content_type: str | None, *, url: str) -> None:
    """Refuse an answer whose ``Content-Type`` is that of a page rather than of a file.

    Raises
    ------
    FetchError
        For HTML, XML and JSON types.
    """
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind in _PAGE_TYPES:
        raise FetchError(
            f"{url}: the server sent a page ({kind}) instead of the file\n"
            "check the address, a proxy, or a log-in page of the network"
        )
