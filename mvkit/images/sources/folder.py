"""Image folders: ``train/<class>/*`` and ``val/<class>/*``, or images without labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mvkit.errors import DataError
from mvkit.files import FolderId, check_link, list_files, list_folders, name_text
from mvkit.images.sources.base import (
    SPLITS,
    SUFFIXES,
    TRAIN,
    Item,
    SourceFile,
    SplitSource,
    described,
)

KIND: Final = "folder"


def open_splits(root: Path) -> tuple[SplitSource, ...]:
    """List the images of a folder.

    Classes are the names of the folders in ``train``, sorted; ``val`` may lack
    some of them but has no others. A split whose images lie directly in it has
    no labels. A folder with neither ``train`` nor ``val`` is one split,
    ``train``. Folders inside a class belong to it, whatever links lead to
    them, and each counts once; links that lead up to a folder around them are
    not followed. Links to nothing are listed as images that cannot be read.

    Raises
    ------
    DataError
        If there are no images, if labelled and unlabelled ones are mixed, a class is empty, a folder is in
        two classes, a split is a link to nothing, or ``val`` has classes that ``train`` has not.
    """
    for name in SPLITS:
        check_link(root / name)
    present = [name for name in SPLITS if (root / name).is_dir()]
    if not present:
        return (_open_split(root, root, TRAIN, None),)
    splits: list[SplitSource] = []
    for name in present:
        known = splits[0].classes if splits else None
        splits.append(_open_split(root, root / name, name, known))
    if len(splits) > 1 and (splits[0].classes is None) != (splits[1].classes is None):
        raise DataError(
            f"{root}: one of train and val has class folders, the other has not; give both the same"
        )
    return tuple(splits)


def _open_split(root: Path, folder: Path, split: str, known: tuple[str, ...] | None) -> SplitSource:
    loose = list_files(folder, SUFFIXES, levels=0)
    class_folders, missing = list_folders(folder)
    if loose and class_folders:
        raise DataError(
            f"{folder}: has images of its own ({loose[0].path.name}) and folders ({class_folders[0].name}); "
            "keep either images without labels or one folder per class"
        )
    if loose:
        return _source(root, split, None, tuple(described(root, [*loose, *missing])))
    if not class_folders:
        if missing:
            check_link(missing[0].path)
        raise DataError(
            f"{folder}: no images and no class folders (looked for {', '.join(sorted(SUFFIXES))})"
        )
    names = tuple(name_text(entry.name) for entry in class_folders)
    classes = known if known is not None else names
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise DataError(f"{folder}: class '{unknown[0]}' ({len(unknown)} in all) is not in train")
    files: list[SourceFile] = list(described(root, missing))
    claimed: dict[FolderId, Path] = {}
    for entry, name in zip(class_folders, names, strict=True):
        listed = list_files(entry, SUFFIXES, claimed=claimed)
        if not listed:
            raise DataError(f"{entry}: a class without images; remove the folder or fill it")
        files.extend(described(root, listed, classes.index(name)))
    return _source(root, split, classes, tuple(files))


def _source(
    root: Path, split: str, classes: tuple[str, ...] | None, files: tuple[SourceFile, ...]
) -> SplitSource:
    def items() -> Iterator[Item]:
        for file in files:
            yield Item(name_text(file.name), file.label, path=root / file.name, problem=file.problem)

    return SplitSource(
        kind=KIND,
        split=split,
        classes=classes,
        has_depth=False,
        n_images=len(files),
        files=files,
        open_items=items,
    )
