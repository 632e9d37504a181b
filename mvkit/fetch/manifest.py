"""Files to fetch, and the records of those fetched and converted: source, size and checksum of each.

One JSON file, ``manifest.json`` in mvkit's home, replaced as a whole under a lock::

    {"format": "mvkit-manifest", "version": 1,
     "files": {"checkpoints/NAME.pt": {"url": ..., "size": ..., "etag": ..., "sha256": ..., "date": ...,
                                       "mvkit_version": ..., "made_from": null, "keep": true}}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mvkit import __version__
from mvkit.errors import FetchError
from mvkit.files import file_lock, write_text

#: How many of a file's first bytes are checked.
HEAD_BYTES = 512

_FORMAT = "mvkit-manifest"
_VERSION = 1
_PAGE_BEGINNINGS = (b"<!doctype", b"<html", b"<?xml", b"<error", b"<head", b"<body")

State = Literal["there", "there, not recorded", "damaged", "missing"]


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

    def check(self, head: bytes, *, where: str) -> None:
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
    alternative
        The command that takes a copy downloaded elsewhere, for messages; "" if there is none.
    """

    name: str
    url: str
    target: Path
    content: ContentCheck
    approximate_size: int | None = None
    alternative: str = ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one file.

    Attributes
    ----------
    url
        Where it was fetched from, without credentials; None if it was not fetched.
    size
        Length in bytes.
    etag
        ETag the server gave, or None.
    sha256
        Digest in hexadecimal.
    date
        When it was fetched or made, UTC, ISO 8601.
    mvkit_version
        Version of mvkit that did it.
    made_from
        For a file made from another one: what that was; else None.
    keep
        False for an intermediate file that mvkit may remove once it has served.
    """

    url: str | None = None
    size: int
    etag: str | None = None
    sha256: str
    date: str = field(default_factory=_now)
    mvkit_version: str = __version__
    made_from: Mapping[str, object] | None = None
    keep: bool = True


class Manifest:
    """The records of one home directory. Every change reads, edits and replaces the file under a lock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "manifest.json"

    def key(self, path: Path) -> str:
        """Return the name under which ``path`` (inside the home) is recorded."""
        return path.relative_to(self.home).as_posix()

    def records(self) -> dict[str, Record]:
        """Return all records by key.

        Raises
        ------
        FetchError
            If the manifest is damaged or of a newer format.
        """
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["format"] != _FORMAT or document["version"] != _VERSION:
                raise FetchError(f"{self.path}: not a manifest this version of mvkit reads; update mvkit")
            return {key: Record(**fields) for key, fields in document["files"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FetchError(
                f"{self.path}: the manifest is damaged ({type(error).__name__})\n"
                "remove it: files in place stay, and are recorded again by the next fetch"
            ) from error

    def find(self, path: Path) -> Record | None:
        """Return the record of a file, or None."""
        return self.records().get(self.key(path))

    def state(self, path: Path) -> State:
        """Compare a file on disk with its record, by its size alone."""
        if not path.exists():
            return "missing"
        record = self.find(path)
        if record is None:
            return "there, not recorded"
        return "there" if path.stat().st_size == record.size else "damaged"

    def has(self, path: Path) -> bool:
        """Tell whether a file is there, recorded or not, and need not be fetched."""
        return self.state(path) in ("there", "there, not recorded")

    def record(self, path: Path, record: Record) -> None:
        """Add or replace the record of a file."""
        self._change(lambda files: files.update({self.key(path): record}))

    def keep(self, path: Path) -> None:
        """Record that an intermediate file is not to be removed."""

        def edit(files: dict[str, Record]) -> None:
            key = self.key(path)
            if key in files:
                files[key] = replace(files[key], keep=True)

        self._change(edit)

    def forget(self, path: Path) -> None:
        """Remove the record of a file, if there is one."""
        self._change(lambda files: files.pop(self.key(path), None))

    def _change(self, edit: Callable[[dict[str, Record]], object]) -> None:
        with file_lock(self.path):
            files = self.records()
            edit(files)
            document = {
                "format": _FORMAT,
                "version": _VERSION,
                "files": {key: asdict(files[key]) for key in sorted(files)},
            }
            write_text(self.path, json.dumps(document, indent=2) + "\n")
