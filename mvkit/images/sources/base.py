"""What every source of images gives: splits, and in each of them items in a fixed order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mvkit.files import ListedFile, name_text

#: Suffixes of files that are taken for images; others are passed over.
SUFFIXES: Final = frozenset(
    {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)
TRAIN, VAL = "train", "val"
SPLITS: Final = (TRAIN, VAL)


@dataclass(frozen=True)
class Item:
    """One image, not read yet; small enough to be sent to another process.

    Attributes
    ----------
    name
        What to call it in messages and records: the path as seen from the source's folder, as text
        (:func:`mvkit.files.name_text`).
    label
        Position of its class; -1 without labels.
    path
        File to read, or None where ``pixels`` are given.
    pixels
        uint8 (height, width, 3), for sources that keep many images in a file.
    depth_path
        File of the depth map, for paired sources.
    problem
        Why there is nothing to read; empty where there is.
    """

    name: str
    label: int
    path: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    depth_path: Path | None = None
    problem: str = ""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Attributes
    ----------
    name
        Path seen from the source's folder, as the system has it.
    n_bytes
        Size.
    label
        Class of its images.
    problem
        Why its images cannot be read, as far as that is known without opening it; empty otherwise.
    """

    name: str
    n_bytes: int
    label: int = -1
    problem: str = ""


@dataclass(frozen=True)
class SplitSource:
    """One split of a source.

    Attributes
    ----------
    kind
        Name of the layout.
    split
        ``train`` or ``val``.
    classes
        Names in the order of the labels, as text, or None without labels.
    has_depth
        Whether every image has a depth map.
    n_images
        Number of items.
    files
        All files that are read, in order.
    open_items
        Called without arguments, iterates over all items in order.
    """

    kind: str
    split: str
    classes: tuple[str, ...] | None
    has_depth: bool
    n_images: int
    files: tuple[SourceFile, ...]
    open_items: Callable[[], Iterator[Item]]

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.n_bytes for file in self.files)

    @property
    def absent(self) -> tuple[tuple[str, str], ...]:
        """Images that are named but not there: name, as text, and reason."""
        return tuple((name_text(file.name), file.problem) for file in self.files if file.problem)

    def listing_digest(self) -> str:
        """Return a sha256 over the names and sizes of all files: changes when a file comes, goes or grows."""
        summary = hashlib.sha256(f"{self.kind} {self.split}\n".encode())
        for file in self.files:
            # Names by their bytes, whatever the system's encoding.
            summary.update(f"{file.n_bytes} {file.label} ".encode() + os.fsencode(file.name) + b"\n")
        return summary.hexdigest()


def described(root: Path, files: Iterable[ListedFile], label: int = -1) -> Iterator[SourceFile]:
    """Describe files as seen from ``root``."""
    for file in files:
        yield SourceFile(file.path.relative_to(root).as_posix(), file.n_bytes, label, file.problem)
