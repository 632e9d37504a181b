"""What the loaders of betons and of image files have in common: a plan of batches, and room for one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mvkit.images.batch import RawBatch
from mvkit.images.prefetch import BatchStream
from mvkit.images.requests import CropRequest, check_plan, requests_of
from mvkit.images.settings import Crop


class BatchFilling(ABC):
    """One batch under construction; see :class:`mvkit.images.prefetch.Filling`.

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
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        requests: Sequence[CropRequest],
        *,
        labels: NDArray[np.int64] | None,
        has_depth: bool,
    ) -> None:
        self._index, self._requests, self._labels = index, requests, labels
        self._crops = [np.empty((len(index), one.side_px, one.side_px, 3), np.uint8) for one in requests]
        side_px = requests[0].side_px
        self._depth = np.empty((len(index), 1, side_px, side_px), np.float32) if has_depth else None

    @abstractmethod
    def fill(self, first: int, last: int) -> None:
        """Read images ``first`` to ``last`` of the batch; each is decoded once for all crops."""

    def finished(self) -> RawBatch:
        """Return the batch."""
        return RawBatch(
            crops=tuple(torch.from_numpy(out) for out in self._crops),
            index=torch.from_numpy(self._index.copy()),
            label=None if self._labels is None else torch.from_numpy(self._labels[self._index]),
            depth=None if self._depth is None else torch.from_numpy(self._depth),
        )


class PlannedSource(ABC):
    """Images that come in batches as planned; see :class:`mvkit.images.loading.ImageSource`."""

    n_images: int

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
        return BatchStream(lambda index: self._filling(index, requests), plan, workers=workers)

    @abstractmethod
    def _filling(self, index: NDArray[np.int64], requests: Sequence[CropRequest]) -> BatchFilling:
        """Return an empty batch of these images."""
