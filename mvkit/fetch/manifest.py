"""The record of fetched and converted files: where each came from and what it must be.

One JSON file, ``manifest.json`` in mvkit's home, replaced as a whole under a lock::

    {"format": "mvkit-manifest", "version": 1,
     "files": {"checkpoints/NAME.pt": {"url": ..., "size": ..., "etag": ..., "sha256": ..., "date": ...,
                                       "mvkit_version": ..., "made_from": null, "keep": true}}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mvkit import __version__
from mvkit.atomic import write_text
from mvkit.errors import FetchError
from mvkit.fetch.digests import digests
from mvkit.fetch.locks import holding

_FORMAT = "mvkit-manifest"
_VERSION = 1

Finding = Literal["ok", "missing", "wrong size", "wrong checksum", "not recorded"]


@dataclass(frozen=True)
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

    url: str | None
    size: int
    etag: str | None
    sha256: str
    date: str
    mvkit_version: str
    made_from: Mapping[str, object] | None = None
    keep: bool = True

    @classmethod
    def of_now(
        cls,
        *,
        size: int,
        sha256: str,
        url: str | None = None,
        etag: str | None = None,
        made_from: Mapping[str, object] | None = None,
        keep: bool = True,
    ) -> Record:
        """Return a record dated now."""
        return cls(
            url=url,
            size=size,
            etag=etag,
            sha256=sha256,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            mvkit_version=__version__,
            made_from=made_from,
            keep=keep,
        )


@dataclass(frozen=True)
class Verdict:
    """What checking one file against its record found."""

    key: str
    path: Path
    finding: Finding
    expected: Record | None
    size: int | None = None
    sha256: str | None = None

    @property
    def is_ok(self) -> bool:
        """Tell whether the file is what was recorded."""
        return self.finding == "ok"


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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(
                f"{self.path}: the manifest is damaged ({type(error).__name__})\n"
                "remove it: files in place stay, and are recorded again by the next fetch"
            ) from error

    def find(self, path: Path) -> Record | None:
        """Return the record of a file, or None."""
        return self.records().get(self.key(path))

    def record(self, path: Path, record: Record) -> None:
        """Add or replace the record of a file."""
        self._change(lambda files: files.update({self.key(path): record}))

    def mark_kept(self, path: Path) -> None:
        """Note that an intermediate file is wanted and is not to be removed."""

        def keep(files: dict[str, Record]) -> None:
            key = self.key(path)
            if key in files:
                files[key] = replace(files[key], keep=True)

        self._change(keep)

    def forget(self, path: Path) -> None:
        """Drop the record of a file, if there is one."""
        self._change(lambda files: files.pop(self.key(path), None))

    def verify(
        self, keys: list[str], *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Verdict]:
        """Compare size and SHA-256 of files with their records.

        Parameters
        ----------
        keys
            Which files; one without a record is "not recorded".
        progress
            Called with (bytes read, bytes in all).
        """
        records = self.records()
        total = sum(records[key].size for key in keys if key in records)
        verdicts, before = [], 0
        for key in keys:
            record = records.get(key)
            verdicts.append(self._verdict(key, record, _onwards(progress, before, total)))
            before += record.size if record is not None else 0
        return verdicts

    def _verdict(self, key: str, record: Record | None, progress: Callable[[int, int], None]) -> Verdict:
        path = self.home / key
        if record is None:
            return Verdict(key, path, "not recorded" if path.exists() else "missing", None)
        if not path.exists():
            return Verdict(key, path, "missing", record)
        size = path.stat().st_size
        if size != record.size:
            return Verdict(key, path, "wrong size", record, size=size)
        sha256 = digests(path, progress=progress).sha256
        finding: Finding = "ok" if sha256 == record.sha256 else "wrong checksum"
        return Verdict(key, path, finding, record, size=size, sha256=sha256)

    def _change(self, edit: Callable[[dict[str, Record]], object]) -> None:
        with holding(self.path):
            files = self.records()
            edit(files)
            document = {
                "format": _FORMAT,
                "version": _VERSION,
                "files": {key: asdict(files[key]) for key in sorted(files)},
            }
            write_text(self.path, json.dumps(document, indent=2) + "\n")


def _onwards(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    """Return a callback for one file of several that reports the count over all of them."""
    return lambda done, _: progress(before + done, total)
