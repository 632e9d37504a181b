"""Opening the images of a split, however they are stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, MissingPackageError
from mvkit.files import check_link
from mvkit.images.ffcv_loader import BetonSource
from mvkit.images.folder_loader import FolderSource
from mvkit.images.prefetch import BatchStream
from mvkit.images.settings import Crop
from mvkit.images.sources import cifar10, folder, paired_depth
from mvkit.images.sources.base import SplitSource

logger = logging.getLogger(__name__)

Split = Literal["train", "val"]


class ImageSource(Protocol):
    """Numbered images that can be had as batches of crops.

    Attributes
    ----------
    n_images
        Images are numbered from 0.
    classes
        Names of the classes; None where images have no labels.
    has_depth
        Whether each image has a depth.
    kind
        "beton" or "folder".
    digest
        Changes with the images.
    description
        One line for people.
    """

    kind: Literal["beton", "folder"]
    n_images: int
    classes: tuple[str, ...] | None
    has_depth: bool
    digest: str
    description: str

    def batches(
        self,
        plan: Sequence[NDArray[np.int64]],
        crops: Sequence[tuple[Crop, int]],
        *,
        seed: int,
        epoch: int,
        workers: int,
    ) -> BatchStream:
        """Return an iterator (and context manager) of exactly the batches of ``plan``, in its order.

        Parameters
        ----------
        plan
            For every batch the images in it, int64 (n,). An unfinished epoch is resumed with the rest of its
            plan.
        crops
            (crop, side in px) for every view. Crop v of image i is the box ``crop_boxes(crop, seed, epoch,
            i, v, height, width)`` of the stored image, resized to uint8 (side, side, 3). Each image is read
            once, whatever the number of crops.
        seed, epoch
            Keys of the draws.
        workers
            Threads that read ahead, at most one per core; 0: none. Batches do not depend on it.

        Returns
        -------
        BatchStream
            Yields :class:`mvkit.images.batch.RawBatch`, which belong to the caller. ``seconds_waited``
            tells how long the caller has waited. Leave it by ``with`` or ``close()``: its threads end then.

        Raises
        ------
        UsageError
            If the plan names an image that is not there, or no crop is asked for.
        DataError
            From the iterator: an image that cannot be read or is too small, or no batch in ten minutes.
        """
        ...


def open_images(place: Path, split: Split) -> ImageSource:
    """Open the images of a split.

    ``place/SPLIT.beton`` if it is there, else image files in any layout that ``mvkit prep`` reads: class
    folders, images without classes, CIFAR-10, images paired with depth. Both give the same views; files are
    slower. A beton without FFCV to read it is passed over where there are files as well.

    Raises
    ------
    DataError
        If there are no images for this split, some are named but not there, or the beton is not whole.
    MissingPackageError
        If there is only a beton and FFCV is not installed.
    """
    beton = place / f"{split}.beton"
    check_link(beton)
    if not beton.exists():
        return _open_files(place, split)
    try:
        return BetonSource(beton)
    except MissingPackageError as missing:
        try:
            files = _open_files(place, split)
        except DataError:
            raise missing from None
        logger.warning("%s: FFCV is not installed; reading image files instead, which is slower", beton)
        return files


def _open_files(place: Path, split: Split) -> FolderSource:
    entries = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
    only_betons = any(name.endswith(".beton") for name in entries) and split not in entries
    if not entries or only_betons:
        raise _none(place, split)
    for one in _layout(place):
        if one.split == split:
            return FolderSource(one, place)
    raise _none(place, split)


def _layout(place: Path) -> tuple[SplitSource, ...]:
    if any((place / f"{split}_depth").is_dir() for split in ("train", "val")):
        return paired_depth.open_splits(place)
    if any(place.glob("data_batch_*")) or (place / "cifar-10-batches-py").is_dir():
        return cifar10.open_splits(place)
    return folder.open_splits(place)


def _none(place: Path, split: str) -> DataError:
    return DataError(
        f"{place}: no images for '{split}' ({split}.beton or a folder {split})\n"
        f"make them with `mvkit prep {place.name} --images DIR --out {place}`, or give `--images DIR`"
    )
