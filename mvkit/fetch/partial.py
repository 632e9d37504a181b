"""A download on its way: the bytes so far (``.part``) and what they are part of (``.part.json``).

The bytes may only be continued while the server still has the same file, so
the note beside them holds the strong ETag it had. The order of writing keeps
the pair truthful however the process dies: the bytes are emptied before the
note changes, and the note is written before new bytes follow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mvkit.atomic import move_durably, write_text
from mvkit.fetch.content import HEAD_BYTES


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
        Length in bytes, or None if the server does not tell.
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
    """The ``.part`` file of one target and the note beside it."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note_path = target.with_name(target.name + ".part.json")

    def version(self) -> RemoteVersion | None:
        """Return what the note says, or None if there is no readable note."""
        try:
            return RemoteVersion(**json.loads(self.note_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            # A note that cannot be read identifies nothing; the download starts again.
            return None

    def n_bytes(self) -> int:
        """Return how many bytes have been received."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def resumable_bytes(self, url: str) -> int:
        """Return how many of the bytes can be kept for a download from ``url``."""
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
        known = version is not None and version.url == url and version.size is not None
        return known and version is not None and self.path.exists() and self.n_bytes() == version.size

    def begin(self, version: RemoteVersion) -> None:
        """Empty the file and note which version is going to be received."""
        with self.path.open("wb") as file:
            os.fsync(file.fileno())
        self.describe(version)

    def describe(self, version: RemoteVersion) -> None:
        """Replace the note, for instance once the size is known."""
        write_text(self.note_path, json.dumps(asdict(version)))

    def append(self, blocks: Iterable[bytes]) -> Iterator[int]:
        """Write blocks behind what is there; yield the length of the file after each.

        Nothing is kept back in the process, so that a killed one loses only the block on its way.
        """
        with self.path.open("ab", buffering=0) as file:
            length = file.tell()
            for block in blocks:
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) :]
                length += len(block)
                yield length

    def head(self) -> bytes:
        """Return the first bytes."""
        with self.path.open("rb") as file:
            return file.read(HEAD_BYTES)

    def discard(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)

    def move_to(self, target: Path) -> None:
        """Give the bytes their final name; the note stays until ``forget_note``."""
        move_durably(self.path, target)

    def forget_note(self) -> None:
        """Remove the note of a download that is finished and recorded."""
        self.note_path.unlink(missing_ok=True)
