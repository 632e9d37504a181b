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
from mvkit.neural.pickle_arrays import array_ref, load
from mvkit.neural.pickle_reader import PickleFile, name_file_in_errors, read_pickle

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
    source, content = _open_batch(path)
    if "data" not in content or "labels" not in content:
        raise DataError(f"{path}: not a batch of CIFAR-10 (no 'data' or no 'labels')")
    with name_file_in_errors(path):
        pixels, labels = array_ref(content["data"], "'data'"), content["labels"]
        if pixels.dtype != np.uint8 or len(pixels.shape) != 2:
            raise DataError("its 'data' is no array of bytes with a row per image")
        data = load(pixels, source, "'data'")
    if data.shape[1] != 3 * SIDE_PX**2:
        raise DataError(f"{path}: images of {data.shape[1]} bytes, not 3 x {SIDE_PX} x {SIDE_PX}")
    if not (isinstance(labels, list) and len(labels) == len(data)):
        raise DataError(f"{path}: {len(data)} images, but not as many labels")
    if not all(isinstance(label, int) and 0 <= label < n_classes for label in labels):
        raise DataError(f"{path}: labels that are not numbers from 0 to {n_classes - 1}")
    # One plane after another in the file, channels last here.
    images = data.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels, np.int64)


def _open_batch(path: Path) -> tuple[PickleFile, dict[object, object]]:
    source = PickleFile(path)
    content = read_pickle(source)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a batch of CIFAR-10 (holds a {type(content).__name__}, not a dict)")
    return source, content


def _class_names(folder: Path) -> tuple[str, ...]:
    path = folder / _NAMES
    if not path.is_file():
        return CLASSES
    names = _open_batch(path)[1].get("label_names")
    if not isinstance(names, list) or len(names) != len(CLASSES):
        raise DataError(f"{path}: its 'label_names' are not {len(CLASSES)} names of classes")
    # Python 2 wrote text as bytes.
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)
