"""What every source of images gives: splits, and in each of them items in a fixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
        What to call it in messages: the path as seen from the source's folder.
    label
        Position of its class; -1 without labels.
    path
        File to read, or None where ``pixels`` are given.
    pixels
        uint8 (height, width, 3), for sources that keep many images in a file.
    depth_path
        File of the depth map, for paired sources.
    """

    name: str
    label: int
    path: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    depth_path: Path | None = None


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: its name seen from the source's folder, size, and the class of its images."""

    name: str
    n_bytes: int
    label: int = -1


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
        Names in the order of the labels, or None without labels.
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

    def listing_digest(self) -> str:
        """Return a sha256 over the names and sizes of all files: changes when a file comes, goes or grows."""
        summary = hashlib.sha256(f"{self.kind} {self.split}\n".encode())
        for file in self.files:
            summary.update(f"{file.n_bytes} {file.label} {file.name}\n".encode("utf-8", "surrogateescape"))
        return summary.hexdigest()


def image_files(folder: Path, *, deep: bool) -> list[Path]:
    """Return the image files in a folder, sorted by path; hidden files and folders are passed over.

    Parameters
    ----------
    folder
        Where to look.
    deep
        Whether to look into folders inside it as well.
    """
    found: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if deep:
                found.extend(image_files(entry, deep=True))
        elif entry.suffix.lower() in SUFFIXES:
            found.append(entry)
    return found


def described(root: Path, paths: Iterable[Path], label: int = -1) -> Iterator[SourceFile]:
    """Describe files as seen from ``root``."""
    for path in paths:
        yield SourceFile(path.relative_to(root).as_posix(), path.stat().st_size, label)
