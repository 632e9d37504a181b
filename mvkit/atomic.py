"""Files that appear whole or not at all.

A file is written beside its final place under a name that only this process
uses, flushed to disk, and renamed. A crash leaves a ``.tmp-*`` file behind,
never a half-written one under the final name.
"""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvkit.errors import UsageError, printable


def refuse_existing(target: Path, *, overwrite: bool, example: str) -> None:
    """Refuse an output that exists already, or is a folder.

    Parameters
    ----------
    target
        The file to be written.
    overwrite
        Allow an existing file.
    example
        A file name for the message about a folder.

    Raises
    ------
    UsageError
        With the way out.
    """
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; give a file name, such as {target / example}")
    if target.exists() and not overwrite:
        raise UsageError(f"{target}: exists already; choose another name, or overwrite it (--force)")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``target`` when the block succeeds.

    Parameters
    ----------
    target
        Final path. Its directory is created. An existing file is replaced.

    Yields
    ------
    Path
        A path in the same directory, with the same suffix, not yet existing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.stem}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        yield temporary
        move_durably(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def move_durably(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` in the same directory so that a power cut cannot lose or mix them."""
    _flush(source)
    source.replace(target)
    _flush(target.parent)


def write_text(target: Path, text: str) -> None:
    r"""Write UTF-8 text to ``target`` atomically; bytes of names that are none are written ``\xNN``."""
    with replacing(target) as temporary:
        temporary.write_text(printable(text), encoding="utf-8")


def remove_leftovers(target: Path) -> None:
    """Remove what killed processes left of ``target``; only the holder of its lock may do so."""
    for leftover in target.parent.glob(f"{glob.escape(target.stem)}.tmp-*{glob.escape(target.suffix)}"):
        leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
