"""CIFAR-10 as its authors distribute it: pickled batches (Krizhevsky 2009, "python version")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import check_link, look_at
from mvkit.images.sources.base import TRAIN, VAL, Item, SourceFile, SplitSource, described
from mvkit.images.sources.inert_pickle import array_of, load_pickle, texts

KIND: Final = "cifar10"
SIDE_PX: Final = 32
_BATCHES = {TRAIN: tuple(f"data_batch_{number}" for number in range(1, 6)), VAL: ("test_batch",)}
_INNER = "cifar-10-batches-py"
_NAMES = "batches.meta"
#: The classes in the order of the labels, for copies without ``batches.meta``.
CLASSES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def open_splits(root: Path) -> tuple[SplitSource, ...]:
    """List the splits of CIFAR-10: ``data_batch_1`` to ``5`` and ``test_batch``.

    They may lie in ``root`` or in ``cifar-10-batches-py`` inside it.

    Raises
    ------
    DataError
        If a batch is missing or is not one.
    """
    folder = root / _INNER if (root / _INNER).is_dir() else root
    splits = []
    for split, names in _BATCHES.items():
        missing = [name for name in names if not (folder / name).is_file()]
        for name in missing:
            check_link(folder / name)
        if missing:
            raise DataError(f"{folder}: {', '.join(missing)} missing; unpack CIFAR-10's python version there")
        splits.append(_open_split(folder, split, names))
    return tuple(splits)


def _open_split(folder: Path, split: str, names: tuple[str, ...]) -> SplitSource:
    classes = _class_names(folder)
    files: list[SourceFile] = list(described(folder, [look_at(folder / name) for name in names]))
    n_images = sum(len(read_batch(folder / name, len(classes))[1]) for name in names)

    def items() -> Iterator[Item]:
        for name in names:
            images, labels = read_batch(folder / name, len(classes))
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Item(f"{name}[{row}]", int(label), pixels=image)

    return SplitSource(
        kind=KIND,
        split=split,
        classes=classes,
        has_depth=False,
        n_images=n_images,
        files=tuple(files),
        open_items=items,
    )


def read_batch(path: Path, n_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one batch.

    Returns
    -------
    images, labels
        uint8 (n, 32, 32, 3) and int64 (n,).

    Raises
    ------
    DataError
        If the file is damaged, or images and labels do not fit each other or the classes.
    """
    content = load_pickle(path)
    if "data" not in content or "labels" not in content:
        raise DataError(f"{path}: not a batch of CIFAR-10 (no 'data' or no 'labels')")
    data, labels = array_of(path, content["data"]), content["labels"]
    if data.shape[1] != 3 * SIDE_PX**2:
        raise DataError(f"{path}: images of {data.shape[1]} bytes, not 3 x {SIDE_PX} x {SIDE_PX}")
    if not (isinstance(labels, list) and len(labels) == len(data)):
        raise DataError(f"{path}: {len(data)} images, but not as many labels")
    if not all(isinstance(label, int) and 0 <= label < n_classes for label in labels):
        raise DataError(f"{path}: labels that are not numbers from 0 to {n_classes - 1}")
    # One plane after another in the file, channels last here.
    images = data.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels, np.int64)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not (folder / _NAMES).is_file():
        return CLASSES
    names = texts(load_pickle(folder / _NAMES).get("label_names"))
    if len(names) != len(CLASSES):
        raise DataError(f"{folder / _NAMES}: {len(names)} names of classes, not {len(CLASSES)}")
    return names
