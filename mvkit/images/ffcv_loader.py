"""Batches from a beton: decoded by FFCV's library, cropped and resized in one compiled pass."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.images import beton
from mvkit.images.beton_check import check_complete
from mvkit.images.beton_sidecar import Sidecar
from mvkit.images.crops import crop_boxes
from mvkit.images.decoding import read_rgb
from mvkit.images.ffcv_file import BetonContent, read_content
from mvkit.images.filling import BatchFilling, PlannedSource
from mvkit.images.geometry import crop_axes
from mvkit.images.requests import CropRequest
from mvkit.images.resampling import crop_images, crop_planes, decode_jpegs

logger = logging.getLogger(__name__)

#: JPEGs decoded before they are cropped: few, so that their pixels are still in the processor's cache.
_DECODED_AT_ONCE = 4


class BetonSource(PlannedSource):
    """Images of a beton.

    Raises
    ------
    MissingPackageError
        If FFCV cannot be loaded.
    DataError
        If the file is not whole or not the one that its sidecar describes.
    """

    def __init__(self, path: Path) -> None:
        self.kind: Literal["beton", "folder"] = "beton"
        sidecar = check_complete(path)
        self._content = read_content(path)
        self.n_images = sidecar.n_images
        self.classes = sidecar.classes
        self.has_depth = sidecar.has_depth
        self.digest = sidecar.sha256
        self.description = _describe(path, sidecar)

    def _filling(self, index: NDArray[np.int64], requests: Sequence[CropRequest]) -> BatchFilling:
        return _Filling(self._content, index, requests)


class _Filling(BatchFilling):
    """One batch under construction."""

    def __init__(
        self, content: BetonContent, index: NDArray[np.int64], requests: Sequence[CropRequest]
    ) -> None:
        super().__init__(index, requests, labels=content.labels, has_depth=content.depths is not None)
        self._content = content

    def fill(self, first: int, last: int) -> None:
        """Read images ``first`` to ``last`` of the batch; each is decoded once for all crops."""
        rows = np.arange(first, last)
        index = self._index[first:last]
        places = self._content.places[index]
        axes = [self._axes(one, index, places) for one in self._requests]
        compressed = self._content.is_jpeg[index]
        raw = np.flatnonzero(~compressed)
        if raw.size:
            for out, steps in zip(self._crops, axes, strict=True):
                crop_images(self._content.memory, places[raw], steps[raw], rows[raw], out)
        for some in _split(np.flatnonzero(compressed)):
            pixels, decoded = self._decoded(index[some], places[some])
            for out, steps in zip(self._crops, axes, strict=True):
                crop_images(pixels, decoded, steps[some], rows[some], out)
        if self._depth is not None and self._content.depths is not None:
            self._fill_depth(self._depth, self._content.depths, index, axes[0], rows)

    def _axes(
        self, request: CropRequest, index: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        heights, widths = places[:, 1], places[:, 2]
        boxes = crop_boxes(request.crop, request.seed, request.epoch, index, request.view, heights, widths)
        return crop_axes(request.crop, boxes, heights, widths)

    def _decoded(
        self, index: NDArray[np.int64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the pixels of JPEGs, and where each image lies in them."""
        n_pixels = places[:, 1] * places[:, 2] * 3
        decoded = places.copy()
        decoded[:, 0] = np.cumsum(n_pixels) - n_pixels
        pixels = np.empty(int(n_pixels.sum()), np.uint8)
        sizes, starts = self._content.sizes[index], np.ascontiguousarray(decoded[:, 0])
        done = 0
        while done < len(index):
            files = (places[done:], sizes[done:])
            done += decode_jpegs(self._content.memory, *files, pixels, starts[done:])
            if done < len(index):
                # The decoder also says no to what it only warns of (bytes too many, as in some files of
                # ImageNet). PIL decided in prep that an image can be read, so it decides here.
                first, n = starts[done], n_pixels[done]
                pixels[first : first + n] = self._decoded_by_pil(int(index[done])).reshape(-1)
                done += 1
        # Read-only like the mapped file, so that one compiled function serves both.
        pixels.setflags(write=False)
        return pixels, decoded

    def _decoded_by_pil(self, number: int) -> NDArray[np.uint8]:
        content = self._content
        begin, height, width = content.places[number]
        stored = content.memory[begin : begin + content.sizes[number]].tobytes()
        what = f"{content.path}: image {number}"
        pixels = np.asarray(read_rgb(io.BytesIO(stored), name=what))
        if pixels.shape != (height, width, 3):
            raise DataError(
                f"{what} is a JPEG of another size; check with `mvkit prep --verify {content.path}`"
            )
        logger.warning("%s: decoded with PIL, since libffcv found fault with it", what)
        return pixels

    def _fill_depth(
        self,
        out: NDArray[np.float32],
        depths: NDArray[np.int64],
        index: NDArray[np.int64],
        axes: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> None:
        for i, (start, size) in enumerate(depths[index]):
            depth = beton.unpack_depth(self._content.memory[start : start + size])
            place = np.array([[0, *depth.shape]])
            crop_planes(depth.reshape(-1), place, axes[i : i + 1], rows[i : i + 1], out)


def _describe(path: Path, sidecar: Sidecar) -> str:
    stored = sidecar.stored
    form = "raw" if stored.format == "raw" else f"JPEG, quality {stored.jpeg_quality}"
    side = "full size" if stored.short_side_px is None else f"short side {stored.short_side_px} px"
    return f"{path}: {sidecar.n_images} images ({form}, {side})"


def _split(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[first : first + _DECODED_AT_ONCE] for first in range(0, len(rows), _DECODED_AT_ONCE)]
