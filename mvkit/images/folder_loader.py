"""Batches straight from image files: the views of a beton's loader, slower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvkit.errors import DataError, printable
from mvkit.images.crops import crop_boxes
from mvkit.images.decoding import read_depth, read_rgb
from mvkit.images.filling import BatchFilling, PlannedSource
from mvkit.images.pil_crops import Box, crop_image
from mvkit.images.requests import CropRequest
from mvkit.images.sources.base import SplitSource

#: Images that an error names.
_MOST_LISTED: Final = 5


@dataclass(frozen=True)
class ImageFiles:
    """Images in the order that gives them their index.

    Attributes
    ----------
    names
        One for every image, for messages.
    images
        Path of a file, or pixels, uint8 (height, width, 3).
    depths
        Paths of the depth images, or None.
    labels
        int64 (n_images,), positions of the classes; None without classes.
    """

    names: tuple[str, ...]
    images: tuple[str | NDArray[np.uint8], ...]
    depths: tuple[str, ...] | None
    labels: NDArray[np.int64] | None


class FolderSource(PlannedSource):
    """Images in files, decoded with PIL by threads (PIL releases the interpreter's lock).

    Raises
    ------
    DataError
        If images are named but not there.
    """

    def __init__(self, source: SplitSource, place: Path) -> None:
        _refuse_absent(source, place)
        self.kind: Literal["beton", "folder"] = "folder"
        self._files = _listed(source)
        self.n_images = source.n_images
        self.classes = source.classes
        self.has_depth = source.has_depth
        self.digest = source.listing_digest()
        self.description = (
            f"{printable(str(place))}: {source.n_images} {source.split} images (files, {source.kind})"
        )

    def _filling(self, index: NDArray[np.int64], requests: Sequence[CropRequest]) -> BatchFilling:
        return _Filling(self._files, index, requests)


class _Filling(BatchFilling):
    """One batch under construction."""

    def __init__(self, files: ImageFiles, index: NDArray[np.int64], requests: Sequence[CropRequest]) -> None:
        super().__init__(index, requests, labels=files.labels, has_depth=files.depths is not None)
        self._files = files

    def fill(self, first: int, last: int) -> None:
        """Read images ``first`` to ``last`` of the batch; each is decoded once for all crops."""
        for row in range(first, last):
            number = int(self._index[row])
            image = _image(self._files, number)
            boxes = [_box(one, number, image) for one in self._requests]
            for out, one, box in zip(self._crops, self._requests, boxes, strict=True):
                out[row] = np.asarray(crop_image(image, one.crop, box, one.side_px))
            if self._depth is not None and self._files.depths is not None:
                depth = read_depth(self._files.depths[number])
                _check_pair(self._files.names[number], image, depth)
                one = self._requests[0]
                cropped = crop_image(depth, one.crop, boxes[0], one.side_px, Image.Resampling.NEAREST)
                self._depth[row, 0] = np.asarray(cropped)


def _refuse_absent(source: SplitSource, place: Path) -> None:
    absent = source.absent
    if not absent:
        return
    shown = "".join(f"\n  {name}: {reason}" for name, reason in absent[:_MOST_LISTED])
    more = f"\n  ... and {len(absent) - _MOST_LISTED} more" if len(absent) > _MOST_LISTED else ""
    raise DataError(
        f"{place}: {len(absent)} of {source.n_images} images of {source.split} are named but not there; "
        f"restore or remove them, or prepare the others with mvkit prep --on-error skip:{shown}{more}"
    )


def _listed(source: SplitSource) -> ImageFiles:
    """Return a source's items as columns: they are picked by number, a million of them."""
    names, images, depths, labels = [], [], [], []
    for item in source.open_items():
        names.append(item.name)
        images.append(item.pixels if item.pixels is not None else str(item.path))
        labels.append(item.label)
        if item.depth_path is not None:
            depths.append(str(item.depth_path))
    return ImageFiles(
        names=tuple(names),
        images=tuple(images),
        depths=tuple(depths) if source.has_depth else None,
        labels=None if source.classes is None else np.array(labels, np.int64),
    )


def _box(request: CropRequest, number: int, image: Image.Image) -> Box:
    sizes = np.array([[image.height], [image.width]], np.int64)
    boxes = crop_boxes(
        request.crop, request.seed, request.epoch, np.array([number]), request.view, sizes[0], sizes[1]
    )
    top, left, height, width = (int(value) for value in boxes[0])
    return top, left, height, width


def _image(files: ImageFiles, number: int) -> Image.Image:
    stored = files.images[number]
    return read_rgb(stored) if isinstance(stored, str) else Image.fromarray(stored)


def _check_pair(name: str, image: Image.Image, depth: Image.Image) -> None:
    if depth.size != image.size:
        sizes = [f"{one.width} x {one.height} px" for one in (image, depth)]
        raise DataError(f"{name}: the image has {sizes[0]}, its depth {sizes[1]}; both must be equal")
