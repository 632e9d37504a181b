"""Pairs of images and depth maps: ``train/data/*.png`` with ``train_depth/data/*.png`` (PBRNet's layout)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mvkit.errors import DataError
from mvkit.images.sources.base import SPLITS, Item, SourceFile, SplitSource, described, image_files

KIND: Final = "paired_depth"
_FOLDER = "data"


def open_splits(root: Path) -> tuple[SplitSource, ...]:
    """List the pairs of a folder; an image and its depth map have the same file name.

    A missing depth map is found when the pair is read, and reported as an unreadable image.

    Raises
    ------
    DataError
        If there is no split with images and depth maps.
    """
    splits = tuple(_open_split(root, name) for name in SPLITS if (root / name / _FOLDER).is_dir())
    if not splits:
        raise DataError(
            f"{root}: no pairs; expected images in train/data/ and depth maps in train_depth/data/"
        )
    return splits


def _open_split(root: Path, split: str) -> SplitSource:
    images = root / split / _FOLDER
    depths = root / f"{split}_depth" / _FOLDER
    if not depths.is_dir():
        raise DataError(
            f"{depths}: no such folder; every image of {images} needs a depth map of its name there"
        )
    paths = image_files(images, deep=False)
    if not paths:
        raise DataError(f"{images}: no images in this folder")
    files = tuple(described(root, paths))
    there = tuple(described(root, (depths / path.name for path in paths if (depths / path.name).exists())))

    def items() -> Iterator[Item]:
        for file in files:
            path = root / file.name
            yield Item(file.name, -1, path=path, depth_path=depths / path.name)

    every: tuple[SourceFile, ...] = files + there
    return SplitSource(
        kind=KIND,
        split=split,
        classes=None,
        has_depth=True,
        n_images=len(files),
        files=every,
        open_items=items,
    )
