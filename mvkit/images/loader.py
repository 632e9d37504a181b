"""Loaders: batches of crops from beton files and from folders of images."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mvkit.errors import DataError, MissingPackageError, UsageError, printable
from mvkit.files import check_link
from mvkit.images.beton import BetonContent, Sidecar, check_complete, read_content, unpack_depth
from mvkit.images.crops import Box, crop_axes, crop_boxes, crop_image, crop_images, crop_planes, decode_jpegs
from mvkit.images.settings import CentreCrop, Crop, RawBatch
from mvkit.images.sources import (
    SplitSource,
    no_images,
    open_cifar10,
    open_folder,
    open_pairs,
    read_depth,
    read_pixels,
    read_rgb,
)
from mvkit.machine import available_cores

LOGGER = logging.getLogger(__name__)

Split = Literal["train", "val"]

#: Images a thread fills at a time: small enough that leaving early does not have to wait.
PIECE = 32
#: Images and batches that are under way ahead of the consumer, at least.
AHEAD_IMAGES, AHEAD_BATCHES = 64, 2
#: A batch that has not come by then never will (a dead file server): better an error than silence.
STALLED_S = 600.0
#: JPEGs decoded before they are cropped: few, so that their pixels are still in the processor's cache.
_JPEGS_AT_ONCE = 4
#: Images that an error names.
_MOST_LISTED: Final = 5


def open_images(folder: Path, split: Split) -> ImageSource:
    """Open the images of a split.

    ``folder/SPLIT.beton`` if it exists, else image files in any layout that ``mvkit prep`` reads: class
    folders, images without classes, CIFAR-10, images paired with depth. Both give the same views; files are
    slower. A beton without FFCV to read it is passed over where there are files as well.

    Raises
    ------
    DataError
        If there are no images for this split, some are named but not there, or the beton is not whole.
    MissingPackageError
        If there is only a beton and FFCV is not installed.
    """
    beton = folder / f"{split}.beton"
    check_link(beton)
    if not beton.exists():
        return _open_files(folder, split)
    try:
        return BetonSource(beton)
    except MissingPackageError as missing:
        try:
            files = _open_files(folder, split)
        except DataError:
            raise missing from None
        LOGGER.warning("%s: FFCV is not installed; reading image files instead, which is slower", beton)
        return files


def _open_files(folder: Path, split: Split) -> FolderSource:
    entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    has_betons = any(name.endswith(".beton") for name in entries)
    if entries and (split in entries or not has_betons):
        if any((folder / f"{name}_depth").is_dir() for name in ("train", "val")):
            sources = open_pairs(folder)
        elif any(folder.glob("data_batch_*")) or (folder / "cifar-10-batches-py").is_dir():
            sources = open_cifar10(folder)
        else:
            sources = open_folder(folder)
        for source in sources:
            if source.split == split:
                return FolderSource(source, folder)
    raise no_images(folder, split)


@dataclass(frozen=True)
class CropRequest:
    """One crop of every image: which, how large, and the keys of its draws."""

    crop: Crop
    side_px: int
    seed: int
    epoch: int
    view: int

    def boxes(
        self, index: NDArray[np.int64], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the boxes of images ``index``; see :func:`mvkit.images.crops.crop_boxes`."""
        return crop_boxes(self.crop, self.seed, self.epoch, index, self.view, heights, widths)


class ImageSource(ABC):
    """Numbered images that can be had as batches of crops.

    Attributes
    ----------
    n_images
        Images are numbered from 0.
    classes
        Names of the classes; None where images have no labels.
    has_depth
        Whether each image has a depth.
    responses
        Of units to each image, float32 (n_images, n_units), NaN = missing; None without recordings.
    image_digests
        sha256 of each image; empty where images are too many to be told one by one.
    kind
        "beton", "folder" or "memory".
    digest
        Changes with the images.
    description
        One line for people.
    """

    kind: ClassVar[Literal["beton", "folder", "memory"]]
    responses: NDArray[np.float32] | None = None
    image_digests: tuple[str, ...] = ()
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
        pin_memory: bool = False,
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
        pin_memory
            Whether crops and depths lie in page-locked memory, from which a CUDA device can copy while the
            processor goes on; needs such a device.

        Returns
        -------
        BatchStream
            Yields :class:`mvkit.images.settings.RawBatch`, which belong to the caller. ``seconds_waited``
            tells how long the caller has waited. Leave it by ``with`` or ``close()``: its threads end then.

        Raises
        ------
        UsageError
            If the plan names an image that is not there, or no crop is asked for.
        DataError
            From the iterator: an image that cannot be read or is too small, or no batch in ten minutes.
        """
        if not crops:
            raise UsageError("no crops were asked for; needed: at least one (crop, side in px)")
        requests = [
            CropRequest(crop, side_px, seed, epoch, view) for view, (crop, side_px) in enumerate(crops)
        ]
        checked = _check_plan(plan, self.n_images)
        return BatchStream(
            lambda index: self._empty_batch(index, requests, pin_memory=pin_memory), checked, workers=workers
        )

    @abstractmethod
    def _empty_batch(
        self, index: NDArray[np.int64], requests: Sequence[CropRequest], *, pin_memory: bool
    ) -> UnfilledBatch:
        """Return an empty batch of these images."""


def _check_plan(plan: Sequence[NDArray[np.int64]], n_images: int) -> tuple[NDArray[np.int64], ...]:
    """Return the plan as contiguous int64 arrays; UsageError if it names an image that is not there."""
    checked = tuple(np.ascontiguousarray(index, np.int64) for index in plan)
    for number, index in enumerate(checked):
        if index.ndim != 1 or index.size == 0:
            raise UsageError(f"batch {number} of the plan has shape {index.shape}; needed: (n,), n > 0")
        if index.min() < 0 or index.max() >= n_images:
            raise UsageError(
                f"batch {number} of the plan asks for images {index.min()} to {index.max()}; "
                f"there are {n_images} (0 to {n_images - 1})"
            )
    return checked


# Batches filled ahead by threads


class Fillable(Protocol):
    """A batch to be filled; several threads may fill rows at once, each its own."""

    def fill(self, first: int, last: int) -> None:
        """Fill rows ``first`` to ``last`` (excluded)."""

    def batch(self) -> RawBatch:
        """Return the batch once all rows are filled."""


class BatchStream(Iterator[RawBatch]):
    """An iterator of batches that threads fill ahead; a context manager that ends them.

    Parameters
    ----------
    start
        Makes an empty batch for an index array.
    plan
        One index array, int64 (n,), for every batch.
    workers
        Threads; 0 fills in the consumer's own. Capped at the cores of this process.
    stalled_s
        Seconds after which a batch that does not come is an error.

    Attributes
    ----------
    seconds_waited
        How long the consumer has waited for batches so far: near 0 where computing is the bottleneck.

    Raises
    ------
    DataError
        From ``next``: whatever a thread raised, or that a batch did not come in time.
    """

    def __init__(
        self,
        start: Callable[[NDArray[np.int64]], Fillable],
        plan: Sequence[NDArray[np.int64]],
        *,
        workers: int,
        stalled_s: float = STALLED_S,
    ) -> None:
        self.seconds_waited = 0.0
        self._start, self._plan, self._stalled_s = start, plan, stalled_s
        self._workers = usable_workers(workers)
        self._next = 0
        self._stalled = False
        self._pending: deque[tuple[Fillable, list[Future[None]], int]] = deque()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __next__(self) -> RawBatch:
        began = time.perf_counter()
        try:
            batch = self._wait_for_batch() if self._workers else self._fill_batch()
        except BaseException:
            # An iterator that failed is finished; nothing must go on behind the error's back.
            self.close()
            raise
        self.seconds_waited += time.perf_counter() - began
        return batch

    def close(self) -> None:
        """Cancel what is under way and end the threads; can be called more than once."""
        self._next = len(self._plan)
        pool, self._pool = self._pool, None
        stuck = any(future.running() for _, futures, _ in self._pending for future in futures)
        self._pending.clear()
        if pool is not None:
            pool.shutdown(wait=not (stuck and self._stalled), cancel_futures=True)

    def _fill_batch(self) -> RawBatch:
        if self._next >= len(self._plan):
            raise StopIteration
        index = self._plan[self._next]
        self._next += 1
        filling = self._start(index)
        filling.fill(0, len(index))
        return filling.batch()

    def _wait_for_batch(self) -> RawBatch:
        self._submit()
        if not self._pending:
            raise StopIteration
        filling, futures, _ = self._pending[0]
        deadline = time.monotonic() + self._stalled_s
        for future in futures:
            try:
                future.result(timeout=max(0.0, deadline - time.monotonic()))
            except FutureTimeoutError:
                self._stalled = True
                raise DataError(
                    f"no batch within {self._stalled_s:g} s: reading images hangs\n"
                    "check the disk or network drive that holds them"
                ) from None
        self._pending.popleft()
        self._submit()
        return filling.batch()

    def _submit(self) -> None:
        """Keep enough batches under way."""
        while self._next < len(self._plan) and (
            len(self._pending) < AHEAD_BATCHES or sum(size for _, _, size in self._pending) < AHEAD_IMAGES
        ):
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="mvkit-images")
            index = self._plan[self._next]
            self._next += 1
            filling, size = self._start(index), len(index)
            step = max(1, min(PIECE, -(-size // self._workers)))
            pieces = [(first, min(first + step, size)) for first in range(0, size, step)]
            futures = [self._pool.submit(filling.fill, *piece) for piece in pieces]
            self._pending.append((filling, futures, size))


def usable_workers(workers: int) -> int:
    """Return ``workers``, at least 0 and at most the cores that this process may use."""
    return max(0, min(workers, available_cores()))


class UnfilledBatch(ABC):
    """Arrays of one batch, to be filled by :class:`BatchStream`.

    Parameters
    ----------
    index
        int64 (n_images,): the images.
    requests
        Crops of each.
    labels
        int64, of all images of the source; None without.
    has_depth
        Whether a depth map comes with each image, cropped as the first request says.
    pin_memory
        Whether the arrays are in page-locked memory.
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        requests: Sequence[CropRequest],
        *,
        labels: NDArray[np.int64] | None,
        has_depth: bool,
        pin_memory: bool,
    ) -> None:
        self._index, self._requests, self._labels = index, requests, labels
        shapes = [(len(index), one.side_px, one.side_px, 3) for one in requests]
        depth_shape = (len(index), 1, *shapes[0][1:3])
        # Tensors that own their memory: only then does torch keep it while a device copies from it.
        self._crop_tensors = tuple(
            torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory) for shape in shapes
        )
        self._depth_tensor = torch.empty(depth_shape, pin_memory=pin_memory) if has_depth else None
        self._crops: list[NDArray[np.uint8]] = [tensor.numpy() for tensor in self._crop_tensors]
        self._depth: NDArray[np.float32] | None = (
            None if self._depth_tensor is None else self._depth_tensor.numpy()
        )

    @abstractmethod
    def fill(self, first: int, last: int) -> None:
        """Read images ``first`` to ``last`` of the batch; each is decoded once for all crops."""

    def batch(self) -> RawBatch:
        """Return the batch once all rows are filled."""
        return RawBatch(
            crops=self._crop_tensors,
            index=torch.from_numpy(self._index.copy()),
            label=None if self._labels is None else torch.from_numpy(self._labels[self._index]),
            depth=self._depth_tensor,
        )


# Image files


class FolderSource(ImageSource):
    """Images in files, decoded by threads (decoders release the interpreter's lock).

    Random crops are resized as those of a beton, in one pass without rounding between the two resizes of the
    published pipeline: within one grey level of PIL's (0.12 on average over photographs) and six times as
    fast. Centre crops are PIL's, bit for bit.

    Raises
    ------
    DataError
        If images are named but not there.
    """

    kind = "folder"

    def __init__(self, source: SplitSource, folder: Path) -> None:
        _check_present(source, folder)
        self._files = _list_files(source)
        self.n_images = source.n_images
        self.classes = source.classes
        self.has_depth = source.has_depth
        self.digest = source.listing_digest()
        self.description = (
            f"{printable(str(folder))}: {source.n_images} {source.split} images (files, {source.kind})"
        )

    def _empty_batch(
        self, index: NDArray[np.int64], requests: Sequence[CropRequest], *, pin_memory: bool
    ) -> UnfilledBatch:
        return _FolderBatch(self._files, index, requests, pin_memory=pin_memory)


def _check_present(source: SplitSource, folder: Path) -> None:
    absent = source.absent
    if absent:
        shown = "".join(f"\n  {name}: {reason}" for name, reason in absent[:_MOST_LISTED])
        more = f"\n  ... and {len(absent) - _MOST_LISTED} more" if len(absent) > _MOST_LISTED else ""
        raise DataError(
            f"{folder}: {len(absent)} of {source.n_images} images of {source.split} are named but not there; "
            f"restore or remove them, or prepare the others with mvkit prep --on-error skip:{shown}{more}"
        )


@dataclass(frozen=True)
class _ImageFiles:
    """Images in the order that gives them their index: columns, for a million of them.

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


def _list_files(source: SplitSource) -> _ImageFiles:
    names, images, depths, labels = [], [], [], []
    for item in source.open_items():
        names.append(item.name)
        images.append(item.pixels if item.pixels is not None else str(item.path))
        labels.append(item.label)
        if item.depth_path is not None:
            depths.append(str(item.depth_path))
    return _ImageFiles(
        names=tuple(names),
        images=tuple(images),
        depths=tuple(depths) if source.has_depth else None,
        labels=None if source.classes is None else np.array(labels, np.int64),
    )


class _FolderBatch(UnfilledBatch):
    """One batch of image files."""

    def __init__(
        self,
        files: _ImageFiles,
        index: NDArray[np.int64],
        requests: Sequence[CropRequest],
        *,
        pin_memory: bool,
    ) -> None:
        has_depth = files.depths is not None
        super().__init__(index, requests, labels=files.labels, has_depth=has_depth, pin_memory=pin_memory)
        self._files = files

    def fill(self, first: int, last: int) -> None:
        """Read images ``first`` to ``last`` of the batch; each is decoded once for all crops."""
        for row in range(first, last):
            number = int(self._index[row])
            stored = self._files.images[number]
            pixels = read_pixels(stored) if isinstance(stored, str) else stored
            # Read-only like those of a mapped beton, so that one compiled function serves both.
            flat = pixels.reshape(-1)
            flat.setflags(write=False)
            location = np.array([[0, *pixels.shape[:2]]])
            heights, widths = location[:, 1], location[:, 2]
            boxes = [request.boxes(np.array([number]), heights, widths) for request in self._requests]
            for out, request, box in zip(self._crops, self._requests, boxes, strict=True):
                if isinstance(request.crop, CentreCrop):
                    # Of validation: PIL's, the bits of a model's input.
                    image = Image.fromarray(pixels)
                    out[row] = np.asarray(crop_image(image, request.crop, _box(box), request.side_px))
                else:
                    axes = crop_axes(request.crop, box, heights, widths)
                    crop_images(flat, location, axes, np.array([row]), out)
            if self._depth is not None and self._files.depths is not None:
                depth = read_depth(self._files.depths[number])
                if (depth.height, depth.width) != pixels.shape[:2]:
                    raise DataError(
                        f"{self._files.names[number]}: the image has {pixels.shape[1]} x {pixels.shape[0]} "
                        f"px, its depth {depth.width} x {depth.height} px; both must be equal"
                    )
                request = self._requests[0]
                nearest = Image.Resampling.NEAREST
                cropped = crop_image(depth, request.crop, _box(boxes[0]), request.side_px, nearest)
                self._depth[row, 0] = np.asarray(cropped)


def _box(boxes: NDArray[np.int64]) -> Box:
    top, left, height, width = boxes[0].tolist()
    return top, left, height, width


class MemorySource(ImageSource):
    """Grey images in memory, with responses of units to them.

    Parameters
    ----------
    images
        uint8 (n_images, height, width).
    responses
        float32 (n_images, n_units), NaN = missing.
    description
        One line for people.
    """

    kind = "memory"

    def __init__(
        self, images: NDArray[np.uint8], responses: NDArray[np.float32], *, description: str
    ) -> None:
        self.n_images = len(images)
        self.classes = None
        self.has_depth = False
        self.responses = responses
        self.description = description
        self.image_digests = tuple(map(image_digest, images))
        summary = hashlib.sha256("\n".join(self.image_digests).encode())
        summary.update(np.ascontiguousarray(responses).data)
        self.digest = summary.hexdigest()
        coloured = (np.broadcast_to(image[..., None], (*image.shape, 3)) for image in images)
        names = tuple(f"image {number}" for number in range(self.n_images))
        self._files = _ImageFiles(names, tuple(coloured), None, None)

    def _empty_batch(
        self, index: NDArray[np.int64], requests: Sequence[CropRequest], *, pin_memory: bool
    ) -> UnfilledBatch:
        return _FolderBatch(self._files, index, requests, pin_memory=pin_memory)


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return the sha256 (hex) of the size and pixels of a grey image."""
    return hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


# Beton files


class BetonSource(ImageSource):
    """Images of a beton.

    Raises
    ------
    MissingPackageError
        If FFCV cannot be loaded.
    DataError
        If the file is not whole or not the one that its sidecar describes.
    """

    kind = "beton"

    def __init__(self, path: Path) -> None:
        sidecar = check_complete(path)
        self._content = read_content(path)
        self.n_images = sidecar.n_images
        self.classes = sidecar.classes
        self.has_depth = sidecar.has_depth
        self.digest = sidecar.sha256
        self.description = _describe(path, sidecar)

    def _empty_batch(
        self, index: NDArray[np.int64], requests: Sequence[CropRequest], *, pin_memory: bool
    ) -> UnfilledBatch:
        return _BetonBatch(self._content, index, requests, pin_memory=pin_memory)


def _describe(path: Path, sidecar: Sidecar) -> str:
    stored = sidecar.stored
    form = "raw" if stored.format == "raw" else f"JPEG, quality {stored.jpeg_quality}"
    side = "full size" if stored.short_side_px is None else f"short side {stored.short_side_px} px"
    return f"{path}: {sidecar.n_images} images ({form}, {side})"


class _BetonBatch(UnfilledBatch):
    """One batch of a beton."""

    def __init__(
        self,
        content: BetonContent,
        index: NDArray[np.int64],
        requests: Sequence[CropRequest],
        *,
        pin_memory: bool,
    ) -> None:
        has_depth = content.depths is not None
        super().__init__(index, requests, labels=content.labels, has_depth=has_depth, pin_memory=pin_memory)
        self._content = content

    def fill(self, first: int, last: int) -> None:
        """Read images ``first`` to ``last`` of the batch; each is decoded once for all crops."""
        content = self._content
        rows = np.arange(first, last)
        index = self._index[first:last]
        locations = content.locations[index]
        heights, widths = locations[:, 1], locations[:, 2]
        axes = [
            crop_axes(request.crop, request.boxes(index, heights, widths), heights, widths)
            for request in self._requests
        ]
        is_jpeg = content.is_jpeg[index]
        raw = np.flatnonzero(~is_jpeg)
        if raw.size:
            for out, axis in zip(self._crops, axes, strict=True):
                crop_images(content.memory, locations[raw], axis[raw], rows[raw], out)
        jpegs = np.flatnonzero(is_jpeg)
        for start in range(0, len(jpegs), _JPEGS_AT_ONCE):
            part = jpegs[start : start + _JPEGS_AT_ONCE]
            pixels, decoded = self._decode(index[part], locations[part])
            for out, axis in zip(self._crops, axes, strict=True):
                crop_images(pixels, decoded, axis[part], rows[part], out)
        if self._depth is not None and content.depths is not None:
            for i, (begin, size) in enumerate(content.depths[index]):
                depth = unpack_depth(content.memory[begin : begin + size])
                location = np.array([[0, *depth.shape]])
                crop_planes(depth.reshape(-1), location, axes[0][i : i + 1], rows[i : i + 1], self._depth)

    def _decode(
        self, index: NDArray[np.int64], locations: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the pixels of JPEGs, and the location of each image in them."""
        n_pixels = locations[:, 1] * locations[:, 2] * 3
        decoded = locations.copy()
        decoded[:, 0] = np.cumsum(n_pixels) - n_pixels
        pixels = np.empty(int(n_pixels.sum()), np.uint8)
        sizes, starts = self._content.sizes[index], np.ascontiguousarray(decoded[:, 0])
        done = 0
        while done < len(index):
            files = (locations[done:], sizes[done:])
            done += decode_jpegs(self._content.memory, *files, pixels, starts[done:])
            if done < len(index):
                # The decoder also refuses what it only warns of (bytes too many, as in some files of
                # ImageNet). PIL decided in prep that an image can be read, so it decides here.
                first, n = starts[done], n_pixels[done]
                pixels[first : first + n] = self._decode_with_pil(int(index[done])).reshape(-1)
                done += 1
        # Read-only like the mapped file, so that one compiled function serves both.
        pixels.setflags(write=False)
        return pixels, decoded

    def _decode_with_pil(self, number: int) -> NDArray[np.uint8]:
        content = self._content
        begin, height, width = content.locations[number]
        stored = content.memory[begin : begin + content.sizes[number]].tobytes()
        what = f"{content.path}: image {number}"
        pixels = np.asarray(read_rgb(io.BytesIO(stored), name=what))
        if pixels.shape != (height, width, 3):
            raise DataError(
                f"{what} is a JPEG of another size; check with `mvkit prep --verify {content.path}`"
            )
        LOGGER.warning("%s: decoded with PIL, since libffcv does not accept it", what)
        return pixels
