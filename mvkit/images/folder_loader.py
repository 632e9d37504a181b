"""Batches straight from image files: the views of a beton's loader, slower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mvkit.errors import DataError
from mvkit.images.batch import RawBatch
from mvkit.images.crops import crop_boxes
from mvkit.images.pil_crops import Box, crop_image
from mvkit.images.prefetch import BatchStream
from mvkit.images.requests import CropRequest, check_plan, requests_of
from mvkit.images.settings import Crop


@dataclass(frozen=True)
class ImageFiles:
    """Image files in the order that gives them their index.

    Attributes
    ----------
    paths
        One file for every image.
    labels
        int64 (n_images,), positions in ``classes``; None without classes.
    classes
        Names of the classes.
    depth_paths
        One depth image for every image, or None.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] | None = None
    depth_paths: tuple[Path, ...] | None = None


class FolderSource:
    """Images in files, decoded with PIL by threads (PIL releases the interpreter's lock)."""

    kind = "folder"

    def __init__(self, files: ImageFiles, *, digest: str, description: str) -> None:
        self.files, self.digest, self.description = files, digest, description
        self.n_images = len(files.paths)
        self.classes = files.classes
        self.has_depth = files.depth_paths is not None

    def batches(
        self,
        plan: Sequence[NDArray[np.int64]],
        crops: Sequence[tuple[Crop, int]],
        *,
        seed: int,
        epoch: int,
        workers: int,
    ) -> BatchStream:
        """Return the batches of ``plan``; see :class:`mvkit.images.loading.ImageSource`."""
        plan = check_plan(plan, self.n_images)
        requests = requests_of(crops, seed=seed, epoch=epoch)
        return BatchStream(lambda index: _Filling(self.files, index, requests), plan, workers=workers)


class _Filling:
    """One batch under construction."""

    def __init__(self, files: ImageFiles, index: NDArray[np.int64], requests: Sequence[CropRequest]) -> None:
        self._files, self._index, self._requests = files, index, requests
        self._crops = [np.empty((len(index), one.side_px, one.side_px, 3), np.uint8) for one in requests]
        side_px = requests[0].side_px
        has_depth = files.depth_paths is not None
        self._depth = np.empty((len(index), 1, side_px, side_px), np.float32) if has_depth else None

    def fill(self, first: int, last: int) -> None:
        """Read images ``first`` to ``last`` of the batch; each file is decoded once for all crops."""
        for row in range(first, last):
            number = int(self._index[row])
            image = read_rgb(self._files.paths[number])
            boxes = [_box(one, number, image) for one in self._requests]
            for out, one, box in zip(self._crops, self._requests, boxes, strict=True):
                out[row] = np.asarray(crop_image(image, one.crop, box, one.side_px))
            if self._depth is not None and self._files.depth_paths is not None:
                path = self._files.depth_paths[number]
                depth = read_depth(path)
                if depth.size != image.size:
                    raise DataError(
                        f"{path}: {depth.width} x {depth.height} px, but its image has "
                        f"{image.width} x {image.height} px"
                    )
                one = self._requests[0]
                self._depth[row, 0] = np.asarray(crop_image(depth, one.crop, boxes[0], one.side_px))

    def finished(self) -> RawBatch:
        """Return the batch."""
        labels = self._files.labels
        return RawBatch(
            crops=tuple(torch.from_numpy(out) for out in self._crops),
            index=torch.from_numpy(self._index.copy()),
            label=None if labels is None else torch.from_numpy(labels[self._index]),
            depth=None if self._depth is None else torch.from_numpy(self._depth),
        )


def read_rgb(path: Path) -> Image.Image:
    """Decode an image file to RGB; DataError naming it if that fails."""
    return _read(path, "RGB")


def read_depth(path: Path) -> Image.Image:
    """Decode a depth image to numbers as stored (mode "F"); DataError naming it if that fails."""
    return _read(path, "F")


def _read(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}\nrestore or remove the file") from error


def _box(request: CropRequest, number: int, image: Image.Image) -> Box:
    sizes = np.array([[image.height], [image.width]], np.int64)
    boxes = crop_boxes(
        request.crop, request.seed, request.epoch, np.array([number]), request.view, sizes[0], sizes[1]
    )
    top, left, height, width = (int(value) for value in boxes[0])
    return top, left, height, width
