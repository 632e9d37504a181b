"""Pairs of images and depth maps: ``train/data/*.png`` with ``train_depth/data/*.png`` (PBRNet's layout)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from mvkit.errors import DataError
from mvkit.files import ListedFile, check_link, list_files, look_at, name_text
from mvkit.images.sources.base import SPLITS, SUFFIXES, Item, SourceFile, SplitSource, described

KIND: Final = "paired_depth"
_FOLDER = "data"


def open_splits(root: Path) -> tuple[SplitSource, ...]:
    """List the pairs of a folder; an image and its depth map have the same file name.

    An image whose depth map is missing is listed as one that cannot be read.

    Raises
    ------
    DataError
        If there is no split with images and depth maps.
    """
    for name in SPLITS:
        check_link(root / name)
        check_link(root / name / _FOLDER)
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
        check_link(depths)
        raise DataError(
            f"{depths}: no such folder; every image of {images} needs a depth map of its name there"
        )
    listed = list_files(images, SUFFIXES, levels=0)
    if not listed:
        raise DataError(f"{images}: no images in this folder")
    maps = [look_at(depths / file.path.name) for file in listed]
    files = tuple(described(root, (_paired(file, depth) for file, depth in zip(listed, maps, strict=True))))
    there = tuple(described(root, (depth for depth in maps if not depth.problem)))

    def items() -> Iterator[Item]:
        for file in files:
            path = root / file.name
            depth_path = depths / path.name
            yield Item(name_text(file.name), -1, path=path, depth_path=depth_path, problem=file.problem)

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


def _paired(image: ListedFile, depth: ListedFile) -> ListedFile:
    """Return an image, with what is wrong with its depth map if nothing is wrong with itself."""
    if image.problem or not depth.problem:
        return image
    is_there = depth.path.is_symlink() or depth.path.exists()
    reason = f"is {depth.problem}" if is_there else "is missing"
    return replace(image, problem=f"its depth map {name_text(depth.path)} {reason}")
